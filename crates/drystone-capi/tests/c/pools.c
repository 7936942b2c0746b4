// Private pools: which requests they serve, how they are held, what they refuse.
#include "check.h"

static bool only(drystone_stream_t stream, void *user) {
    return stream == *(const drystone_stream_t *)user;
}

static uint64_t in_pool(drystone_allocator_t *allocator, drystone_pool_t pool) {
    drystone_stats_t stats;
    stats.struct_size = sizeof stats;
    OK(drystone_pool_stats(allocator, 0, pool, &stats));
    return stats.figures[DRYSTONE_ALLOCATION][DRYSTONE_ALL].current;
}

static void check_names(void) {
    drystone_pool_t first, second;
    OK(drystone_new_pool_id(&first));
    OK(drystone_new_pool_id(&second));
    CHECK(first.a != 0 && first.a == second.a && first.b != second.b);
}

static void check_routing(drystone_allocator_t *allocator) {
    drystone_pool_t pool;
    drystone_stream_t wanted = 7;
    void *other = NULL, *mine = NULL, *all = NULL;
    OK(drystone_new_pool_id(&pool));
    OK(drystone_begin_pool(allocator, 0, pool, DRYSTONE_PURPOSE_USER, only, &wanted));
    OK(drystone_allocate(allocator, 4096, 0, 8, &other));
    CHECK(in_pool(allocator, pool) == 0);
    OK(drystone_allocate(allocator, 4096, 0, 7, &mine));
    CHECK(in_pool(allocator, pool) == 1);
    FAILS(DRYSTONE_POOL_ERROR, "has begun already",
          drystone_begin_pool(allocator, 0, pool, DRYSTONE_PURPOSE_USER, NULL, NULL));
    OK(drystone_end_pool(allocator, 0, pool));
    FAILS(DRYSTONE_POOL_ERROR, "has not begun", drystone_end_pool(allocator, 0, pool));

    OK(drystone_begin_pool(allocator, 0, pool, DRYSTONE_PURPOSE_USER, NULL, NULL));
    OK(drystone_allocate(allocator, 4096, 0, 8, &all));
    CHECK(in_pool(allocator, pool) == 2);
    OK(drystone_end_pool(allocator, 0, pool));

    // Begun twice, so held twice.
    uint32_t uses = 0;
    OK(drystone_pool_use_count(allocator, 0, pool, &uses));
    CHECK(uses == 2);
    OK(drystone_retain_pool(allocator, 0, pool));
    OK(drystone_pool_use_count(allocator, 0, pool, &uses));
    CHECK(uses == 3);
    OK(drystone_free(allocator, mine));
    OK(drystone_free(allocator, all));
    uint64_t released = 0;
    OK(drystone_empty_pool(allocator, 0, pool, &released));
    CHECK(released >= 2 * MIB);
    OK(drystone_empty_pool(allocator, 0, pool, NULL));
    for (int i = 0; i < 3; i++) {
        OK(drystone_release_pool(allocator, 0, pool));
    }
    FAILS(DRYSTONE_POOL_ERROR, "there is no pool",
          drystone_pool_use_count(allocator, 0, pool, &uses));
    CHECK(drystone_release_pool(allocator, 0, pool) == DRYSTONE_POOL_ERROR);
    OK(drystone_free(allocator, other));
}

static void check_capture(drystone_allocator_t *allocator) {
    drystone_pool_t pool;
    void *pointer = NULL;
    OK(drystone_new_pool_id(&pool));
    OK(drystone_begin_pool(allocator, 0, pool, DRYSTONE_PURPOSE_CAPTURE, NULL, NULL));
    OK(drystone_allocate(allocator, MIB, 0, 3, &pointer));
    FAILS(DRYSTONE_DRIVER_ERROR, "capture is underway", drystone_stream_ends(allocator, 0, 3));
    OK(drystone_free(allocator, pointer));
    OK(drystone_end_pool(allocator, 0, pool));
    FAILS(DRYSTONE_POOL_ERROR, "captured graph", drystone_empty_pool(allocator, 0, pool, NULL));
    OK(drystone_release_pool(allocator, 0, pool));
}

