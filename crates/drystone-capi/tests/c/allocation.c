// Allocate and free: what they give, what they refuse, and what they say then.
#include "check.h"

static void check_requests(drystone_allocator_t *allocator) {
    void *pointer = (void *)1;
    OK(drystone_allocate(allocator, 0, 0, 0, &pointer));
    CHECK(pointer == NULL);
    OK(drystone_free(allocator, pointer));
    OK(drystone_free_on(allocator, NULL, 0, 0));

    OK(drystone_allocate(allocator, 1, 1, 7, &pointer));
    CHECK((uintptr_t)pointer % 512 == 0);
    OK(drystone_free(allocator, pointer));
    void *again = NULL;
    OK(drystone_allocate(allocator, 512, 1, 7, &again));
    CHECK(again == pointer);
    OK(drystone_free_on(allocator, again, 1, 7));

    OK(drystone_allocate_aligned(allocator, 100, 1 << 16, 0, 0, &pointer));
    CHECK((uintptr_t)pointer % (1 << 16) == 0);
    OK(drystone_free(allocator, pointer));
    OK(drystone_allocate_aligned(allocator, 0, 1, 0, 0, &pointer));
    CHECK(pointer == NULL);
}

static void check_refusals(drystone_allocator_t *allocator) {
    void *pointer = (void *)1;
    FAILS(DRYSTONE_INVALID_ARGUMENT, "there is no device 2: the driver has 2, numbered from 0",
          drystone_allocate(allocator, 1, 2, 0, &pointer));
    CHECK(pointer == NULL);
    FAILS(DRYSTONE_INVALID_ARGUMENT, "device -1", drystone_allocate(allocator, 1, -1, 0, &pointer));
    pointer = (void *)1;
    FAILS(DRYSTONE_INVALID_ARGUMENT, "power of two",
          drystone_allocate_aligned(allocator, 1, 3, 0, 0, &pointer));
    CHECK(pointer == NULL);
    FAILS(DRYSTONE_INVALID_ARGUMENT, "at most 1.00 GiB",
          drystone_allocate_aligned(allocator, 1, 2 * GIB, 0, 0, &pointer));
    FAILS(DRYSTONE_OUT_OF_MEMORY, "at most", drystone_allocate(allocator, SIZE_MAX, 0, 0, &pointer));

    pointer = (void *)1;
    FAILS(DRYSTONE_OUT_OF_MEMORY, "out of memory on device 1: asked for 2.00 GiB",
          drystone_allocate(allocator, 2 * GIB, 1, 0, &pointer));
    CHECK(pointer == NULL);
    // The words of a failure stay while calls succeed.
    OK(drystone_free(allocator, allocate(allocator, MIB)));
    CHECK(strstr(drystone_last_error(), "out of memory") != NULL);
}

static void check_pointers(drystone_allocator_t *allocator) {
    int on_the_host = 0;
    FAILS(DRYSTONE_INVALID_POINTER, "not this allocator's", drystone_free(allocator, &on_the_host));
    void *pointer = allocate(allocator, 4096);
    FAILS(DRYSTONE_INVALID_POINTER, "give the block's own address",
          drystone_free(allocator, behind(pointer, 8)));
    FAILS(DRYSTONE_INVALID_POINTER, "not on device 1", drystone_free_on(allocator, pointer, 1, 0));
    FAILS(DRYSTONE_INVALID_POINTER, "not on stream", drystone_free_on(allocator, pointer, 0, 5));
    OK(drystone_free(allocator, pointer));
    FAILS(DRYSTONE_INVALID_POINTER, "freed before", drystone_free(allocator, pointer));

    // Another allocator's memory is not this one's.
    drystone_allocator_t *other = make("", GIB, 1);
    void *held = allocate(allocator, 30 * MIB);
    CHECK(drystone_free(other, held) == DRYSTONE_INVALID_POINTER);
    OK(drystone_free(allocator, held));
    OK(drystone_destroy(other));
}

// A request for certain bytes: as after a graph's blocks were all freed.
static void check_certain_places(drystone_allocator_t *allocator) {
    const drystone_pool_t standard = {0, 0}, unknown = {1, 2};
    void *pointer = allocate(allocator, 8 * MIB);
    FAILS(DRYSTONE_INVALID_ARGUMENT, "are not free",
          drystone_allocate_at(allocator, pointer, 8 * MIB, 0, standard));
    OK(drystone_free(allocator, pointer));
    CHECK(drystone_allocate_at(allocator, pointer, 8 * MIB, 0, unknown) == DRYSTONE_INVALID_ARGUMENT);
    void *inside = behind(pointer, 2 * MIB);
    OK(drystone_allocate_at(allocator, inside, 4 * MIB, 0, standard));
    drystone_block_t block;
    OK(drystone_block(allocator, inside, &block));
    CHECK(block.address == (uintptr_t)inside && block.requested == 4 * MIB);
    OK(drystone_free(allocator, inside));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "no device 9",
          drystone_allocate_at(allocator, inside, 4 * MIB, 9, standard));
}

void test_allocation(void) {
    const char *const backings[] = {"", "backing:malloc"};
    for (int i = 0; i < 2; i++) {
        drystone_allocator_t *allocator = make(backings[i], GIB, 2);
        check_requests(allocator);
        check_refusals(allocator);
        check_pointers(allocator);
        check_certain_places(allocator);
        OK(drystone_destroy(allocator));
    }
}
