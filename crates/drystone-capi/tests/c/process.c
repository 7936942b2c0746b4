// The allocator of the process: configured before its first use, the same for all, never destroyed.
#include "check.h"

// What a request takes.
static uint64_t bytes_of(drystone_allocator_t *allocator, size_t size) {
    drystone_block_t block;
    void *pointer = allocate(allocator, size);
    OK(drystone_block(allocator, pointer, &block));
    OK(drystone_free(allocator, pointer));
    return block.size;
}

void test_process(void) {
    drystone_config_t config = DRYSTONE_CONFIG_INIT;
    drystone_allocator_t *first = NULL, *second = NULL;
    uint32_t count = 0;
    config.settings = "nonsense";
    FAILS(DRYSTONE_INVALID_CONFIG, "drystone_process_configure: ", drystone_process_configure(&config));
    config.struct_size = 1;
    CHECK(drystone_process_configure(&config) == DRYSTONE_INVALID_ARGUMENT);

    // What fails is tried again.
    setenv("DRYSTONE_CONF", "nonsense", 1);
    first = make("", GIB, 1);
    drystone_allocator_t *made = first;
    FAILS(DRYSTONE_INVALID_CONFIG, "DRYSTONE_CONF", drystone_process_allocator(&first));
    CHECK(first == NULL);
    unsetenv("DRYSTONE_CONF");
    OK(drystone_destroy(made));

    OK(drystone_process_configure(NULL));
    OK(drystone_config_init(&config));
    config.device = "sim";
    config.sim_devices = 2;
    config.settings = "reserve:fast";
    OK(drystone_process_configure(&config));
    FAILS(DRYSTONE_INVALID_CONFIG, "drystone_process_retune: ", drystone_process_retune("nonsense"));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "settings is NULL", drystone_process_retune(NULL));
    OK(drystone_process_retune("roundup_power2_divisions:4"));
    OK(drystone_process_allocator(&first));
    CHECK(bytes_of(first, 5 * MIB) == 5 * MIB && bytes_of(first, 5 * MIB + 1) == 6 * MIB);
    OK(drystone_process_retune(""));
    CHECK(bytes_of(first, 5 * MIB + 1) == 5 * MIB + 512);
    OK(drystone_process_allocator(&second));
    CHECK(first != NULL && first == second);
    OK(drystone_device_count(first, &count));
    CHECK(count == 2);
    OK(drystone_free(first, allocate(first, MIB)));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "in use already", drystone_process_configure(&config));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "do not destroy it", drystone_destroy(first));
    OK(drystone_free(first, allocate(first, MIB)));
}
