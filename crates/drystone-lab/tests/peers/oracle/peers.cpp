// Asks the allocators of CUB and RMM themselves what they do with random requests, on a CUDA that has
// nothing but addresses, and prints their answers for tests/peers. See README.md beside it.
//
// Usage: peers FIRST-SEED SEEDS STEPS

#include "fake_device.hpp"

#include <cub/util_allocator.cuh>
#include <rmm/mr/device/arena_memory_resource.hpp>
#include <rmm/mr/device/binning_memory_resource.hpp>
#include <rmm/mr/device/pool_memory_resource.hpp>

#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>

// RMM's own asks the CUDA runtime that it has built in.
std::pair<std::size_t, std::size_t> rmm::available_device_memory()
{
  return {device.capacity - device.held, device.capacity};
}

namespace {

constexpr std::uint64_t MIB = 1 << 20;

/// An allocator that is asked.
struct Asked {
  virtual ~Asked() = default;
  /// An address, or 0 where there is no memory.
  virtual std::uint64_t allocate(std::uint64_t bytes, std::uint64_t stream) = 0;
  virtual void free(std::uint64_t address, std::uint64_t bytes, std::uint64_t stream) = 0;
};

cudaStream_t handle(std::uint64_t stream) { return reinterpret_cast<cudaStream_t>(stream * 0x100); }

struct Cub final : Asked {
  cub::CachingDeviceAllocator allocator;

  template <typename... Options>
  explicit Cub(Options... options) : allocator(options...)
  {
  }

  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t stream) override
  {
    void* pointer    = nullptr;
    auto const error = allocator.DeviceAllocate(0, &pointer, bytes, handle(stream));
    return error == cudaSuccess ? reinterpret_cast<std::uint64_t>(pointer) : 0;
  }

  void free(std::uint64_t address, std::uint64_t, std::uint64_t) override
  {
    if (allocator.DeviceFree(0, reinterpret_cast<void*>(address)) != cudaSuccess) std::abort();
  }
};

/// `cudaMalloc` as RMM 26.06 has it below a pool: the 25.10 whose headers these are rounds up to 16.
struct Cuda {
  void* allocate(std::size_t bytes, std::size_t)
  {
    void* pointer = nullptr;
    if (cudaMalloc(&pointer, bytes) != cudaSuccess) throw rmm::out_of_memory("no memory");
    return pointer;
  }
  void deallocate(void* pointer, std::size_t, std::size_t) { cudaFree(pointer); }
  void* allocate_async(std::size_t bytes, std::size_t align, cuda::stream_ref)
  {
    return allocate(bytes, align);
  }
  void deallocate_async(void* pointer, std::size_t bytes, std::size_t align, cuda::stream_ref)
  {
    deallocate(pointer, bytes, align);
  }
  bool operator==(Cuda const&) const { return true; }
  bool operator!=(Cuda const&) const { return false; }
  friend void get_property(Cuda const&, cuda::mr::device_accessible) {}
};

using Pool    = rmm::mr::pool_memory_resource<Cuda>;
using Arena   = rmm::mr::arena_memory_resource<Cuda>;
using Binning = rmm::mr::binning_memory_resource<Pool>;

struct Rmm final : Asked {
  Cuda cuda;
  /// Below the resource that is asked, if there is one.
  std::unique_ptr<Pool> pool;
  std::unique_ptr<rmm::mr::device_memory_resource> resource;

  std::uint64_t allocate(std::uint64_t bytes, std::uint64_t stream) override
  {
    try {
      return reinterpret_cast<std::uint64_t>(resource->allocate(bytes, handle(stream)));
    } catch (rmm::out_of_memory const&) {
      return 0;
    }
  }

  void free(std::uint64_t address, std::uint64_t bytes, std::uint64_t stream) override
  {
    resource->deallocate(reinterpret_cast<void*>(address), bytes, handle(stream));
  }
};

std::optional<std::uint64_t> above_zero(std::uint64_t bytes)
{
  return bytes == 0 ? std::nullopt : std::optional{bytes};
}

std::unique_ptr<Asked> a_pool(std::uint64_t initial, std::uint64_t maximum)
{
  auto made      = std::make_unique<Rmm>();
  made->resource = std::make_unique<Pool>(made->cuda, initial, above_zero(maximum));
  return made;
}

std::unique_ptr<Asked> an_arena(std::uint64_t bytes)
{
  auto made      = std::make_unique<Rmm>();
  made->resource = std::make_unique<Arena>(made->cuda, above_zero(bytes));
  return made;
}

std::unique_ptr<Asked> bins(int least, int most, std::uint64_t initial)
{
  auto made      = std::make_unique<Rmm>();
  made->pool     = std::make_unique<Pool>(made->cuda, initial);
  made->resource = std::make_unique<Binning>(made->pool.get(), least, most);
  return made;
}

template <typename... Options>
std::function<std::unique_ptr<Asked>()> a_cub(Options... options)
{
  return [=] { return std::make_unique<Cub>(options...); };
}

/// A policy with its options as Drystone's lab writes them, the MiB of its device, and the largest
/// requests, as a power of two.
struct Case {
  std::string policy;
  std::uint64_t mib;
  double largest;
  std::function<std::unique_ptr<Asked>()> make;
};

