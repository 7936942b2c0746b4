// Versions, statuses, configurations; allocators made and destroyed.
#include "check.h"

static void check_names(void) {
    CHECK(drystone_abi_version() == DRYSTONE_ABI_VERSION);
    CHECK(strchr(drystone_version(), '.') != NULL);
    CHECK(strcmp(drystone_status_name(DRYSTONE_OK), "DRYSTONE_OK") == 0);
    CHECK(strcmp(drystone_status_name(DRYSTONE_INTERNAL), "DRYSTONE_INTERNAL") == 0);
    CHECK(strcmp(drystone_status_name(11), "unknown status") == 0);
    CHECK(strcmp(drystone_status_name(-1), "unknown status") == 0);
}

// A struct of a later version: this library does not know its last field.
typedef struct {
    drystone_config_t known;
    uint64_t later;
} later_config_t;

static void check_struct_size(void) {
    drystone_config_t config;
    drystone_allocator_t *allocator = NULL;
    memset(&config, 0xff, sizeof config);
    OK(drystone_config_init(&config));
    CHECK(config.struct_size == sizeof config);
    CHECK(config.settings == NULL && config.device == NULL);
    CHECK(config.sim_capacity == 0 && config.sim_devices == 0);

    // An older program: its struct ends after `device`, and what follows is not looked at.
    uint32_t count = 0;
    config.struct_size = offsetof(drystone_config_t, sim_capacity);
    config.device = "sim";
    config.sim_devices = 1000;
    OK(drystone_create(&config, &allocator));
    OK(drystone_device_count(allocator, &count));
    CHECK(count == 1);
    OK(drystone_destroy(allocator));

    // A newer program: it may use what this library knows.
    later_config_t later;
    memset(&later, 0, sizeof later);
    later.known.struct_size = sizeof later;
    later.known.device = "sim";
    later.known.sim_devices = 3;
    OK(drystone_create(&later.known, &allocator));
    OK(drystone_device_count(allocator, &count));
    CHECK(count == 3);
    OK(drystone_destroy(allocator));
    later.later = 1;
    FAILS(DRYSTONE_INVALID_ARGUMENT, "does not know", drystone_create(&later.known, &allocator));
    CHECK(allocator == NULL);

    // Not initialized.
    const size_t sizes[] = {0, 7, 12, sizeof config + 1, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        config.struct_size = sizes[i];
        FAILS(DRYSTONE_INVALID_ARGUMENT, "DRYSTONE_CONFIG_INIT", drystone_create(&config, &allocator));
    }
}

static void check_settings(void) {
    drystone_config_t config = DRYSTONE_CONFIG_INIT;
    drystone_allocator_t *allocator = NULL;
    config.device = "sim";
    config.settings = "reserve:lean,limt:1GiB";
    FAILS(DRYSTONE_INVALID_CONFIG, "`limit`", drystone_create(&config, &allocator));
    config.settings = "limit:\xff";
    FAILS(DRYSTONE_INVALID_CONFIG, "settings is not UTF-8", drystone_create(&config, &allocator));
    config.settings = "";
    config.device = "gpu";
    FAILS(DRYSTONE_INVALID_CONFIG, "allowed are auto, cuda and sim",
          drystone_create(&config, &allocator));
    config.device = "sim";
    config.sim_devices = 17;
    FAILS(DRYSTONE_INVALID_CONFIG, "17 devices", drystone_create(&config, &allocator));
    CHECK(strstr(drystone_last_error(), "drystone_create: ") == drystone_last_error());

    // From the environment: the tests run with DRYSTONE_DEVICE=sim.
    setenv("DRYSTONE_CONF", "reserve:lean,limit:3MiB", 1);
    OK(drystone_create(NULL, &allocator));
    unsetenv("DRYSTONE_CONF");
    drystone_text_t *text = NULL;
    OK(drystone_config_text(allocator, &text));
    CHECK(strcmp(drystone_text_data(text), "limit:3MiB,reserve:lean") == 0);
    CHECK(drystone_text_size(text) == strlen(drystone_text_data(text)));
    OK(drystone_text_free(text));
    OK(drystone_destroy(allocator));
    setenv("DRYSTONE_CONF", "nonsense", 1);
    FAILS(DRYSTONE_INVALID_CONFIG, "DRYSTONE_CONF", drystone_create(NULL, &allocator));
    unsetenv("DRYSTONE_CONF");
}

static void check_cuda(void) {
    drystone_config_t config = DRYSTONE_CONFIG_INIT;
    drystone_allocator_t *allocator = NULL;
    config.device = "cuda";
    drystone_status_t status = drystone_create(&config, &allocator);
    if (status == DRYSTONE_OK) {
        // With a GPU: memory of it, on the legacy default stream by its other name too.
        uint64_t released = 0;
        void *pointer = allocate(allocator, 30 * MIB);
        OK(drystone_record_stream(allocator, pointer, 1));
        OK(drystone_free(allocator, pointer));
        OK(drystone_stream_ends(allocator, 0, 1));
        OK(drystone_empty_cache(allocator, 0, &released));
        CHECK(released >= 30 * MIB);
        CHECK(drystone_allocate(allocator, 1, 0, 2, &pointer) == DRYSTONE_DRIVER_ERROR);
        OK(drystone_destroy(allocator));
    } else {
        // No machine without a GPU is told that its memory is one.
        FAILS(DRYSTONE_NO_DEVICE, "DRYSTONE_DEVICE=sim", status);
        config.device = "auto";
        CHECK(drystone_create(&config, &allocator) == DRYSTONE_NO_DEVICE);
        CHECK(allocator == NULL);
    }
}

void test_creation(void) {
    CHECK(strcmp(drystone_last_error(), "") == 0);
    check_names();
    check_struct_size();
    check_settings();
    check_cuda();
    OK(drystone_destroy(NULL));
    OK(drystone_text_free(NULL));
    CHECK(drystone_text_size(NULL) == 0);
    CHECK(strcmp(drystone_text_data(NULL), "") == 0);
}
