// Who is told of every request and free beside libdrystone. Nearly always nobody is: one look at all of them
// keeps that way short.
#pragma once

#include <atomic>
#include <cstdint>

namespace drystone_torch {

enum class Watcher : uint32_t { HISTORY = 1, FOREIGN_POOLS = 2, SHARED_BLOCKS = 4, UNCACHED = 8 };

// One bit for each that watches now.
extern std::atomic<uint32_t> watchers;

inline void set_watching(Watcher who, bool watches) {
  const auto bit = static_cast<uint32_t>(who);
  if (watches) {
    watchers.fetch_or(bit);
  } else {
    watchers.fetch_and(~bit);
  }
}

inline bool is_watching(Watcher who) {
  return (watchers.load(std::memory_order_relaxed) & static_cast<uint32_t>(who)) != 0;
}

} // namespace drystone_torch
