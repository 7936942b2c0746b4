// Blocks of pools with another allocator: kept when they are freed, and used again for the same size on the
// same stream, as torch does; given back when the pool is emptied.
#include "foreign.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>

namespace drystone_torch {

// Never destroyed: tensors may be freed until the process ends.
ForeignPools& foreign_pools = *new ForeignPools();

namespace {

// Blocks are alike in steps of torch's, so that requests of nearly one size meet.
constexpr size_t STEP = 512;

} // namespace

void ForeignPools::add(c10::DeviceIndex device, c10::MempoolId_t pool, Source source) {
  std::lock_guard<std::mutex> guard(mutex_);
  pools_.emplace(Key{device, pool}, std::move(source));
  look_again();
}

bool ForeignPools::begin(c10::DeviceIndex device, c10::MempoolId_t pool, Filter filter) {
  std::lock_guard<std::mutex> guard(mutex_);
  const Key key{device, pool};
  if (pools_.count(key) == 0) {
    return false;
  }
  begun_.emplace_back(key, std::move(filter));
  return true;
}

bool ForeignPools::end(c10::DeviceIndex device, c10::MempoolId_t pool) {
  std::lock_guard<std::mutex> guard(mutex_);
  const Key key{device, pool};
  if (pools_.count(key) == 0) {
    return false;
  }
  std::erase_if(begun_, [&](const auto& scope) { return scope.first == key; });
  return true;
}

void ForeignPools::empty(c10::MempoolId_t pool, bool all) {
  std::vector<std::pair<void*, Block>> gone;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      const auto& key = at->second.key;
      if ((key.second == pool || pools_.count(key) == 0) && !at->second.live) {
        gone.emplace_back(at->first, at->second);
        at = blocks_.erase(at);
      } else {
        ++at;
      }
    }
    if (all) {
      std::erase_if(pools_, [&](const auto& entry) { return entry.first.second == pool; });
    }
    look_again();
  }
  for (const auto& [pointer, block] : gone) {
    const c10::cuda::CUDAGuard guard(block.key.first);
    C10_CUDA_CHECK(cudaDeviceSynchronize());
    block.source->raw_delete(pointer);
  }
}

void* ForeignPools::request(size_t size, c10::DeviceIndex device, cudaStream_t stream) {
  const size_t rounded = (size + STEP - 1) / STEP * STEP;
  Key key;
  Source source;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    const auto scope = std::find_if(begun_.rbegin(), begun_.rend(), [&](const auto& begun) {
      return begun.first.first == device && begun.second(stream);
    });
    if (scope == begun_.rend()) {
      return nullptr;
    }
    key = scope->first;
    source = pools_.at(key);
    for (auto& [pointer, block] : blocks_) {
      if (!block.live && !block.recorded && block.key == key && block.size == rounded &&
          block.stream == stream) {
        block.live = true;
        block.requested = size;
        return pointer;
      }
    }
  }
  void* pointer = source->raw_alloc_with_stream(rounded, stream);
  TORCH_CHECK_WITH(
      OutOfMemoryError,
      pointer != nullptr,
      "CUDA out of memory. The allocator of the pool has no ", rounded, " bytes");
  std::lock_guard<std::mutex> guard(mutex_);
  blocks_.emplace(pointer, Block{key, std::move(source), rounded, size, stream, true, false});
  look_again();
  return pointer;
}

bool ForeignPools::free(void* pointer) {
  std::lock_guard<std::mutex> guard(mutex_);
  const auto found = blocks_.find(pointer);
  if (found == blocks_.end() || !found->second.live) {
    return false;
  }
  found->second.live = false;
  return true;
}

bool ForeignPools::record_stream(void* pointer, cudaStream_t stream) {
  std::lock_guard<std::mutex> guard(mutex_);
  const auto found = blocks_.find(pointer);
  if (found == blocks_.end()) {
    return false;
  }
  found->second.recorded |= found->second.stream != stream;
  return true;
}

void ForeignPools::add_segments(c10::MempoolId_t pool, std::vector<Segment>& segments) {
  std::lock_guard<std::mutex> guard(mutex_);
  for (const auto& [pointer, block] : blocks_) {
    if (pool != c10::MempoolId_t{0, 0} && block.key.second != pool) {
      continue;
    }
    Segment segment;
    segment.device = block.key.first;
    segment.address = reinterpret_cast<size_t>(pointer);
    segment.total_size = block.size;
    segment.stream = block.stream;
    segment.is_large = true;
    segment.owner_private_pool_id = block.key.second;
    c10::CachingDeviceAllocator::BlockInfo info;
    info.size = block.size;
    info.requested_size = block.live ? block.requested : 0;
    info.allocated = info.active = block.live;
    if (block.live) {
      segment.allocated_size = segment.active_size = block.size;
      segment.requested_size = block.requested;
    }
    segment.blocks.push_back(std::move(info));
    segments.push_back(std::move(segment));
  }
}

void ForeignPools::look_again() {
  set_watching(Watcher::FOREIGN_POOLS, !pools_.empty() || !blocks_.empty());
}

} // namespace drystone_torch
