// Statistics, snapshots and the history.
#include "check.h"

// A struct of a later version: this library does not know its last field.
typedef struct {
    drystone_stats_t known;
    uint64_t later;
} later_stats_t;

static drystone_stats_t stats_of(drystone_allocator_t *allocator) {
    drystone_stats_t stats;
    stats.struct_size = sizeof stats;
    OK(drystone_stats(allocator, 0, &stats));
    CHECK(stats.struct_size == sizeof stats);
    return stats;
}

static void check_figures(drystone_allocator_t *allocator) {
    void *small = allocate(allocator, 1000), *large = allocate(allocator, 3 * MIB);
    drystone_stats_t stats = stats_of(allocator);
    CHECK(stats.figures[DRYSTONE_ALLOCATION][DRYSTONE_ALL].current == 2);
    CHECK(stats.figures[DRYSTONE_ALLOCATION][DRYSTONE_SMALL].current == 1);
    CHECK(stats.figures[DRYSTONE_ALLOCATED_BYTES][DRYSTONE_SMALL].current == 1024);
    CHECK(stats.figures[DRYSTONE_REQUESTED_BYTES][DRYSTONE_SMALL].current == 1000);
    CHECK(stats.figures[DRYSTONE_ALLOCATED_BYTES][DRYSTONE_LARGE].current == 3 * MIB);
    CHECK(stats.figures[DRYSTONE_ACTIVE][DRYSTONE_ALL].current == 2);
    CHECK(stats.figures[DRYSTONE_ACTIVE_BYTES][DRYSTONE_ALL].current == 3 * MIB + 1024);
    CHECK(stats.figures[DRYSTONE_SEGMENT][DRYSTONE_ALL].current >= 2);
    CHECK(stats.num_device_alloc > 0 && stats.driver_calls > 0 && stats.driver_ns > 0);
    uint64_t bytes = 0;
    OK(drystone_reserved(allocator, 0, &bytes));
    CHECK(stats.figures[DRYSTONE_RESERVED_BYTES][DRYSTONE_ALL].current == bytes);
    OK(drystone_free(allocator, small));
    OK(drystone_free(allocator, large));

    stats = stats_of(allocator);
    drystone_stat_t stat = stats.figures[DRYSTONE_ALLOCATION][DRYSTONE_ALL];
    CHECK(stat.current == 0 && stat.peak == 2 && stat.allocated == 2 && stat.freed == 2);
    OK(drystone_reset_peak_stats(allocator, 0));
    OK(drystone_reset_accumulated_stats(allocator, 0));
    stat = stats_of(allocator).figures[DRYSTONE_ALLOCATION][DRYSTONE_ALL];
    CHECK(stat.current == 0 && stat.peak == 0 && stat.allocated == 0 && stat.freed == 0);
    CHECK(drystone_reset_peak_stats(allocator, 1) == DRYSTONE_INVALID_ARGUMENT);
    CHECK(drystone_reset_accumulated_stats(allocator, 1) == DRYSTONE_INVALID_ARGUMENT);
}

static void check_struct_size(drystone_allocator_t *allocator) {
    later_stats_t later;
    memset(&later, 0xff, sizeof later);
    later.known.struct_size = sizeof later;
    OK(drystone_stats(allocator, 0, &later.known));
    CHECK(later.later == 0 && later.known.struct_size == sizeof later);

    // An older program: nothing behind the end of its struct is written.
    drystone_stats_t older;
    memset(&older, 0xff, sizeof older);
    older.struct_size = offsetof(drystone_stats_t, num_alloc_retries);
    OK(drystone_stats(allocator, 0, &older));
    CHECK(older.oversize_segments.freed == 0);
    CHECK(older.num_alloc_retries == UINT64_MAX && older.driver_wait_ns == UINT64_MAX);

    const size_t sizes[] = {0, 8, 13, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        older.struct_size = sizes[i];
        FAILS(DRYSTONE_BUFFER_TOO_SMALL, "sizeof(drystone_stats_t)",
              drystone_stats(allocator, 0, &older));
    }
    older.struct_size = sizeof older;
    CHECK(drystone_stats(allocator, 1, &older) == DRYSTONE_INVALID_ARGUMENT);
}

// The text contains these words; frees it.
static void check_text(drystone_text_t *text, const char *words) {
    CHECK(text != NULL && drystone_text_size(text) == strlen(drystone_text_data(text)));
    CHECK(strstr(drystone_text_data(text), words) != NULL);
    OK(drystone_text_free(text));
}

void test_statistics(void) {
    drystone_allocator_t *allocator = make("max_split_size_mb:40", GIB, 1);
    drystone_text_t *text = NULL;
    CHECK(stats_of(allocator).max_split_size == 40 * MIB);
    check_figures(allocator);
    check_struct_size(allocator);
    void *pointer = allocate(allocator, 50 * MIB);
    CHECK(stats_of(allocator).oversize_allocations.current == 1);
    OK(drystone_stats_json(allocator, 0, &text));
    check_text(text, "\"allocated_bytes.large_pool.current\":52428800,");
    OK(drystone_stats_json(allocator, 0, &text));
    check_text(text, "\"max_split_size\":41943040,");
    FAILS(DRYSTONE_INVALID_ARGUMENT, "no device 1", drystone_stats_json(allocator, 1, &text));
    CHECK(text == NULL);
    OK(drystone_free(allocator, pointer));
    OK(drystone_destroy(allocator));
}

typedef struct {
    uint64_t segments, bytes, live, large, mapped;
} seen_t;

