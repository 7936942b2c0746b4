// The allocators that replay.cpp drives, behind one small interface: CUB's, RMM's, the driver's own pool,
// and Drystone.

#pragma once

#include <cub/util_allocator.cuh>
#include <rmm/mr/device/arena_memory_resource.hpp>
#include <rmm/mr/device/binning_memory_resource.hpp>
#include <rmm/mr/device/pool_memory_resource.hpp>

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>

#include "drystone.h"

/// Ends the program unless a call worked.
inline void must(bool worked, char const* what)
{
  if (worked) return;
  std::fprintf(stderr, "replay: %s failed: %s\n", what, cudaGetErrorString(cudaGetLastError()));
  std::exit(1);
}

/// An allocator of device memory.
struct Library {
  virtual ~Library() = default;
  /// A block, or null where there is no memory.
  virtual void* allocate(std::size_t bytes, cudaStream_t stream)               = 0;
  virtual void free(void* block, std::size_t bytes, cudaStream_t stream) = 0;
  /// Bytes that it holds of the device, by its own count.
  virtual std::uint64_t taken() = 0;
  /// Gives all cached memory back; no block is live.
  virtual void clear() = 0;
};

struct Cub final : Library {
  cub::CachingDeviceAllocator allocator;

  template <typename... Options>
  explicit Cub(Options... options) : allocator(options...)
  {
  }

  void* allocate(std::size_t bytes, cudaStream_t stream) override
  {
    void* block = nullptr;
    if (allocator.DeviceAllocate(0, &block, bytes, stream) == cudaSuccess) return block;
    cudaGetLastError();
    return nullptr;
  }
  void free(void* block, std::size_t, cudaStream_t) override { allocator.DeviceFree(0, block); }
  std::uint64_t taken() override
  {
    auto const& bytes = allocator.cached_bytes[0];
    return bytes.free + bytes.live;
  }
  void clear() override { allocator.FreeAllCached(); }
};

/// `cudaMalloc` below RMM, counted.
struct Counted {
  std::uint64_t held = 0;

  void* allocate(std::size_t bytes, std::size_t)
  {
    void* block = nullptr;
    if (cudaMalloc(&block, bytes) != cudaSuccess) {
      cudaGetLastError();
      throw rmm::out_of_memory("no memory");
    }
    held += bytes;
    return block;
  }
  void deallocate(void* block, std::size_t bytes, std::size_t)
  {
    cudaFree(block);
    held -= bytes;
  }
  void* allocate_async(std::size_t bytes, std::size_t align, cuda::stream_ref)
  {
    return allocate(bytes, align);
  }
  void deallocate_async(void* block, std::size_t bytes, std::size_t align, cuda::stream_ref)
  {
    deallocate(block, bytes, align);
  }
  bool operator==(Counted const& other) const { return this == &other; }
  bool operator!=(Counted const& other) const { return this != &other; }
  friend void get_property(Counted const&, cuda::mr::device_accessible) {}
};

using Pool    = rmm::mr::pool_memory_resource<Counted>;
using Arena   = rmm::mr::arena_memory_resource<Counted>;
using Binning = rmm::mr::binning_memory_resource<Pool>;

struct Rmm final : Library {
  std::string kind;
  Counted below;
  std::unique_ptr<Pool> pool;
  std::unique_ptr<rmm::mr::device_memory_resource> resource;

  explicit Rmm(std::string which) : kind(std::move(which)) {}

  /// Half of the free memory, RMM's default in Python.
  static std::size_t half()
  {
    std::size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    return available / 2 / 256 * 256;
  }

  void make()
  {
    if (kind == "arena") {
      resource = std::make_unique<Arena>(below, half());
    } else if (kind == "binning") {
      pool     = std::make_unique<Pool>(below, 0);
      resource = std::make_unique<Binning>(pool.get(), 18, 22);
    } else {
      resource = std::make_unique<Pool>(below, kind == "half" ? half() : 0);
    }
  }

  void* allocate(std::size_t bytes, cudaStream_t stream) override
  {
    try {
      if (!resource) make();
      return resource->allocate(bytes, stream);
    } catch (rmm::bad_alloc const&) {
      return nullptr;
    }
  }
  void free(void* block, std::size_t bytes, cudaStream_t stream) override
  {
    resource->deallocate(block, bytes, stream);
  }
  std::uint64_t taken() override { return below.held; }
  void clear() override
  {
    resource.reset();
    pool.reset();
  }
};

