// What the C tests share: checks that say where they failed, and an allocator to test. The tests are C99
// and C++17 at once, run on the simulated device (DRYSTONE_DEVICE=sim), and end at the first failure.
#ifndef DRYSTONE_TESTS_CHECK_H
#define DRYSTONE_TESTS_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "drystone.h"

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);   \
            fprintf(stderr, "last error: %s\n", drystone_last_error());               \
            exit(1);                                                                  \
        }                                                                             \
    } while (0)

// The call succeeds.
#define OK(call) CHECK((call) == DRYSTONE_OK)

// The call fails with this status, and the last error contains these words.
#define FAILS(status, words, call)                               \
    do {                                                         \
        CHECK((call) == (status));                               \
        CHECK(strstr(drystone_last_error(), (words)) != NULL);   \
    } while (0)

// An allocator over simulated devices of this capacity in bytes.
static inline drystone_allocator_t *make(const char *settings, uint64_t capacity, uint32_t devices) {
    drystone_config_t config = DRYSTONE_CONFIG_INIT;
    drystone_allocator_t *allocator = NULL;
    config.settings = settings;
    config.device = "sim";
    config.sim_capacity = capacity;
    config.sim_devices = devices;
    OK(drystone_create(&config, &allocator));
    CHECK(allocator != NULL);
    return allocator;
}

static inline void *allocate(drystone_allocator_t *allocator, uint64_t size) {
    void *pointer = NULL;
    OK(drystone_allocate(allocator, (size_t)size, 0, 0, &pointer));
    CHECK(pointer != NULL);
    return pointer;
}

// The address that lies `bytes` behind one. They are the device's: not to be looked at.
static inline void *behind(void *pointer, uint64_t bytes) {
    return (void *)((uintptr_t)pointer + (uintptr_t)bytes);
}

void test_creation(void);
void test_allocation(void);
void test_blocks(void);
void test_pools(void);
void test_limits(void);
void test_callbacks(void);
void test_statistics(void);
void test_snapshots(void);
void test_history(void);
void test_null(void);
void test_threads(void);
void test_process(void);
void test_sharing(void);

#endif
