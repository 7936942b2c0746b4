// Many threads on one allocator, some on one stream, some on their own; each has its own last error.
#include <pthread.h>

#include "check.h"

enum { THREADS = 4, ROUNDS = 2000, HELD = 16 };

typedef struct {
    drystone_allocator_t *allocator;
    unsigned number;
} worker_t;

static unsigned next_random(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *work(void *argument) {
    const worker_t *worker = (const worker_t *)argument;
    drystone_allocator_t *allocator = worker->allocator;
    unsigned random = worker->number;
    void *held[HELD] = {NULL};
    CHECK(strcmp(drystone_last_error(), "") == 0);
    char words[64];
    snprintf(words, sizeof words, "there is no device %u", 100 + worker->number);
    for (int i = 0; i < ROUNDS; i++) {
        void **slot = &held[next_random(&random) % HELD];
        OK(drystone_free(allocator, *slot));
        // Threads 0 and 1 share stream 0.
        drystone_stream_t stream = worker->number / 2;
        size_t size = 1 + next_random(&random) % (i % 50 == 0 ? 4 << 20 : 64 << 10);
        OK(drystone_allocate(allocator, size, 0, stream, slot));
        drystone_block_t block;
        OK(drystone_block(allocator, behind(*slot, size - 1), &block));
        CHECK(block.address == (uintptr_t)*slot && block.requested == size);
        if (i % 7 == 0) {
            OK(drystone_record_stream(allocator, *slot, next_random(&random) % 3));
        }
        if (i % 100 == 0) {
            void *none;
            CHECK(drystone_allocate(allocator, 1, 100 + (int)worker->number, 0, &none) ==
                  DRYSTONE_INVALID_ARGUMENT);
        }
        if (i % 500 == 0) {
            drystone_text_t *text = NULL;
            OK(drystone_empty_cache(allocator, 0, NULL));
            OK(drystone_snapshot(allocator, DRYSTONE_FORMAT_PICKLE, &text));
            OK(drystone_text_free(text));
        }
        CHECK(strstr(drystone_last_error(), words) != NULL);
    }
    for (int i = 0; i < HELD; i++) {
        OK(drystone_free(allocator, held[i]));
    }
    return NULL;
}

void test_threads(void) {
    drystone_allocator_t *allocator = make("history:1000", GIB, 1);
    pthread_t threads[THREADS];
    worker_t workers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].allocator = allocator;
        workers[i].number = i;
        CHECK(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    drystone_stats_t stats;
    stats.struct_size = sizeof stats;
    OK(drystone_stats(allocator, 0, &stats));
    drystone_stat_t stat = stats.figures[DRYSTONE_ALLOCATION][DRYSTONE_ALL];
    CHECK(stat.current == 0 && stat.allocated == (uint64_t)THREADS * ROUNDS && stat.freed == stat.allocated);
    OK(drystone_destroy(allocator));
}
