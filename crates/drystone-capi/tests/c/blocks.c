// What is said of a block: streams, pins, its range.
#include "check.h"

static void check_range(drystone_allocator_t *allocator) {
    void *pointer = allocate(allocator, 3000);
    const uint64_t places[] = {0, 1, 2999, 3071};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        drystone_block_t block = {0, 0, 0};
        OK(drystone_block(allocator, behind(pointer, places[i]), &block));
        CHECK(block.address == (uintptr_t)pointer);
        CHECK(block.size == 3072 && block.requested == 3000);
    }
    drystone_block_t block = {1, 2, 3};
    CHECK(drystone_block(allocator, behind(pointer, 3072), &block) == DRYSTONE_INVALID_POINTER);
    OK(drystone_free(allocator, pointer));
    FAILS(DRYSTONE_INVALID_POINTER, "not allocated", drystone_block(allocator, pointer, &block));
    FAILS(DRYSTONE_INVALID_POINTER, "NULL is in no block", drystone_block(allocator, NULL, &block));
    CHECK(block.address == 1 && block.size == 2 && block.requested == 3);
}

static void check_streams(drystone_allocator_t *allocator) {
    void *pointer = allocate(allocator, MIB);
    OK(drystone_record_stream(allocator, pointer, 9));
    OK(drystone_record_stream(allocator, NULL, 9));
    FAILS(DRYSTONE_INVALID_POINTER, "inside the block",
          drystone_record_stream(allocator, behind(pointer, 512), 9));
    // What it was recorded on is a stream that may free it.
    OK(drystone_free_on(allocator, pointer, 0, 9));
    FAILS(DRYSTONE_INVALID_POINTER, "freed before", drystone_record_stream(allocator, pointer, 9));
    OK(drystone_stream_ends(allocator, 0, 9));
    OK(drystone_stream_ends(allocator, 0, 12345));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "no device 4", drystone_stream_ends(allocator, 4, 9));
}

static void check_pins(drystone_allocator_t *allocator) {
    uint64_t released = 1;
    OK(drystone_empty_cache(allocator, 0, NULL));
    void *pointer = allocate(allocator, 8 * MIB);
    OK(drystone_pin(allocator, pointer));
    OK(drystone_pin(allocator, NULL));
    OK(drystone_free(allocator, pointer));
    OK(drystone_empty_cache(allocator, 0, &released));
    CHECK(released == 0);
    OK(drystone_unpin(allocator, pointer));
    OK(drystone_unpin(allocator, NULL));
    FAILS(DRYSTONE_INVALID_POINTER, "not pinned", drystone_unpin(allocator, pointer));
    FAILS(DRYSTONE_INVALID_POINTER, "freed before", drystone_pin(allocator, pointer));
    OK(drystone_empty_cache(allocator, DRYSTONE_ALL_DEVICES, &released));
    CHECK(released >= 8 * MIB);
}

void test_blocks(void) {
    drystone_allocator_t *allocator = make("", GIB, 1);
    check_range(allocator);
    check_streams(allocator);
    check_pins(allocator);
    OK(drystone_destroy(allocator));
}
