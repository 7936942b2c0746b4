// What a pair of an allocation and its free costs through torch's own interface in C++. Loaded by pair.py.
#include <c10/cuda/CUDACachingAllocator.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

double ns_each(Clock::time_point since, uint64_t count) {
  const std::chrono::duration<double, std::nano> passed = Clock::now() - since;
  return passed.count() / static_cast<double>(count);
}

} // namespace

extern "C" {

// Nanoseconds for a pair of one size, each freed at once.
double pair_of(uint64_t size, uint64_t pairs) {
  auto* allocator = c10::cuda::CUDACachingAllocator::get();
  for (uint64_t i = 0; i < pairs / 10; ++i) {
    allocator->allocate(size);
  }
  const auto start = Clock::now();
  for (uint64_t i = 0; i < pairs; ++i) {
    allocator->allocate(size);
  }
  return ns_each(start, pairs);
}

// Nanoseconds for a pair of random sizes of 512 bytes to 1 MiB, where `live` blocks are live and one of
// them, at random, is freed for each that is allocated.
double pair_among(uint64_t live, uint64_t pairs) {
  auto* allocator = c10::cuda::CUDACachingAllocator::get();
  uint64_t state = 0x9e3779b97f4a7c15;
  const auto random = [&state] {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  };
  const auto size = [&random] { return size_t{1} << (9 + random() % 12); };
  std::vector<c10::DataPtr> blocks(live);
  for (auto& block : blocks) {
    block = allocator->allocate(size());
  }
  double passed = 0;
  for (const uint64_t round : {pairs / 10, pairs}) {
    const auto start = Clock::now();
    for (uint64_t i = 0; i < round; ++i) {
      auto& block = blocks[random() % live];
      block.clear();
      block = allocator->allocate(size());
    }
    passed = ns_each(start, round);
  }
  return passed;
}

// A pluggable allocator that does nothing: what torch's own part of that path costs. torch keeps its blocks
// by address, so each has one of its own, which nobody touches.
void* nothing_alloc(size_t, int, void*) {
  static std::atomic<uintptr_t> next{512};
  return reinterpret_cast<void*>(next.fetch_add(512, std::memory_order_relaxed));
}

void nothing_free(void*, size_t, int, void*) {}

} // extern "C"
