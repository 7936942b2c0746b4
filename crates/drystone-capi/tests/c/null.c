// Every pointer that may not be NULL, in every function: an error that names it, and no crash.
#include "check.h"

#define REFUSES(argument, call) FAILS(DRYSTONE_INVALID_ARGUMENT, argument " is NULL", call)

static void no_allocator(void) {
    const drystone_pool_t pool = {1, 1};
    drystone_allocator_t *none = NULL;
    drystone_block_t block;
    drystone_stats_t stats;
    drystone_text_t *text = NULL;
    void *pointer = (void *)1;
    uint64_t number = 0;
    uint32_t count = 0;
    stats.struct_size = sizeof stats;
    REFUSES("allocator", drystone_allocate(none, 1, 0, 0, &pointer));
    CHECK(pointer == NULL);
    REFUSES("allocator", drystone_allocate_aligned(none, 1, 512, 0, 0, &pointer));
    REFUSES("allocator", drystone_allocate_at(none, &pointer, 512, 0, pool));
    REFUSES("allocator", drystone_free(none, NULL));
    REFUSES("allocator", drystone_free_on(none, NULL, 0, 0));
    REFUSES("allocator", drystone_record_stream(none, NULL, 0));
    REFUSES("allocator", drystone_stream_ends(none, 0, 0));
    REFUSES("allocator", drystone_block(none, &pointer, &block));
    REFUSES("allocator", drystone_pin(none, NULL));
    REFUSES("allocator", drystone_unpin(none, NULL));
    REFUSES("allocator", drystone_begin_pool(none, 0, pool, DRYSTONE_PURPOSE_USER, NULL, NULL));
    REFUSES("allocator", drystone_end_pool(none, 0, pool));
    REFUSES("allocator", drystone_retain_pool(none, 0, pool));
    REFUSES("allocator", drystone_release_pool(none, 0, pool));
    REFUSES("allocator", drystone_empty_pool(none, 0, pool, NULL));
    REFUSES("allocator", drystone_pool_use_count(none, 0, pool, &count));
    REFUSES("allocator", drystone_set_use_on_oom(none, 0, pool, true));
    REFUSES("allocator", drystone_set_unsplit(none, 0, pool));
    REFUSES("allocator", drystone_retune(none, ""));
    REFUSES("allocator", drystone_account(none, 0, 1));
    REFUSES("allocator", drystone_unaccount(none, 0, 1));
    REFUSES("allocator", drystone_device_count(none, &count));
    REFUSES("allocator", drystone_empty_cache(none, 0, NULL));
    REFUSES("allocator", drystone_defragment(none, 0, 0, NULL));
    REFUSES("allocator", drystone_set_limit(none, 0, 0));
    REFUSES("allocator", drystone_set_memory_fraction(none, 0, 1.0));
    REFUSES("allocator", drystone_limit(none, 0, &number));
    REFUSES("allocator", drystone_reserved(none, 0, &number));
    REFUSES("allocator", drystone_memory_info(none, 0, &number, &number));
    REFUSES("allocator", drystone_on_pressure(none, 0, 0.5, 0, NULL, NULL, &number));
    REFUSES("allocator", drystone_on_out_of_memory(none, NULL, NULL, &number));
    REFUSES("allocator", drystone_remove_callback(none, 1));
    REFUSES("allocator", drystone_stats(none, 0, &stats));
    REFUSES("allocator", drystone_pool_stats(none, 0, pool, &stats));
    REFUSES("allocator", drystone_stats_json(none, 0, &text));
    REFUSES("allocator", drystone_reset_peak_stats(none, 0));
    REFUSES("allocator", drystone_reset_accumulated_stats(none, 0));
    REFUSES("allocator", drystone_history_set(none, 1));
    REFUSES("allocator", drystone_visit_history(none, 0, NULL, NULL, NULL));
    REFUSES("allocator", drystone_clock_ns(none, &number));
    REFUSES("allocator", drystone_visit_segments(none, NULL, NULL));
    REFUSES("allocator", drystone_snapshot(none, DRYSTONE_FORMAT_JSON, &text));
    REFUSES("allocator", drystone_trace(none, 0, &text));
    REFUSES("allocator", drystone_config_text(none, &text));
    REFUSES("allocator", drystone_enable_peer_access(none, 0, 1));
    REFUSES("allocator", drystone_allow_export(none));
    REFUSES("allocator", drystone_export(none, &count, NULL, NULL, &number));
    REFUSES("allocator", drystone_import(none, 0, NULL, 0, &pointer));
    REFUSES("allocator", drystone_end_import(none, NULL));
}

