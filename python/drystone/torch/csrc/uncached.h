// Requests past the cache, which `torch.cuda.caching_allocator_enable(False)` asks for: each goes to CUDA.
#pragma once

#include "watchers.h"

#include <c10/core/Device.h>

#include <cuda_runtime_api.h>

#include <mutex>
#include <unordered_set>

namespace drystone_torch {

class Uncached {
 public:
  // Whether requests and frees have to be looked at.
  bool any() const {
    return is_watching(Watcher::UNCACHED);
  }

  void enable(bool caches);
  bool caches();

  // Memory of CUDA; null while there is a cache.
  void* request(size_t size, c10::DeviceIndex device);
  bool owns(void* pointer);
  // False if the memory is not CUDA's.
  bool free(void* pointer);

 private:
  void look_again();

  std::mutex mutex_; // of what follows
  bool caches_ = true;
  std::unordered_set<void*> live_;
};

// Never destroyed: tensors may be freed until the process ends.
extern Uncached& uncached;

} // namespace drystone_torch
