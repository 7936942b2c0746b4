// What goes past the cache is CUDA's own: it is waited for when it is freed, and no figure counts it.
#include "uncached.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

namespace drystone_torch {

Uncached& uncached = *new Uncached();

void Uncached::enable(bool caches) {
  std::lock_guard<std::mutex> guard(mutex_);
  caches_ = caches;
  look_again();
}

bool Uncached::caches() {
  std::lock_guard<std::mutex> guard(mutex_);
  return caches_;
}

void* Uncached::request(size_t size, c10::DeviceIndex device) {
  if (caches()) {
    return nullptr;
  }
  const c10::cuda::CUDAGuard on(device);
  void* pointer = nullptr;
  C10_CUDA_CHECK(cudaMalloc(&pointer, size));
  std::lock_guard<std::mutex> guard(mutex_);
  live_.insert(pointer);
  look_again(); // the cache may have been turned on meanwhile
  return pointer;
}

bool Uncached::owns(void* pointer) {
  std::lock_guard<std::mutex> guard(mutex_);
  return live_.count(pointer) > 0;
}

bool Uncached::free(void* pointer) {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (live_.erase(pointer) == 0) {
      return false;
    }
    look_again();
  }
  C10_CUDA_CHECK(cudaFree(pointer));
  return true;
}

void Uncached::look_again() {
  set_watching(Watcher::UNCACHED, !caches_ || !live_.empty());
}

} // namespace drystone_torch
