// The allocator of the process: configured before its first use, the same for all, never destroyed.
#include "check.h"

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
    OK(drystone_process_allocator(&first));
    OK(drystone_process_allocator(&second));
    CHECK(first != NULL && first == second);
    OK(drystone_device_count(first, &count));
    CHECK(count == 2);
    OK(drystone_free(first, allocate(first, MIB)));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "in use already", drystone_process_configure(&config));
    FAILS(DRYSTONE_INVALID_ARGUMENT, "do not destroy it", drystone_destroy(first));
    OK(drystone_free(first, allocate(first, MIB)));
}
