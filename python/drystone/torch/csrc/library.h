// The functions of libdrystone that the adapter calls, found by name when it is installed: the adapter is
// built against torch alone, and one that was built stays good when libdrystone moves or is replaced.
#pragma once

#include "drystone.h"

#include <atomic>
#include <string>

namespace drystone_torch {

// Their names without the prefix.
#define DRYSTONE_REQUIRED(X)                                                                       \
  X(abi_version)                                                                                   \
  X(last_error)                                                                                    \
  X(process_allocator)                                                                             \
  X(device_count)                                                                                  \
  X(allocate)                                                                                      \
  X(allocate_at)                                                                                   \
  X(free)                                                                                          \
  X(block)                                                                                         \
  X(record_stream)                                                                                 \
  X(begin_pool)                                                                                    \
  X(end_pool)                                                                                      \
  X(retain_pool)                                                                                   \
  X(release_pool)                                                                                  \
  X(empty_pool)                                                                                    \
  X(pool_use_count)                                                                                \
  X(set_use_on_oom)                                                                                \
  X(set_unsplit)                                                                                   \
  X(account)                                                                                       \
  X(unaccount)                                                                                     \
  X(empty_cache)                                                                                   \
  X(set_memory_fraction)                                                                           \
  X(limit)                                                                                         \
  X(memory_info)                                                                                   \
  X(on_out_of_memory)                                                                              \
  X(stats)                                                                                         \
  X(reset_peak_stats)                                                                              \
  X(reset_accumulated_stats)                                                                       \
  X(history_set)                                                                                   \
  X(visit_segments)                                                                                \
  X(visit_history)                                                                                 \
  X(clock_ns)                                                                                      \
  X(config_text)                                                                                   \
  X(enable_peer_access)                                                                            \
  X(allow_export)                                                                                  \
  X(end_import)                                                                                    \
  X(text_data)                                                                                     \
  X(text_size)                                                                                     \
  X(text_free)

struct Library {
#define DRYSTONE_FIELD(name) decltype(&::drystone_##name) name = nullptr;
  DRYSTONE_REQUIRED(DRYSTONE_FIELD)
#undef DRYSTONE_FIELD
  // Their names are words of C++.
  decltype(&::drystone_export) export_block = nullptr;
  decltype(&::drystone_import) import_handles = nullptr;
};

// The library that is in use; filled by `load_library`.
extern Library library;
// The allocator of the process; null until torch initializes CUDA.
extern std::atomic<drystone_allocator_t*> process;

// Finds the functions in the library at `path`, which is loaded already. Throws a sentence if it is
// another library, or one of another ABI.
void load_library(const char* path);

// Throws what the library said of its last call: c10::OutOfMemoryError or c10::Error.
[[noreturn]] void fail(drystone_status_t status);

inline void check(drystone_status_t status) {
  if (__builtin_expect(status != DRYSTONE_OK, 0)) {
    fail(status);
  }
}

} // namespace drystone_torch
