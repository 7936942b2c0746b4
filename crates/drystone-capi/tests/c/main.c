// Runs all C tests, or those whose names are given.
#include "check.h"

typedef struct {
    const char *name;
    void (*run)(void);
} test_t;

int main(int count, char **names) {
    const test_t tests[] = {
        {"creation", test_creation},     {"allocation", test_allocation},
        {"blocks", test_blocks},         {"pools", test_pools},
        {"limits", test_limits},         {"callbacks", test_callbacks},
        {"statistics", test_statistics}, {"snapshots", test_snapshots},
        {"history", test_history},       {"null", test_null},
        {"threads", test_threads},       {"process", test_process},
        {"sharing", test_sharing},
    };
    int run = 0;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        int wanted = count < 2;
        for (int k = 1; k < count; k++) {
            wanted |= strcmp(names[k], tests[i].name) == 0;
        }
        if (wanted) {
            tests[i].run();
            run++;
        }
    }
    printf("%d C tests passed\n", run);
    return run == 0;
}
