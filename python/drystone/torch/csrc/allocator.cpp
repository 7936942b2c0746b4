// Requests and frees: the part of the allocator that every program uses.
#include "allocator.h"
#include "foreign.h"
#include "uncached.h"

#include <c10/core/impl/GPUTrace.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>

namespace drystone_torch {

std::atomic<uint32_t> watchers{0};

namespace {

// Whether torch has one device: then it is the current one, and CUDA need not be asked.
std::atomic<bool> one_device{false};

constexpr size_t EXBIBYTE = size_t{1} << 60;

c10::Device cuda(DeviceIndex device) {
  return {c10::DeviceType::CUDA, device};
}

inline DeviceIndex current_device() {
  if (one_device.load(std::memory_order_relaxed)) {
    return 0;
  }
  DeviceIndex device = 0;
  const auto error = c10::cuda::GetDevice(&device);
  // The check is a call, even where there is nothing to find.
  if (C10_UNLIKELY(error != cudaSuccess)) {
    C10_CUDA_CHECK(error);
  }
  return device;
}

// The current stream of a device as CUDA knows it.
inline cudaStream_t current_stream(DeviceIndex device) {
  const auto stream = c10::cuda::getCurrentCUDAStream(device);
  // The default stream, which most programs use alone, has no handle to be looked up.
  return stream.id() == c10::Stream(c10::Stream::DEFAULT, cuda(device)).id() ? nullptr
                                                                            : stream.stream();
}

// Whether a capture is underway on a stream: what a graph uses must be of the graph's pool.
bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  C10_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

DeviceIndex device_of(void* pointer) {
  cudaPointerAttributes attributes{};
  C10_CUDA_CHECK(cudaPointerGetAttributes(&attributes, pointer));
  return static_cast<DeviceIndex>(attributes.device);
}

uint64_t current_of(const drystone_stats_t& stats, int figure) {
  return stats.figures[figure][DRYSTONE_ALL].current;
}

// What the profiler and the sanitizer are told of a block.
void tell(void* pointer, int64_t size, DeviceIndex device) {
  if (c10::memoryProfilingEnabled()) {
    const auto stats = stats_of(device);
    c10::reportMemoryUsageToProfiler(
        pointer,
        size,
        current_of(stats, DRYSTONE_ALLOCATED_BYTES),
        current_of(stats, DRYSTONE_RESERVED_BYTES),
        cuda(device));
  }
  if (const auto* interpreter = c10::impl::GPUTrace::get_trace(); interpreter != nullptr) {
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    if (size > 0) {
      (*interpreter)->trace_gpu_memory_allocation(c10::DeviceType::CUDA, address);
    } else {
      (*interpreter)->trace_gpu_memory_deallocation(c10::DeviceType::CUDA, address);
    }
  }
}

// Whether anybody is to be told of this thread's requests and frees: mostly nobody is.
inline bool somebody_listens() {
  return watchers.load(std::memory_order_relaxed) != 0 || c10::impl::GPUTrace::haveState ||
      c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE) != nullptr;
}

// Before a request fails, what torch's own parts can free is freed: memory of tensors that other
// processes have let go of, for one.
bool run_free_memory_callbacks(const drystone_out_of_memory_t*, void*) {
  bool freed = false;
  try {
    for (const auto& name : c10::FreeCudaMemoryCallbacksRegistry()->Keys()) {
      freed |= c10::FreeCudaMemoryCallbacksRegistry()->Create(name)->Execute();
    }
  } catch (...) {
    // The request fails with its own error; nothing may be thrown through libdrystone.
  }
  return freed;
}

} // namespace

drystone_allocator_t* ready() {
  auto* made = process.load(std::memory_order_acquire);
  if (C10_UNLIKELY(made == nullptr)) {
    allocator().init(c10::cuda::device_count_ensure_non_zero());
    made = process;
  }
  return made;
}

Allocator& allocator() {
  static auto* installed = new Allocator();
  return *installed;
}

