// Pools whose memory comes from another allocator, as `torch.cuda.MemPool(allocator)` wants it: one that
// registers memory with the network, for one. Drystone has no part in that memory; its blocks are kept here.
#pragma once

#include "watchers.h"

#include <c10/cuda/CUDACachingAllocator.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace drystone_torch {

class ForeignPools {
 public:
  using Source = std::shared_ptr<c10::cuda::CUDACachingAllocator::CUDAAllocator>;
  using Filter = std::function<bool(cudaStream_t)>;
  using Segment = c10::CachingDeviceAllocator::SegmentInfo;

  // Whether requests and frees have to be looked at.
  bool any() const {
    return is_watching(Watcher::FOREIGN_POOLS);
  }

  void add(c10::DeviceIndex device, c10::MempoolId_t pool, Source source);
  // False if the pool is none of these.
  bool begin(c10::DeviceIndex device, c10::MempoolId_t pool, Filter filter);
  bool end(c10::DeviceIndex device, c10::MempoolId_t pool);
  // Gives free blocks of the pool back, and of those that are forgotten, after the device has done its
  // work; with `all` the pool is forgotten too.
  void empty(c10::MempoolId_t pool, bool all);

  // A block of the pool that wants the stream; null if none does.
  void* request(size_t size, c10::DeviceIndex device, cudaStream_t stream);
  // False if the block is none of these.
  bool free(void* pointer);
  bool record_stream(void* pointer, cudaStream_t stream);
  // Each block as a segment of its own.
  void add_segments(c10::MempoolId_t pool, std::vector<Segment>& segments);

 private:
  using Key = std::pair<c10::DeviceIndex, c10::MempoolId_t>;
  struct Block {
    Key key;
    Source source;
    size_t size;
    size_t requested;
    cudaStream_t stream;
    bool live;
    // Another stream uses it: it serves no more before the device was waited for.
    bool recorded;
  };

  void look_again();

  std::mutex mutex_; // of what follows; never held while another allocator is called
  std::map<Key, Source> pools_;
  std::vector<std::pair<Key, Filter>> begun_;
  std::unordered_map<void*, Block> blocks_;
};

extern ForeignPools& foreign_pools;

} // namespace drystone_torch