std::vector<Case> const CASES{
  {"cub", 64, 22, a_cub()},
  {"cub", 8, 22, a_cub()},
  {"cub:bin_growth=2,min_bin=9,max_bin=26,max_cached_bytes=1TiB", 256, 25, a_cub(2, 9, 26)},
  {"cub:bin_growth=2,min_bin=9,max_bin=26,max_cached_bytes=1TiB", 96, 25, a_cub(2, 9, 26)},
  {"cub:bin_growth=4,min_bin=5,max_bin=10,max_cached_bytes=5000000",
   48, 22, a_cub(4, 5, 10, 5000000)},
  {"cub:bin_growth=3,min_bin=0,max_bin=14,max_cached_bytes=20MiB",
   32, 23, a_cub(3, 0, 14, 20 * MIB)},
  {"rmm-pool:initial_pool_size=0", 512, 25, [] { return a_pool(0, 0); }},
  {"rmm-pool:initial_pool_size=0", 100, 24, [] { return a_pool(0, 0); }},
  {"rmm-pool", 256, 25, [] { return a_pool(device.capacity / 2, 0); }},
  {"rmm-pool:initial_pool_size=1000192,maximum_pool_size=100MiB",
   256, 24, [] { return a_pool(1000192, 100 * MIB); }},
  {"rmm-pool:initial_pool_size=0,maximum_pool_size=99999744",
   96, 24, [] { return a_pool(0, 99999744); }},
  {"rmm-pool:initial_pool_size=0,maximum_pool_size=256KiB",
   96, 15, [] { return a_pool(0, 256 << 10); }},
  {"rmm-arena", 256, 24, [] { return an_arena(0); }},
  {"rmm-arena:arena_size=64MiB", 256, 23, [] { return an_arena(64 * MIB); }},
  {"rmm-arena:arena_size=10000128", 256, 21.5, [] { return an_arena(10000128); }},
  {"rmm-arena:arena_size=24MiB", 256, 22.5, [] { return an_arena(24 * MIB); }},
  {"rmm-binning:min_size_exponent=12,max_size_exponent=16,initial_pool_size=0",
   96, 20, [] { return bins(12, 16, 0); }},
  {"rmm-binning:min_size_exponent=12,max_size_exponent=16",
   96, 20, [] { return bins(12, 16, device.capacity / 2); }},
  {"rmm-binning:initial_pool_size=0", 2048, 24, [] { return bins(18, 22, 0); }},
  {"rmm-binning:min_size_exponent=8,max_size_exponent=10,initial_pool_size=64KiB",
   16, 12, [] { return bins(8, 10, 64 << 10); }},
};

struct Random {
  std::mt19937_64 engine;

  double part() { return static_cast<double>(engine() >> 11) * 0x1p-53; }
  std::uint64_t below(std::uint64_t bound) { return engine() % bound; }

  /// Sizes over all magnitudes, of which some come again and again.
  std::uint64_t size(double largest)
  {
    double const kind = part();
    if (kind < 0.3) return 1 + below(1 << 12);
    if (kind < 0.85) return static_cast<std::uint64_t>(std::exp2(part() * largest));
    auto const power = std::uint64_t{1} << (8 + below(static_cast<std::uint64_t>(largest) - 8));
    std::uint64_t const near[]{power - 1, power, power + 1, power / 4 * 3};
    return near[below(4)];
  }
};

struct Block {
  std::uint64_t number, address, bytes, stream;
};

/// One run of random requests, from a device that is empty.
void run(Case const& which, std::uint64_t seed, std::uint64_t steps)
{
  Random draw{std::mt19937_64{seed * 1000 + static_cast<std::uint64_t>(&which - CASES.data())}};
  std::uint64_t const of[]{1, 1, 2, 4};
  std::uint64_t const streams = of[draw.below(4)];
  device.begin(which.mib * MIB);
  double const fill = (0.2 + draw.part()) * static_cast<double>(device.capacity);
  std::printf("case %lu %s\n", device.capacity, which.policy.c_str());
  auto asked = which.make();
  std::vector<Block> live;
  std::uint64_t number = 0;
  double held          = 0;
  for (std::uint64_t step = 0; step < steps; step++) {
    if (draw.part() < 0.02) {
      device.passed = !device.passed;
      std::printf("p %d\n", device.passed);
    }
    if (!live.empty() && draw.part() < (held < fill ? 0.35 : 0.65)) {
      auto const at = live.begin() + static_cast<long>(draw.below(live.size()));
      std::printf("f %lu\n", at->number);
      asked->free(at->address, at->bytes, at->stream);
      held -= static_cast<double>(at->bytes);
      live.erase(at);
      continue;
    }
    std::uint64_t const bytes = draw.size(which.largest), stream = draw.below(streams);
    std::printf("a %lu %lu\n", stream, bytes);
    auto const address = asked->allocate(bytes, stream);
    if (address == 0) {
      std::printf("!\n");
      continue;
    }
    auto const piece = device.piece_at(address);
    std::printf("= %lu %lu\n", piece, address - FakeDevice::address_of(piece));
    live.push_back({number++, address, bytes, stream});
    held += static_cast<double>(bytes);
  }
  std::printf("end %lu %lu\n", device.held, device.peak);
  device.noted = false;
}

}  // namespace

int main(int, char** arguments)
{
  auto const number = [&](int at) { return std::strtoull(arguments[at], nullptr, 10); };
  for (auto const& which : CASES)
    for (auto seed = number(1); seed < number(1) + number(2); seed++)
      run(which, seed, number(3));
}