namespace {

C10_NOINLINE void free_and_tell(void* pointer) {
  if (uncached.any() && uncached.free(pointer)) {
    return;
  }
  if (foreign_pools.any() && foreign_pools.free(pointer)) {
    return;
  }
  if (c10::memoryProfilingEnabled() || c10::impl::GPUTrace::haveState) {
    drystone_block_t block{};
    check(library.block(process, pointer, &block));
    tell(pointer, -static_cast<int64_t>(block.requested), device_of(pointer));
  }
  if (history.watches()) {
    history.freeing(pointer);
  }
  if (is_watching(Watcher::SHARED_BLOCKS)) {
    end_sharing(pointer);
  }
  check(library.free(process, pointer));
  if (history.watches()) {
    history.tell_trackers();
  }
}

} // namespace

void free_block(void* pointer) {
  if (C10_UNLIKELY(pointer == nullptr)) {
    return;
  }
  if (C10_UNLIKELY(somebody_listens())) {
    free_and_tell(pointer);
    return;
  }
  check(library.free(process, pointer));
}

inline void* Allocator::serve(size_t size, DeviceIndex device, cudaStream_t stream) {
  void* pointer = nullptr;
  const auto status = library.allocate(ready(), size, device, number_of(stream), &pointer);
  if (C10_UNLIKELY(status != DRYSTONE_OK)) {
    failed(status, size, device);
  }
  return pointer;
}

inline void* Allocator::request(size_t size, DeviceIndex device, cudaStream_t stream) {
  if (C10_UNLIKELY(somebody_listens())) {
    return request_and_tell(size, device, stream);
  }
  return serve(size, device, stream);
}

C10_NOINLINE void* Allocator::request_and_tell(
    size_t size,
    DeviceIndex device,
    cudaStream_t stream) {
  if (size == 0) {
    return nullptr;
  }
  if (uncached.any()) {
    if (void* pointer = uncached.request(size, device)) {
      return pointer;
    }
  }
  if (foreign_pools.any()) {
    if (void* pointer = foreign_pools.request(size, device, stream)) {
      return pointer;
    }
  }
  const bool watched = history.watches();
  auto context = watched ? history.context_of_request() : nullptr;
  void* pointer = nullptr;
  const auto status = library.allocate(ready(), size, device, number_of(stream), &pointer);
  if (status != DRYSTONE_OK) {
    // No event of Drystone's tells of this block.
    void* lent = status == DRYSTONE_OUT_OF_MEMORY && foreign_pools.any() && !is_captured(stream)
        ? foreign_pools.request_on_oom(size, device, stream)
        : nullptr;
    if (lent == nullptr) {
      failed(status, size, device);
    }
    return lent;
  }
  if (watched) {
    history.allocated(pointer, std::move(context));
  }
  tell(pointer, static_cast<int64_t>(size), device);
  return pointer;
}

void Allocator::failed(drystone_status_t status, size_t size, DeviceIndex device) {
  const std::string message = library.last_error();
  TORCH_CHECK(status == DRYSTONE_OUT_OF_MEMORY, message);
  // As in torch, such a request is a mistake of the program and not a lack of memory: nobody is told.
  TORCH_CHECK_WITH(
      OutOfMemoryError,
      size < EXBIBYTE,
      "CUDA out of memory. Tried to allocate more than 1EB memory. Drystone: ",
      message);
  uint64_t free = 0;
  uint64_t total = 0;
  // Without the figures the error is still one.
  library.memory_info(process, device, &free, &total);
  history.out_of_memory();
  const auto stats = stats_of(device);
  const auto allocated = current_of(stats, DRYSTONE_ALLOCATED_BYTES);
  c10::reportOutOfMemoryToProfiler(
      static_cast<int64_t>(size),
      allocated,
      current_of(stats, DRYSTONE_RESERVED_BYTES),
      cuda(device));
  std::vector<native::OutOfMemoryObserver> observers;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    observers = observers_;
  }
  for (const auto& observer : observers) {
    observer(device, size, total, free);
  }
  // Programs look for torch's words in the text; the name of the C function is of no use to them.
  const auto reason = message.find("out of memory on ");
  TORCH_CHECK_WITH(
      OutOfMemoryError,
      false,
      "CUDA out of memory. Tried to allocate ",
      c10::CachingAllocator::format_size(size),
      ". GPU ",
      static_cast<int>(device),
      " has a total capacity of ",
      c10::CachingAllocator::format_size(total),
      " of which ",
      c10::CachingAllocator::format_size(free),
      " is free. Drystone: ",
      reason == std::string::npos ? message : message.substr(reason));
}

