// Limits, what is held and given back, and the callbacks about both.
#include "check.h"

static uint64_t reserved(drystone_allocator_t *allocator, int32_t device) {
    uint64_t bytes = UINT64_MAX;
    OK(drystone_reserved(allocator, device, &bytes));
    return bytes;
}

void test_limits(void) {
    drystone_allocator_t *allocator = make("limit:256MiB", GIB, 2);
    uint64_t bytes = 1, total = 0;
    void *pointer = NULL;
    FAILS(DRYSTONE_INVALID_CONFIG, "drystone_retune: ", drystone_retune(allocator, "nonsense"));
    OK(drystone_retune(allocator, "garbage_collection_threshold:0.8"));
    OK(drystone_limit(allocator, 0, &bytes));
    CHECK(bytes == 256 * MIB);
    FAILS(DRYSTONE_OUT_OF_MEMORY, "limit 256.00 MiB",
          drystone_allocate(allocator, 300 * MIB, 0, 0, &pointer));
    OK(drystone_account(allocator, 0, 100 * MIB));
    CHECK(reserved(allocator, 0) == 100 * MIB);
    CHECK(drystone_allocate(allocator, 200 * MIB, 0, 0, &pointer) == DRYSTONE_OUT_OF_MEMORY);
    FAILS(DRYSTONE_OUT_OF_MEMORY, "200.00 MiB beside 100.00 MiB",
          drystone_account(allocator, 0, 200 * MIB));
    OK(drystone_unaccount(allocator, 0, GIB));
    CHECK(reserved(allocator, 0) == 0);
    CHECK(drystone_account(allocator, 2, 1) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_unaccount(allocator, 2, 1) == DRYSTONE_INVALID_ARGUMENT);
    OK(drystone_set_limit(allocator, 0, 0));
    OK(drystone_limit(allocator, 0, &bytes));
    CHECK(bytes == 0);
    OK(drystone_set_memory_fraction(allocator, 1, 0.5));
    OK(drystone_limit(allocator, 1, &bytes));
    CHECK(bytes == GIB / 2);
    const double fractions[] = {-0.1, 1.1, strtod("nan", NULL)};
    for (int i = 0; i < 3; i++) {
        FAILS(DRYSTONE_INVALID_ARGUMENT, "allowed are 0 to 1",
              drystone_set_memory_fraction(allocator, 0, fractions[i]));
    }

    pointer = allocate(allocator, 300 * MIB);
    CHECK(reserved(allocator, 0) >= 300 * MIB && reserved(allocator, 1) == 0);
    OK(drystone_memory_info(allocator, 0, &bytes, &total));
    CHECK(total == GIB && bytes == GIB - reserved(allocator, 0));
    OK(drystone_free(allocator, pointer));

    drystone_defragmented_t done;
    OK(drystone_defragment(allocator, 0, DRYSTONE_DEFRAGMENT_GATHER, &done));
    CHECK(done.largest_after >= 300 * MIB && done.given_back == 0);
    OK(drystone_defragment(allocator, 0, DRYSTONE_DEFRAGMENT_GATHER, NULL));
    OK(drystone_defragment(allocator, 0, DRYSTONE_DEFRAGMENT_GIVE_BACK, &done));
    CHECK(done.given_back >= 300 * MIB && done.largest_after == 0);
    CHECK(reserved(allocator, 0) == 0);
    FAILS(DRYSTONE_INVALID_ARGUMENT, "what is 2", drystone_defragment(allocator, 0, 2, &done));

    // Each of two devices, then both.
    for (int device = 0; device < 2; device++) {
        OK(drystone_allocate(allocator, 30 * MIB, device, 0, &pointer));
        OK(drystone_free(allocator, pointer));
    }
    OK(drystone_empty_cache(allocator, 1, &bytes));
    CHECK(bytes >= 30 * MIB && reserved(allocator, 1) == 0 && reserved(allocator, 0) > 0);
    OK(drystone_empty_cache(allocator, DRYSTONE_ALL_DEVICES, &bytes));
    CHECK(bytes >= 30 * MIB && reserved(allocator, 0) == 0);

    FAILS(DRYSTONE_INVALID_ARGUMENT, "no device -2", drystone_empty_cache(allocator, -2, NULL));
    CHECK(drystone_set_limit(allocator, 2, 1) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_set_memory_fraction(allocator, 2, 1.0) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_limit(allocator, 2, &bytes) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_reserved(allocator, 2, &bytes) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_memory_info(allocator, 2, &bytes, &total) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_defragment(allocator, 2, 0, NULL) == DRYSTONE_INVALID_ARGUMENT);
    OK(drystone_destroy(allocator));
}

