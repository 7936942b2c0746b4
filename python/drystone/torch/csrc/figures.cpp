// Limits and figures of a device.
#include "allocator.h"

namespace drystone_torch {

namespace {

c10::CachingAllocator::Stat stat_of(const drystone_stat_t& stat) {
  c10::CachingAllocator::Stat out;
  out.current = static_cast<int64_t>(stat.current);
  out.peak = static_cast<int64_t>(stat.peak);
  out.allocated = static_cast<int64_t>(stat.allocated);
  out.freed = static_cast<int64_t>(stat.freed);
  return out;
}

} // namespace

drystone_stats_t stats_of(DeviceIndex device) {
  drystone_stats_t stats{};
  stats.struct_size = sizeof stats;
  check(library.stats(ready(), device, &stats));
  return stats;
}

double Allocator::getMemoryFraction(DeviceIndex device) {
  uint64_t limit = 0;
  uint64_t free = 0;
  uint64_t total = 0;
  check(library.limit(ready(), device, &limit));
  check(library.memory_info(ready(), device, &free, &total));
  {
    std::lock_guard<std::mutex> guard(mutex_);
    const auto set = fractions_.find(device);
    // Bytes say less than the fraction that they came from.
    if (set != fractions_.end() && set->second.limit == limit) {
      return set->second.fraction;
    }
  }
  return limit == 0 || limit >= total ? 1.0
                                      : static_cast<double>(limit) / static_cast<double>(total);
}

void Allocator::setMemoryFraction(double fraction, DeviceIndex device) {
  TORCH_CHECK(
      0 <= fraction && fraction <= 1, "invalid fraction: ", fraction, ". Please set within [0, 1].");
  check(library.set_memory_fraction(ready(), device, fraction));
  uint64_t limit = 0;
  check(library.limit(ready(), device, &limit));
  std::lock_guard<std::mutex> guard(mutex_);
  fractions_[device] = {fraction, limit};
}

c10::CachingDeviceAllocator::DeviceStats Allocator::getDeviceStats(DeviceIndex device) {
  const auto stats = stats_of(device);
  c10::CachingDeviceAllocator::DeviceStats out;
  c10::CachingAllocator::StatArray* const figures[] = {
      &out.allocation,
      &out.allocated_bytes,
      &out.active,
      &out.active_bytes,
      &out.requested_bytes,
      &out.inactive_split,
      &out.inactive_split_bytes,
      &out.segment,
      &out.reserved_bytes,
  };
  for (size_t figure = 0; figure < std::size(figures); ++figure) {
    for (size_t kind = 0; kind < figures[figure]->size(); ++kind) {
      (*figures[figure])[kind] = stat_of(stats.figures[figure][kind]);
    }
  }
  out.oversize_allocations = stat_of(stats.oversize_allocations);
  out.oversize_segments = stat_of(stats.oversize_segments);
  out.num_alloc_retries = static_cast<int64_t>(stats.num_alloc_retries);
  out.num_ooms = static_cast<int64_t>(stats.num_ooms);
  out.num_sync_all_streams = static_cast<int64_t>(stats.num_sync_all_streams);
  out.num_device_alloc = static_cast<int64_t>(stats.num_device_alloc);
  out.num_device_free = static_cast<int64_t>(stats.num_device_free);
  // torch shows "no bound" as the largest number, which is -1 here.
  out.max_split_size =
      stats.max_split_size == 0 ? -1 : static_cast<int64_t>(stats.max_split_size);
  return out;
}

void Allocator::resetAccumulatedStats(DeviceIndex device) {
  check(library.reset_accumulated_stats(ready(), device));
}

void Allocator::resetPeakStats(DeviceIndex device) {
  check(library.reset_peak_stats(ready(), device));
}

std::pair<size_t, size_t> Allocator::getMemoryInfo(DeviceIndex device) {
  uint64_t free = 0;
  uint64_t total = 0;
  check(library.memory_info(ready(), device, &free, &total));
  return {free, total};
}

} // namespace drystone_torch
