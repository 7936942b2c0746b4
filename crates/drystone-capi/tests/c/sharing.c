// Memory that other devices and other processes use.
#include "check.h"

typedef struct {
    drystone_shared_handle_t handles[8];
    size_t count;
} shared_t;

static void keep(const drystone_shared_handle_t *handle, void *user) {
    shared_t *shared = (shared_t *)user;
    CHECK(shared->count < 8);
    shared->handles[shared->count++] = *handle;
}

void test_sharing(void) {
    drystone_allocator_t *allocator = make("", GIB, 2);
    shared_t shared;
    uint64_t offset = UINT64_MAX;
    void *mapped = NULL;
    memset(&shared, 0, sizeof shared);

    // Memory from before cannot be shared.
    void *before = allocate(allocator, 4 * MIB);
    FAILS(DRYSTONE_NOT_SUPPORTED, "drystone_export: ",
          drystone_export(allocator, before, keep, &shared, &offset));
    OK(drystone_free(allocator, before));
    OK(drystone_empty_cache(allocator, 0, NULL));

    OK(drystone_allow_export(allocator));
    void *pointer = allocate(allocator, 5 * MIB);
    OK(drystone_export(allocator, behind(pointer, 100), keep, &shared, &offset));
    uint64_t bytes = 0;
    for (size_t i = 0; i < shared.count; i++) {
        bytes += shared.handles[i].bytes;
    }
    CHECK(offset % 512 == 100 && bytes >= offset - 100 + 5 * MIB);
    OK(drystone_import(allocator, 0, shared.handles, shared.count, &mapped));
    CHECK(mapped != NULL && mapped != pointer);
    OK(drystone_end_import(allocator, mapped));
    CHECK(drystone_end_import(allocator, mapped) != DRYSTONE_OK);
    FAILS(DRYSTONE_INVALID_ARGUMENT, "count is 0",
          drystone_import(allocator, 0, shared.handles, 0, &mapped));
    CHECK(mapped == NULL);
    CHECK(drystone_import(allocator, 2, shared.handles, shared.count, &mapped) ==
          DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_export(allocator, &offset, keep, &shared, &offset) == DRYSTONE_INVALID_POINTER);

    OK(drystone_enable_peer_access(allocator, 0, 1));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "no device 2", drystone_enable_peer_access(allocator, 0, 2));
    OK(drystone_free(allocator, pointer));
    OK(drystone_destroy(allocator));
}
