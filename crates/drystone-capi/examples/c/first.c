// A first program: an allocator, a batch that does not fit and is halved, and what was used.
// docs/c-api.md walks through it. It runs without a GPU as well: DRYSTONE_DEVICE=sim ./first
#include <drystone.h>
#include <stdio.h>
#include <stdlib.h>

// Ends the program with the library's words.
static void must(drystone_status_t status) {
    if (status != DRYSTONE_OK) {
        fprintf(stderr, "%s: %s\n", drystone_status_name(status), drystone_last_error());
        exit(1);
    }
}

static void much_is_reserved(const drystone_pressure_t *pressure, void *user) {
    int *calls = (int *)user;
    ++*calls;
    printf("%llu MiB are reserved\n", (unsigned long long)(pressure->reserved >> 20));
}

int main(void) {
    if (drystone_abi_version() != DRYSTONE_ABI_VERSION) {
        fprintf(stderr, "this program was compiled for another libdrystone\n");
        return 1;
    }

    drystone_config_t config = DRYSTONE_CONFIG_INIT;
    config.settings = "limit:1GiB";
    drystone_allocator_t *allocator = NULL;
    must(drystone_create(&config, &allocator));

    int calls = 0;
    uint64_t callback = 0;
    must(drystone_on_pressure(allocator, 0, 0.75, 0, much_is_reserved, &calls, &callback));

    // Out of memory is an answer, not the end: ask for less.
    size_t batch = (size_t)3 << 30;
    void *memory = NULL;
    drystone_status_t status;
    while ((status = drystone_allocate(allocator, batch, 0, 0, &memory)) == DRYSTONE_OUT_OF_MEMORY) {
        printf("%s\n", drystone_last_error());
        batch /= 2;
    }
    must(status);
    printf("%zu MiB at %p\n", batch >> 20, memory);

    // Work on stream 0 would be launched here. The free does not wait for it: what comes next on the
    // same stream may have the bytes at once.
    must(drystone_free(allocator, memory));

    drystone_stats_t stats;
    stats.struct_size = sizeof stats;
    must(drystone_stats(allocator, 0, &stats));
    printf("at most %llu MiB were in use, %d callback(s)\n",
           (unsigned long long)(stats.figures[DRYSTONE_ALLOCATED_BYTES][DRYSTONE_ALL].peak >> 20), calls);

    must(drystone_remove_callback(allocator, callback));
    must(drystone_destroy(allocator));
    return 0;
}