static void ignore_pressure(const drystone_pressure_t *pressure, void *user) {
    (void)pressure;
    (void)user;
}

static bool ignore_out_of_memory(const drystone_out_of_memory_t *error, void *user) {
    (void)error;
    return user != NULL;
}

static void ignore_handle(const drystone_shared_handle_t *handle, void *user) {
    (void)handle;
    (void)user;
}

static void nowhere_to_write(void) {
    const drystone_pool_t pool = {1, 1};
    drystone_allocator_t *allocator = make("", GIB, 1);
    void *held = allocate(allocator, 512), *pointer = held;
    uint64_t number = 0;
    REFUSES("config", drystone_config_init(NULL));
    REFUSES("out", drystone_create(NULL, NULL));
    REFUSES("out", drystone_process_allocator(NULL));
    REFUSES("out", drystone_new_pool_id(NULL));
    REFUSES("out", drystone_allocate(allocator, 1, 0, 0, NULL));
    REFUSES("out", drystone_allocate_aligned(allocator, 1, 512, 0, 0, NULL));
    REFUSES("out", drystone_block(allocator, pointer, NULL));
    OK(drystone_retain_pool(allocator, 0, pool));
    REFUSES("out", drystone_pool_use_count(allocator, 0, pool, NULL));
    REFUSES("out", drystone_pool_stats(allocator, 0, pool, NULL));
    OK(drystone_release_pool(allocator, 0, pool));
    REFUSES("out", drystone_device_count(allocator, NULL));
    REFUSES("out", drystone_limit(allocator, 0, NULL));
    REFUSES("out", drystone_reserved(allocator, 0, NULL));
    REFUSES("free", drystone_memory_info(allocator, 0, NULL, &number));
    REFUSES("total", drystone_memory_info(allocator, 0, &number, NULL));
    REFUSES("callback", drystone_on_pressure(allocator, 0, 0.5, 0, NULL, NULL, &number));
    REFUSES("id", drystone_on_pressure(allocator, 0, 0.5, 0, ignore_pressure, NULL, NULL));
    REFUSES("callback", drystone_on_out_of_memory(allocator, NULL, NULL, &number));
    REFUSES("id", drystone_on_out_of_memory(allocator, ignore_out_of_memory, NULL, NULL));
    REFUSES("out", drystone_stats(allocator, 0, NULL));
    REFUSES("out", drystone_stats_json(allocator, 0, NULL));
    REFUSES("visit", drystone_visit_history(allocator, 0, NULL, NULL, NULL));
    REFUSES("out", drystone_clock_ns(allocator, NULL));
    REFUSES("visit", drystone_visit_segments(allocator, NULL, NULL));
    REFUSES("out", drystone_snapshot(allocator, DRYSTONE_FORMAT_JSON, NULL));
    REFUSES("out", drystone_trace(allocator, 0, NULL));
    REFUSES("out", drystone_config_text(allocator, NULL));
    REFUSES("visit", drystone_export(allocator, pointer, NULL, NULL, &number));
    REFUSES("offset", drystone_export(allocator, pointer, ignore_handle, NULL, NULL));
    REFUSES("out", drystone_import(allocator, 0, NULL, 1, NULL));
    REFUSES("handles", drystone_import(allocator, 0, NULL, 1, &pointer));
    CHECK(pointer == NULL);
    pointer = held;
    // Nothing of this took or lost anything.
    drystone_stats_t stats;
    stats.struct_size = sizeof stats;
    OK(drystone_stats(allocator, 0, &stats));
    CHECK(stats.figures[DRYSTONE_ALLOCATION][DRYSTONE_ALL].current == 1);
    OK(drystone_free(allocator, pointer));
    OK(drystone_destroy(allocator));
}

void test_null(void) {
    no_allocator();
    nowhere_to_write();
}