/// A pool of the driver's that keeps what it has, as PyTorch sets it.
struct DriversPool final : Library {
  cudaMemPool_t pool = nullptr;

  DriversPool()
  {
    cudaMemPoolProps props{};
    props.allocType     = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    must(cudaMemPoolCreate(&pool, &props) == cudaSuccess, "cudaMemPoolCreate");
    std::uint64_t all = UINT64_MAX;
    cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all);
  }
  void* allocate(std::size_t bytes, cudaStream_t stream) override
  {
    void* block = nullptr;
    if (cudaMallocFromPoolAsync(&block, bytes, pool, stream) == cudaSuccess) return block;
    cudaGetLastError();
    return nullptr;
  }
  void free(void* block, std::size_t, cudaStream_t stream) override { cudaFreeAsync(block, stream); }
  std::uint64_t taken() override
  {
    std::uint64_t bytes = 0;
    cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &bytes);
    return bytes;
  }
  void clear() override
  {
    cudaDeviceSynchronize();
    cudaMemPoolTrimTo(pool, 0);
  }
};

/// `cudaMalloc` for each request.
struct NoCache final : Library {
  std::uint64_t held = 0;

  void* allocate(std::size_t bytes, cudaStream_t) override
  {
    void* block = nullptr;
    if (cudaMalloc(&block, bytes) != cudaSuccess) {
      cudaGetLastError();
      return nullptr;
    }
    held += bytes;
    return block;
  }
  void free(void* block, std::size_t bytes, cudaStream_t) override
  {
    cudaFree(block);
    held -= bytes;
  }
  std::uint64_t taken() override { return held; }
  void clear() override {}
};

struct Drystone final : Library {
  void* library                   = nullptr;
  drystone_allocator_t* allocator = nullptr;
  decltype(&drystone_allocate) take;
  decltype(&drystone_free) give;
  decltype(&drystone_reserved) reserved;
  decltype(&drystone_empty_cache) empty;

  template <typename Function>
  void find(Function& function, char const* name)
  {
    function = reinterpret_cast<Function>(dlsym(library, name));
    must(function != nullptr, name);
  }

  explicit Drystone(char const* settings)
  {
    char const* path = std::getenv("DRYSTONE_LIBRARY");
    library          = dlopen(path != nullptr ? path : "libdrystone.so", RTLD_NOW);
    must(library != nullptr, "opening libdrystone.so");
    find(take, "drystone_allocate");
    find(give, "drystone_free");
    find(reserved, "drystone_reserved");
    find(empty, "drystone_empty_cache");
    decltype(&drystone_create) create;
    find(create, "drystone_create");
    drystone_config_t config = DRYSTONE_CONFIG_INIT;
    config.settings          = settings;
    must(create(&config, &allocator) == DRYSTONE_OK, "drystone_create");
  }
  void* allocate(std::size_t bytes, cudaStream_t stream) override
  {
    void* block = nullptr;
    take(allocator, bytes, 0, reinterpret_cast<drystone_stream_t>(stream), &block);
    return block;
  }
  void free(void* block, std::size_t, cudaStream_t) override { give(allocator, block); }
  std::uint64_t taken() override
  {
    std::uint64_t bytes = 0;
    reserved(allocator, 0, &bytes);
    return bytes;
  }
  void clear() override
  {
    std::uint64_t bytes = 0;
    empty(allocator, 0, &bytes);
  }
};

/// The allocator of a name, as the policies of Drystone's lab are called; null if there is none.
inline std::unique_ptr<Library> library_named(std::string const& name)
{
  if (name == "cub") return std::make_unique<Cub>();
  if (name == "cub:bin_growth=2,min_bin=9,max_bin=30,max_cached_bytes=1TiB")
    return std::make_unique<Cub>(2, 9, 30);
  if (name == "rmm-pool") return std::make_unique<Rmm>("half");
  if (name == "rmm-pool:initial_pool_size=0") return std::make_unique<Rmm>("pool");
  if (name == "rmm-arena") return std::make_unique<Rmm>("arena");
  if (name == "rmm-binning:initial_pool_size=0") return std::make_unique<Rmm>("binning");
  if (name == "cuda-async") return std::make_unique<DriversPool>();
  if (name == "cudamalloc") return std::make_unique<NoCache>();
  if (name == "drystone") return std::make_unique<Drystone>("");
  if (name == "drystone:reserve=lean") return std::make_unique<Drystone>("reserve:lean");
  if (name == "drystone-malloc") return std::make_unique<Drystone>("backing:malloc");
  return nullptr;
}
