/* Allocations and their frees through libdrystone's C interface, on the simulated device: what a pair costs
 * where there is no GPU. scripts/count-pairs counts the instructions of measure_one and measure_many.
 *
 * usage: pair one BYTES PAIRS | pair random LIVE PAIRS | pair large LIVE PAIRS
 * One size, each block freed at once; or random sizes, of 512 B to 1 MiB or of 1 to 64 MiB, where one of LIVE
 * blocks is freed for each that is allocated. Prints nanoseconds of the processor's time for a pair. */
#include "drystone.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Steps that are drawn beforehand and gone through again and again; a power of two. */
#define STEPS (1u << 17)

static drystone_allocator_t *allocator;
static void **live;
static size_t sizes[STEPS];
static uint32_t victims[STEPS];

static void check(drystone_status_t status) {
  if (status != DRYSTONE_OK) {
    fprintf(stderr, "%s\n", drystone_last_error());
    exit(1);
  }
}

static void *take(size_t size) {
  void *block = NULL;
  check(drystone_allocate(allocator, size, 0, 0, &block));
  return block;
}

static uint64_t next_random(void) {
  static uint64_t state = 0x9e3779b97f4a7c15u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

/* Log-uniform, of so many doublings. */
static size_t random_size(size_t least, unsigned doublings) {
  const size_t low = least << (next_random() % doublings);
  return low + (size_t)(next_random() % low);
}

static void one(size_t size, long pairs) {
  for (long i = 0; i < pairs; ++i) {
    check(drystone_free(allocator, take(size)));
  }
}

static void many(long pairs) {
  for (long i = 0; i < pairs; ++i) {
    const size_t step = (size_t)i % STEPS;
    void **slot = &live[victims[step]];
    check(drystone_free(allocator, *slot));
    *slot = take(sizes[step]);
  }
}

__attribute__((noinline)) void measure_one(size_t size, long pairs) {
  one(size, pairs);
}

__attribute__((noinline)) void measure_many(long pairs) {
  many(pairs);
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(int count, char **arguments) {
  const int large = count == 4 && strcmp(arguments[1], "large") == 0;
  const int same = count == 4 && strcmp(arguments[1], "one") == 0;
  const long number = count == 4 ? atol(arguments[2]) : 0;
  const long pairs = count == 4 ? atol(arguments[3]) : 0;
  if (number < 1 || pairs < 1 || (!same && !large && strcmp(arguments[1], "random") != 0)) {
    fprintf(stderr, "usage: pair one BYTES PAIRS | pair random LIVE PAIRS | pair large LIVE PAIRS\n");
    return 2;
  }
  drystone_config_t config;
  drystone_config_init(&config);
  config.settings = "";
  config.device = "sim";
  config.sim_capacity = (uint64_t)1 << 40;
  check(drystone_create(&config, &allocator));
  double before;
  if (same) {
    one((size_t)number, 1000);
    before = now();
    measure_one((size_t)number, pairs);
  } else {
    const size_t least = large ? (size_t)1 << 20 : 512;
    const unsigned doublings = large ? 6 : 11;
    live = calloc((size_t)number, sizeof *live);
    for (long i = 0; i < number; ++i) {
      live[i] = take(random_size(least, doublings));
    }
    for (size_t i = 0; i < STEPS; ++i) {
      victims[i] = (uint32_t)(next_random() % (uint64_t)number);
      sizes[i] = random_size(least, doublings);
    }
    many(large ? STEPS / 8 : STEPS);
    before = now();
    measure_many(pairs);
  }
  printf("%.1f\n", (now() - before) / (double)pairs);
  return 0;
}