typedef struct {
    drystone_allocator_t *allocator;
    void *spare;
    int calls;
    uint64_t watermark;
    uint64_t asked;
} watcher_t;

static void at_watermark(const drystone_pressure_t *pressure, void *user) {
    watcher_t *watcher = (watcher_t *)user;
    CHECK(pressure->struct_size == sizeof *pressure);
    CHECK(pressure->device == 0 && pressure->reserved >= pressure->watermark);
    CHECK(pressure->limit == GIB);
    watcher->watermark = pressure->watermark;
    watcher->calls++;
}

// Frees what it has, once.
static bool when_out(const drystone_out_of_memory_t *error, void *user) {
    watcher_t *watcher = (watcher_t *)user;
    CHECK(error->struct_size == sizeof *error);
    CHECK(error->device == 0 && error->stream == 4 && error->pool.a == 0 && error->pool.b == 0);
    CHECK(error->device_total == GIB && error->limit == 0 && error->spilled == 0);
    CHECK(error->live <= error->reserved && error->segment >= error->asked && !error->capturing);
    CHECK(strstr(error->message, "out of memory on device 0") != NULL);
    watcher->calls++;
    watcher->asked = error->asked;
    bool frees = watcher->spare != NULL;
    OK(drystone_free(watcher->allocator, watcher->spare));
    watcher->spare = NULL;
    return frees;
}

static void check_pressure(drystone_allocator_t *allocator) {
    watcher_t half = {allocator, NULL, 0, 0, 0}, bytes = half;
    uint64_t half_id = 0, bytes_id = 0;
    OK(drystone_on_pressure(allocator, 0, 0.5, 0, at_watermark, &half, &half_id));
    OK(drystone_on_pressure(allocator, 0, 0.0, 100 * MIB, at_watermark, &bytes, &bytes_id));
    CHECK(half_id != bytes_id);
    void *small = allocate(allocator, 200 * MIB);
    CHECK(half.calls == 0 && bytes.calls == 1 && bytes.watermark == 100 * MIB);
    void *large = allocate(allocator, 400 * MIB);
    CHECK(half.calls == 1 && bytes.calls == 1 && half.watermark == GIB / 2);
    OK(drystone_free(allocator, small));
    OK(drystone_free(allocator, large));
    OK(drystone_empty_cache(allocator, 0, NULL));
    OK(drystone_remove_callback(allocator, half_id));
    OK(drystone_free(allocator, allocate(allocator, 600 * MIB)));
    CHECK(half.calls == 1 && bytes.calls == 2);
    OK(drystone_remove_callback(allocator, bytes_id));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "there is no callback",
          drystone_remove_callback(allocator, bytes_id));

    const struct {
        double fraction;
        uint64_t bytes;
    } wrong[] = {{0.0, 0}, {0.5, 1}, {1.5, 0}, {-0.5, 0}, {-0.5, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        FAILS(DRYSTONE_INVALID_ARGUMENT, "one of them is 0",
              drystone_on_pressure(allocator, 0, wrong[i].fraction, wrong[i].bytes, at_watermark,
                                   &half, &half_id));
    }
    CHECK(drystone_on_pressure(allocator, 1, 0.5, 0, at_watermark, &half, &half_id) ==
          DRYSTONE_INVALID_ARGUMENT);
}

static void check_out_of_memory(drystone_allocator_t *allocator) {
    void *pointer = NULL;
    uint64_t id = 0;
    watcher_t watcher = {allocator, allocate(allocator, 700 * MIB), 0, 0, 0};
    OK(drystone_on_out_of_memory(allocator, when_out, &watcher, &id));
    OK(drystone_allocate(allocator, 800 * MIB, 0, 4, &pointer));
    CHECK(watcher.calls == 1 && watcher.asked == 800 * MIB);
    // It has no more to free: the request fails.
    void *none = (void *)1;
    CHECK(drystone_allocate(allocator, 900 * MIB, 0, 4, &none) == DRYSTONE_OUT_OF_MEMORY);
    CHECK(watcher.calls == 2 && none == NULL);
    OK(drystone_remove_callback(allocator, id));
    CHECK(drystone_allocate(allocator, 900 * MIB, 0, 4, &none) == DRYSTONE_OUT_OF_MEMORY);
    CHECK(watcher.calls == 2);
    OK(drystone_free(allocator, pointer));
}

void test_callbacks(void) {
    drystone_allocator_t *allocator = make("", GIB, 1);
    check_pressure(allocator);
    check_out_of_memory(allocator);
    OK(drystone_destroy(allocator));
}
