// torch's own CUDAPluggableAllocator over Drystone's entry points and the simulated device: what they
// throw is caught as torch catches it. Its argument is libdrystone.so. Needs no GPU.

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <torch/csrc/cuda/CUDAPluggableAllocator.h>

using torch::cuda::CUDAPluggableAllocator::CUDAPluggableAllocator;
using Filter = std::function<bool(cudaStream_t)>;
using Pool = std::pair<unsigned long long, unsigned long long>;

static void* library;

template <typename Function>
static Function* named(const char* name) {
  void* address = dlsym(library, name);
  if (address == nullptr) {
    std::printf("%s is missing\n", name);
    std::exit(1);
  }
  return reinterpret_cast<Function*>(address);
}

#define CHECK(condition)                                        \
  do {                                                          \
    if (!(condition)) {                                         \
      std::printf("line %d: %s\n", __LINE__, #condition);       \
      std::exit(1);                                             \
    }                                                           \
  } while (false)

static bool starts(const std::string& text, const std::string& with) {
  return text.rfind(with, 0) == 0;
}

static cudaStream_t stream(std::uintptr_t number) {
  return reinterpret_cast<cudaStream_t>(number);
}

// An object on the way of the exception: its destructor has to run.
struct Counted {
  int* count;
  ~Counted() { ++*count; }
};

static void out_of_memory(CUDAPluggableAllocator& torch) {
  int destroyed = 0;
  for (int round = 0; round < 1000; ++round) {
    bool caught = false;
    try {
      Counted counted{&destroyed};
      torch.malloc(std::size_t(1) << 45, 0, nullptr);
    } catch (const c10::OutOfMemoryError& error) {
      caught = starts(
          error.what_without_backtrace(),
          "CUDA out of memory. Tried to allocate 32768.00 GiB. GPU 0 has a total capacity of ");
    }
    CHECK(caught && destroyed == round + 1);
  }
  try {
    torch.malloc(std::size_t(1) << 62, 0, nullptr);
    CHECK(false);
  } catch (const c10::OutOfMemoryError& error) {
    CHECK(starts(error.what_without_backtrace(),
                 "CUDA out of memory. Tried to allocate more than 1EB memory."));
  }
}

static void other_failures(CUDAPluggableAllocator& torch) {
  try {
    torch.malloc(512, 99, nullptr);
    CHECK(false);
  } catch (const c10::OutOfMemoryError&) {
    CHECK(false);
  } catch (const c10::Error& error) {
    CHECK(starts(error.what_without_backtrace(), "there is no device 99"));
  }
}

static void blocks(CUDAPluggableAllocator& torch) {
  CHECK(torch.malloc(0, 0, nullptr) == nullptr);
  void* block = torch.malloc(1000, 0, nullptr);
  CHECK(block != nullptr);
  std::size_t size = 0;
  CHECK(torch.getBaseAllocation(static_cast<char*>(block) + 700, &size) == block);
  CHECK(size == 1024);
  CHECK(torch.getBaseAllocation(nullptr, &size) == nullptr);
  try {
    torch.getBaseAllocation(&size, &size);
    CHECK(false);
  } catch (const c10::Error&) {
  }
  const auto record = named<void(void*, cudaStream_t)>("drystone_torch_record_stream");
  record(nullptr, nullptr);
  record(&size, nullptr);
  record(block, nullptr);
  record(static_cast<char*>(block) + 512, nullptr);
  torch.raw_delete(block);
  torch.emptyCache();
  torch.setMemoryFraction(0.5, 0);
  try {
    torch.setMemoryFraction(0.5, 99);
    CHECK(false);
  } catch (const c10::Error&) {
  }
  torch.setMemoryFraction(1.0, 0);
}

static void pools(CUDAPluggableAllocator& torch) {
  // A filter that owns memory, which the library has to copy and to destroy.
  auto wanted = std::make_shared<cudaStream_t>(stream(0));
  const Pool pool{1, 0};
  torch.beginAllocateToPool(0, pool, [wanted, padding = Pool{7, 7}](cudaStream_t asked) {
    return padding.first == 7 && asked == *wanted;
  });
  CHECK(wanted.use_count() == 2);
  void* inside = torch.malloc(4096, 0, nullptr);
  *wanted = stream(77);
  void* outside = torch.malloc(4096, 0, nullptr);
  torch.endAllocateToPool(0, pool);
  CHECK(wanted.use_count() == 1);
  // Pools do not share segments.
  const auto distance = static_cast<char*>(inside) - static_cast<char*>(outside);
  CHECK(std::llabs(distance) >= 2 << 20);
  torch.raw_delete(inside);
  torch.raw_delete(outside);
  torch.releasePool(0, pool);
  try {
    torch.endAllocateToPool(0, pool);
    CHECK(false);
  } catch (const c10::Error&) {
  }
  torch.beginAllocateToPool(0, pool, Filter());
  torch.endAllocateToPool(0, pool);
  torch.releasePool(0, pool);
}

int main(int, char** arguments) {
  library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) {
    std::printf("%s\n", dlerror());
    return 1;
  }
  CHECK(named<int()>("drystone_torch_exceptions")() == 0);
  CUDAPluggableAllocator torch(
      named<void*(std::size_t, int, cudaStream_t)>("drystone_torch_alloc"),
      named<void(void*, std::size_t, int, cudaStream_t)>("drystone_torch_free"));
  torch.set_init_fn(named<void(int)>("drystone_torch_init"));
  torch.set_reset_fn(named<void()>("drystone_torch_reset"));
  torch.set_memory_fraction_fn(named<void(double, int)>("drystone_torch_memory_fraction"));
  torch.set_base_alloc_fn(named<void*(void*, std::size_t*)>("drystone_torch_base_alloc"));
  torch.set_record_stream_fn(named<void(void*, cudaStream_t)>("drystone_torch_record_stream"));
  // As Python hands it over: one function type taken for another.
  torch.set_begin_allocate_to_pool(named<void(int, Pool, Filter)>("drystone_torch_begin_pool"));
  torch.set_end_allocate_to_pool_fn(named<void(int, Pool)>("drystone_torch_end_pool"));
  torch.set_release_pool(named<void(int, Pool)>("drystone_torch_release_pool"));
  torch.init(1);
  out_of_memory(torch);
  other_failures(torch);
  blocks(torch);
  pools(torch);
  std::puts("all checks passed");
  return 0;
}