c10::DataPtr Allocator::allocate(size_t size) {
  const auto device = current_device();
  void* pointer = request(size, device, current_stream(device));
  return {pointer, pointer, &free_block, cuda(device)};
}

c10::DeleterFnPtr Allocator::raw_deleter() const {
  return &free_block;
}

void Allocator::copy_data(void* dest, const void* src, std::size_t count) const {
  C10_CUDA_CHECK(cudaMemcpy(dest, src, count, cudaMemcpyDeviceToDevice));
}

void* Allocator::raw_alloc(size_t size) {
  const auto device = current_device();
  return request(size, device, current_stream(device));
}

void* Allocator::raw_alloc_with_stream(size_t size, cudaStream_t stream) {
  return request(size, current_device(), stream);
}

void Allocator::raw_delete(void* pointer) {
  free_block(pointer);
}

void Allocator::init(int device_count) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (process != nullptr) {
    return;
  }
  drystone_allocator_t* made = nullptr;
  check(library.process_allocator(&made));
  uint32_t devices = 0;
  check(library.device_count(made, &devices));
  TORCH_CHECK(
      static_cast<int>(devices) >= device_count,
      "Drystone sees ", devices, " CUDA devices, torch sees ", device_count,
      ": set DRYSTONE_DEVICE=cuda, and CUDA_VISIBLE_DEVICES before either is loaded");
  uint64_t id = 0;
  check(library.on_out_of_memory(made, &run_free_memory_callbacks, nullptr, &id));
  check(library.allow_export(made));
  one_device = device_count == 1;
  process = made;
  history.start();
}

bool Allocator::initialized() {
  return process != nullptr;
}

std::string Allocator::name() {
  return "drystone";
}

void Allocator::enable(bool value) {
  uncached.enable(value);
}

bool Allocator::isEnabled() const {
  return uncached.caches();
}

void Allocator::emptyCache(MempoolId_t pool) {
  if (process == nullptr) {
    return;
  }
  const bool watched = history.watches();
  auto context = watched ? history.context_of_release() : nullptr;
  const auto since = watched ? history.next_event() : 0;
  if (foreign_pools.any()) {
    foreign_pools.empty();
  }
  if (pool == MempoolId_t{0, 0}) {
    check(library.empty_cache(process, -1, nullptr));
  } else {
    uint32_t devices = 0;
    check(library.device_count(process, &devices));
    for (uint32_t device = 0; device < devices; ++device) {
      const auto status =
          library.empty_pool(process, static_cast<int32_t>(device), pool_of(pool), nullptr);
      // A pool is known where it was used; torch names no device.
      if (status != DRYSTONE_POOL_ERROR) {
        check(status);
      }
    }
  }
  if (watched) {
    history.released(since, std::move(context));
    history.tell_trackers();
  }
}

void Allocator::recordStream(const c10::DataPtr& pointer, c10::cuda::CUDAStream stream) {
  // A tensor without elements has no memory, and one from another process or from the user's own
  // buffer has memory that is not Drystone's.
  if (!pointer.get() || pointer.get_deleter() != &free_block) {
    return;
  }
  if (uncached.any() && uncached.owns(pointer.get())) {
    return; // CUDA waits for every stream when it is freed
  }
  if (foreign_pools.any() && foreign_pools.record_stream(pointer.get(), stream.stream())) {
    return;
  }
  check(library.record_stream(process, pointer.get(), number_of(stream.stream())));
}

void Allocator::attachOutOfMemoryObserver(native::OutOfMemoryObserver observer) {
  std::lock_guard<std::mutex> guard(mutex_);
  observers_.push_back(std::move(observer));
}

} // namespace drystone_torch
