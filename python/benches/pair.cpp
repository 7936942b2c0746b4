// What an allocate and free pair costs through PyTorch's CUDAPluggableAllocator: Drystone's entry points,
// and hooks that do nothing, which is what PyTorch itself takes. Prints JSON, one line for each case.
// Arguments: libdrystone.so. Nothing computes, so the simulated device serves as well.

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include <torch/csrc/cuda/CUDAPluggableAllocator.h>

using torch::cuda::CUDAPluggableAllocator::CUDAPluggableAllocator;
using Clock = std::chrono::steady_clock;

static void* nothing_alloc(std::size_t size, int, cudaStream_t) {
  static std::uintptr_t next = 1 << 20;
  return reinterpret_cast<void*>(next += (size + 511) / 512 * 512);
}

static void nothing_free(void*, std::size_t, int, cudaStream_t) {}

constexpr int kRounds = 9;
constexpr int kPairs = 200000;

// The median of the rounds, in nanoseconds for a pair.
template <typename Round>
static double median(Round round) {
  std::vector<double> all;
  round();
  for (int i = 0; i < kRounds; ++i) {
    const auto start = Clock::now();
    round();
    const std::chrono::duration<double, std::nano> took = Clock::now() - start;
    all.push_back(took.count() / kPairs);
  }
  std::sort(all.begin(), all.end());
  return all[kRounds / 2];
}

static double same_size(CUDAPluggableAllocator& torch, std::size_t size) {
  return median([&] {
    for (int i = 0; i < kPairs; ++i) {
      torch.raw_delete(torch.malloc(size, 0, nullptr));
    }
  });
}

static double random_sizes(CUDAPluggableAllocator& torch, std::size_t live_blocks) {
  std::mt19937 random(7);
  std::vector<void*> live(live_blocks);
  const auto size = [&] { return std::size_t(512) + random() % (4 << 20); };
  for (auto& block : live) {
    block = torch.malloc(size(), 0, nullptr);
  }
  const double took = median([&] {
    for (int i = 0; i < kPairs; ++i) {
      void*& block = live[random() % live_blocks];
      torch.raw_delete(block);
      block = torch.malloc(size(), 0, nullptr);
    }
  });
  for (void* block : live) {
    torch.raw_delete(block);
  }
  return took;
}

static void measure(const char* name, CUDAPluggableAllocator& torch) {
  std::printf(
      "{\"hooks\": \"%s\", \"unit\": \"ns\", \"small\": %.1f, \"large\": %.1f, "
      "\"random_100\": %.1f, \"random_1000\": %.1f}\n",
      name,
      same_size(torch, 4096),
      same_size(torch, 8 << 20),
      random_sizes(torch, 100),
      random_sizes(torch, 1000));
}

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  const auto alloc = reinterpret_cast<void* (*)(std::size_t, int, cudaStream_t)>(
      dlsym(library, "drystone_torch_alloc"));
  const auto free = reinterpret_cast<void (*)(void*, std::size_t, int, cudaStream_t)>(
      dlsym(library, "drystone_torch_free"));
  CUDAPluggableAllocator nothing(nothing_alloc, nothing_free);
  CUDAPluggableAllocator drystone(alloc, free);
  measure("nothing", nothing);
  measure("drystone", drystone);
  return 0;
}