static void check_refusals(drystone_allocator_t *allocator) {
    const drystone_pool_t standard = {0, 0}, unknown = {5, 5};
    drystone_stats_t stats;
    uint32_t uses = 0;
    FAILS(DRYSTONE_POOL_ERROR, "the default pool",
          drystone_begin_pool(allocator, 0, standard, DRYSTONE_PURPOSE_USER, NULL, NULL));
    CHECK(drystone_end_pool(allocator, 0, standard) == DRYSTONE_POOL_ERROR);
    CHECK(drystone_retain_pool(allocator, 0, standard) == DRYSTONE_POOL_ERROR);
    CHECK(drystone_release_pool(allocator, 0, standard) == DRYSTONE_POOL_ERROR);
    CHECK(drystone_empty_pool(allocator, 0, unknown, NULL) == DRYSTONE_POOL_ERROR);
    stats.struct_size = sizeof stats;
    CHECK(drystone_pool_stats(allocator, 0, unknown, &stats) == DRYSTONE_POOL_ERROR);
    FAILS(DRYSTONE_INVALID_ARGUMENT, "purpose is 2",
          drystone_begin_pool(allocator, 0, unknown, 2, NULL, NULL));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "no device 1",
          drystone_begin_pool(allocator, 1, unknown, DRYSTONE_PURPOSE_USER, NULL, NULL));
    CHECK(drystone_end_pool(allocator, 1, unknown) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_retain_pool(allocator, 1, unknown) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_release_pool(allocator, 1, unknown) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_empty_pool(allocator, 1, unknown, NULL) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_pool_use_count(allocator, 1, unknown, &uses) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_pool_stats(allocator, 1, unknown, &stats) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_set_use_on_oom(allocator, 0, unknown, true) == DRYSTONE_POOL_ERROR);
    CHECK(drystone_set_unsplit(allocator, 0, standard) == DRYSTONE_POOL_ERROR);
    CHECK(drystone_set_unsplit(allocator, 1, unknown) == DRYSTONE_INVALID_ARGUMENT);
}

static void check_use_on_oom(drystone_allocator_t *allocator) {
    drystone_pool_t pool;
    void *pooled = NULL, *other = NULL;
    OK(drystone_new_pool_id(&pool));
    OK(drystone_begin_pool(allocator, 0, pool, DRYSTONE_PURPOSE_USER, NULL, NULL));
    OK(drystone_allocate(allocator, 700 * MIB, 0, 0, &pooled));
    OK(drystone_end_pool(allocator, 0, pool));
    OK(drystone_free(allocator, pooled));
    CHECK(drystone_allocate(allocator, 600 * MIB, 0, 0, &other) == DRYSTONE_OUT_OF_MEMORY);
    OK(drystone_set_use_on_oom(allocator, 0, pool, true));
    OK(drystone_allocate(allocator, 600 * MIB, 0, 0, &other));
    CHECK(other == pooled && in_pool(allocator, pool) == 1);
    OK(drystone_free(allocator, other));
    OK(drystone_set_use_on_oom(allocator, 0, pool, false));
    CHECK(drystone_allocate(allocator, 600 * MIB, 0, 0, &other) == DRYSTONE_OUT_OF_MEMORY);
    OK(drystone_release_pool(allocator, 0, pool));
}

static void check_unsplit(drystone_allocator_t *allocator) {
    drystone_pool_t pool;
    drystone_block_t block;
    void *pointer = NULL;
    OK(drystone_new_pool_id(&pool));
    OK(drystone_begin_pool(allocator, 0, pool, DRYSTONE_PURPOSE_USER, NULL, NULL));
    OK(drystone_set_unsplit(allocator, 0, pool));
    OK(drystone_allocate(allocator, 3 * MIB, 0, 0, &pointer));
    OK(drystone_end_pool(allocator, 0, pool));
    OK(drystone_block(allocator, pointer, &block));
    CHECK(block.size == 4 * MIB && block.requested == 3 * MIB);
    OK(drystone_free(allocator, pointer));
    OK(drystone_release_pool(allocator, 0, pool));
}

void test_pools(void) {
    drystone_allocator_t *allocator = make("", GIB, 1);
    check_names();
    check_routing(allocator);
    check_capture(allocator);
    check_refusals(allocator);
    check_use_on_oom(allocator);
    check_unsplit(allocator);
    OK(drystone_destroy(allocator));
}