static void see(const drystone_segment_t *segment, void *user) {
    seen_t *seen = (seen_t *)user;
    uint64_t next = segment->address;
    for (size_t i = 0; i < segment->block_count; i++) {
        const drystone_segment_block_t *block = &segment->blocks[i];
        CHECK(block->address == next);
        CHECK(block->state == DRYSTONE_INACTIVE || block->state == DRYSTONE_ACTIVE_ALLOCATED);
        next += block->size;
        seen->live += block->requested;
    }
    CHECK(next == segment->address + segment->size);
    CHECK(segment->device == 0 && segment->stream == 0 && !segment->spilled);
    CHECK(segment->pool.a == 0 && segment->pool.b == 0);
    seen->segments++;
    seen->bytes += segment->size;
    seen->large += segment->large;
    seen->mapped += segment->mapped;
}

void test_snapshots(void) {
    const char *const backings[] = {"backing:vmm,history:100", "backing:malloc,history:100"};
    for (int i = 0; i < 2; i++) {
        drystone_allocator_t *allocator = make(backings[i], GIB, 1);
        void *small = allocate(allocator, 1000), *large = allocate(allocator, 3 * MIB);
        seen_t seen = {0, 0, 0, 0, 0};
        uint64_t bytes = 0;
        OK(drystone_visit_segments(allocator, see, &seen));
        OK(drystone_reserved(allocator, 0, &bytes));
        CHECK(seen.segments == 2 && seen.large == 1 && seen.bytes == bytes);
        CHECK(seen.live == 1000 + 3 * MIB);
        CHECK(seen.mapped == (i == 0 ? 2 : 0));

        drystone_text_t *text = NULL;
        OK(drystone_snapshot(allocator, DRYSTONE_FORMAT_JSON, &text));
        CHECK(strstr(drystone_text_data(text), "{\"segments\":[{\"device\":0,") != NULL);
        CHECK(strstr(drystone_text_data(text), "{\"action\":\"alloc\",") != NULL);
        CHECK((strstr(drystone_text_data(text), "\"is_expandable\":true") != NULL) == (i == 0));
        check_text(text, "\"external_annotations\":[]}");
        OK(drystone_snapshot(allocator, DRYSTONE_FORMAT_PICKLE, &text));
        CHECK(memcmp(drystone_text_data(text), "\x80\x04}", 3) == 0);
        CHECK(drystone_text_data(text)[drystone_text_size(text) - 1] == '.');
        OK(drystone_text_free(text));
        FAILS(DRYSTONE_INVALID_ARGUMENT, "format is 2", drystone_snapshot(allocator, 2, &text));
        CHECK(text == NULL);

        OK(drystone_free(allocator, small));
        OK(drystone_free(allocator, large));
        OK(drystone_trace(allocator, 0, &text));
        CHECK(strstr(drystone_text_data(text), "t_us,op,id,size,stream\n") == drystone_text_data(text));
        check_text(text, ",c,1,3145728,0\n");
        CHECK(drystone_trace(allocator, 1, &text) == DRYSTONE_INVALID_ARGUMENT);
        OK(drystone_destroy(allocator));
    }
}

typedef struct {
    int32_t actions[16];
    uint64_t time_ns;
    size_t count;
} log_t;

static void keep(const drystone_event_t *event, void *user) {
    log_t *log = (log_t *)user;
    CHECK(log->count < 16 && event->time_ns >= log->time_ns);
    CHECK(event->device == 0 && event->stream == 0 && event->pool.a == 0 && event->pool.b == 0);
    CHECK(event->address != 0 && event->size != 0);
    log->time_ns = event->time_ns;
    log->actions[log->count++] = event->action;
}

void test_history(void) {
    drystone_allocator_t *allocator = make("", GIB, 1);
    log_t log;
    uint64_t next = 1, now = 0;
    memset(&log, 0, sizeof log);
    OK(drystone_free(allocator, allocate(allocator, MIB)));
    OK(drystone_visit_history(allocator, 0, keep, &log, &next));
    CHECK(log.count == 0 && next == 0);

    OK(drystone_history_set(allocator, 16));
    OK(drystone_free(allocator, allocate(allocator, MIB)));
    OK(drystone_visit_history(allocator, 0, keep, &log, &next));
    CHECK(log.count == 3 && next == 3);
    CHECK(log.actions[0] == DRYSTONE_ACTION_ALLOC);
    CHECK(log.actions[1] == DRYSTONE_ACTION_FREE_REQUESTED);
    CHECK(log.actions[2] == DRYSTONE_ACTION_FREE_COMPLETED);
    OK(drystone_clock_ns(allocator, &now));
    CHECK(now >= log.time_ns);

    // What came since.
    void *pointer = allocate(allocator, 30 * MIB);
    log.count = 0;
    OK(drystone_visit_history(allocator, next, keep, &log, NULL));
    CHECK(log.count >= 2 && log.actions[0] != DRYSTONE_ACTION_ALLOC);
    CHECK(log.actions[log.count - 1] == DRYSTONE_ACTION_ALLOC);
    CHECK(log.actions[log.count - 2] == DRYSTONE_ACTION_SEGMENT_MAP);
    OK(drystone_free(allocator, pointer));

    OK(drystone_history_set(allocator, 0));
    log.count = 0;
    OK(drystone_visit_history(allocator, 0, keep, &log, NULL));
    CHECK(log.count == 0);
    OK(drystone_destroy(allocator));
}
