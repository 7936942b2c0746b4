// Segments of pools with another allocator: cut into blocks and joined again as torch does it, and given
// back when the pool is emptied.
#include "foreign.h"

#include "allocator.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>

#include <algorithm>

namespace drystone_torch {

// Never destroyed: tensors may be freed until the process ends.
ForeignPools& foreign_pools = *new ForeignPools();

namespace {

// torch's sizes: small requests share segments, medium ones share larger ones, large ones have their own.
constexpr size_t STEP = 512;
constexpr size_t SMALL_REQUEST = size_t{1} << 20;
constexpr size_t SMALL_SEGMENT = size_t{2} << 20;
constexpr size_t LARGE_REQUEST = size_t{10} << 20;
constexpr size_t MEDIUM_SEGMENT = size_t{20} << 20;

size_t up_to(size_t size, size_t step) {
  return (size + step - 1) / step * step;
}

size_t segment_for(size_t rounded) {
  if (rounded <= SMALL_REQUEST) {
    return SMALL_SEGMENT;
  }
  return rounded < LARGE_REQUEST ? MEDIUM_SEGMENT : up_to(rounded, SMALL_SEGMENT);
}

// Takes a segment from the pool's allocator, within Drystone's limit.
char* take_segment(
    ForeignPools::Source& source,
    size_t size,
    c10::DeviceIndex device,
    cudaStream_t stream) {
  auto status = library.account(ready(), device, size);
  if (status == DRYSTONE_OUT_OF_MEMORY) {
    check(library.empty_cache(process, device, nullptr));
    status = library.account(process, device, size);
  }
  TORCH_CHECK_WITH(
      OutOfMemoryError,
      status != DRYSTONE_OUT_OF_MEMORY,
      "CUDA out of memory. Tried to allocate ",
      c10::CachingAllocator::format_size(size),
      " for a pool with another allocator. Drystone: ",
      library.last_error());
  check(status);
  void* pointer = nullptr;
  try {
    // As in torch: a capture may take memory.
    const c10::cuda::CUDAStreamCaptureModeGuard relaxed(cudaStreamCaptureModeRelaxed);
    pointer = source->raw_alloc_with_stream(size, stream);
  } catch (...) {
    library.unaccount(process, device, size);
    throw;
  }
  if (pointer == nullptr) {
    library.unaccount(process, device, size);
    TORCH_CHECK_WITH(
        OutOfMemoryError,
        false,
        "CUDA out of memory. The allocator of the pool has no ", size, " bytes");
  }
  return static_cast<char*>(pointer);
}

} // namespace

void ForeignPools::add(c10::DeviceIndex device, c10::MempoolId_t pool, Source source) {
  std::lock_guard<std::mutex> guard(mutex_);
  pools_.emplace(Key{device, pool}, Pool{std::move(source)});
  look_again();
}

void ForeignPools::set_use_on_oom(c10::DeviceIndex device, c10::MempoolId_t pool, bool use_on_oom) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (const auto known = pools_.find({device, pool}); known != pools_.end()) {
    known->second.use_on_oom = use_on_oom;
  }
}

void ForeignPools::set_no_split(c10::DeviceIndex device, c10::MempoolId_t pool) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (const auto known = pools_.find({device, pool}); known != pools_.end()) {
    known->second.no_split = true;
  }
}

void ForeignPools::begin(
    c10::DeviceIndex device,
    c10::MempoolId_t pool,
    Filter filter,
    bool captures) {
  std::lock_guard<std::mutex> guard(mutex_);
  const Key key{device, pool};
  if (const auto known = pools_.find(key); known != pools_.end()) {
    known->second.captured |= captures;
  }
  begun_.emplace_back(key, std::move(filter));
}

void ForeignPools::end(c10::DeviceIndex device, c10::MempoolId_t pool) {
  std::lock_guard<std::mutex> guard(mutex_);
  std::erase_if(begun_, [&](const auto& scope) { return scope.first == Key{device, pool}; });
}

void ForeignPools::forget(c10::DeviceIndex device, c10::MempoolId_t pool) {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    if (pools_.erase({device, pool}) == 0) {
      return;
    }
  }
  empty();
}

void ForeignPools::empty() {
  std::vector<std::pair<char*, Segment>> gone;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    for (auto at = segments_.begin(); at != segments_.end();) {
      auto& [base, segment] = *at;
      const bool wanted = pools_.count(segment.key) == 0;
      if (wanted && std::none_of(segment.blocks.begin(), segment.blocks.end(), [](const auto& block) {
            return block.second.state == State::LIVE;
          })) {
        gone.emplace_back(base, std::move(segment));
        at = segments_.erase(at);
      } else {
        ++at;
      }
    }
    look_again();
  }
  for (auto at = gone.begin(); at != gone.end(); ++at) {
    const auto device = at->second.key.first;
    try {
      const c10::cuda::CUDAGuard guard(device);
      C10_CUDA_CHECK(cudaDeviceSynchronize());
      at->second.source->raw_delete(at->first);
    } catch (...) {
      std::lock_guard<std::mutex> guard(mutex_);
      for (; at != gone.end(); ++at) {
        segments_.emplace(at->first, std::move(at->second));
      }
      look_again();
      throw;
    }
    check(library.unaccount(process, device, at->second.size));
  }
}

void* ForeignPools::request(size_t size, c10::DeviceIndex device, cudaStream_t stream) {
  const size_t rounded = up_to(size, STEP);
  Key key;
  Source source;
  bool split = true;
  {
    std::lock_guard<std::mutex> guard(mutex_);
    const auto scope = std::find_if(begun_.rbegin(), begun_.rend(), [&](const auto& begun) {
      return begun.first.first == device && begun.second(stream);
    });
    if (scope == begun_.rend()) {
      return nullptr;
    }
    key = scope->first;
    const auto pool = pools_.find(key);
    if (pool == pools_.end()) {
      return nullptr; // one of Drystone's own is the innermost
    }
    source = pool->second.source;
    split = !pool->second.no_split;
    if (void* pointer = take(key, split, size, stream)) {
      return pointer;
    }
  }
  const size_t bytes = segment_for(rounded);
  char* base = take_segment(source, bytes, device, stream);
  std::lock_guard<std::mutex> guard(mutex_);
  auto& segment =
      segments_
          .emplace(base, Segment{key, std::move(source), stream, rounded > SMALL_REQUEST, bytes, {}})
          .first->second;
  const auto block = segment.blocks.emplace(base, Block{bytes, 0, State::FREE, false}).first;
  look_again();
  return carve(segment, block, split, size);
}

void* ForeignPools::request_on_oom(size_t size, c10::DeviceIndex device, cudaStream_t stream) {
  std::lock_guard<std::mutex> guard(mutex_);
  for (const auto& [key, pool] : pools_) {
    if (key.first == device && pool.use_on_oom && !pool.captured) {
      if (void* pointer = take(key, !pool.no_split, size, stream)) {
        return pointer;
      }
    }
  }
  return nullptr;
}

// The smallest free block of the pool on this stream that is large enough, or its first part; null if there
// is none.
void* ForeignPools::take(const Key& key, bool split, size_t size, cudaStream_t stream) {
  const size_t rounded = up_to(size, STEP);
  Segment* best = nullptr;
  Blocks::iterator found;
  for (auto& [base, segment] : segments_) {
    if (segment.key != key || segment.stream != stream ||
        segment.large != (rounded > SMALL_REQUEST)) {
      continue;
    }
    for (auto block = segment.blocks.begin(); block != segment.blocks.end(); ++block) {
      if (block->second.state == State::FREE && block->second.size >= rounded &&
          (best == nullptr || block->second.size < found->second.size)) {
        best = &segment;
        found = block;
      }
    }
  }
  return best == nullptr ? nullptr : carve(*best, found, split, size);
}

void* ForeignPools::carve(Segment& segment, Blocks::iterator block, bool split, size_t size) {
  const size_t rounded = up_to(size, STEP);
  const size_t rest = block->second.size - rounded;
  if (split && (segment.large ? rest > SMALL_REQUEST : rest >= STEP)) {
    segment.blocks.emplace(block->first + rounded, Block{rest, 0, State::FREE, false});
    block->second.size = rounded;
  }
  block->second.state = State::LIVE;
  block->second.requested = size;
  return block->first;
}

ForeignPools::Segment* ForeignPools::segment_of(void* pointer) {
  auto* address = static_cast<char*>(pointer);
  auto after = segments_.upper_bound(address);
  if (after == segments_.begin()) {
    return nullptr;
  }
  auto& [base, segment] = *std::prev(after);
  return address < base + segment.size ? &segment : nullptr;
}

bool ForeignPools::free(void* pointer) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto* segment = segment_of(pointer);
  if (segment == nullptr) {
    return false;
  }
  const auto block = segment->blocks.find(static_cast<char*>(pointer));
  TORCH_CHECK(
      block != segment->blocks.end() && block->second.state == State::LIVE,
      "invalid device pointer: ", pointer);
  if (block->second.recorded) {
    block->second.state = State::PENDING;
  } else {
    merge(segment->blocks, block);
  }
  return true;
}

void ForeignPools::merge(Blocks& blocks, Blocks::iterator block) {
  block->second = {block->second.size, 0, State::FREE, false};
  if (const auto next = std::next(block);
      next != blocks.end() && next->second.state == State::FREE) {
    block->second.size += next->second.size;
    blocks.erase(next);
  }
  if (block != blocks.begin() && std::prev(block)->second.state == State::FREE) {
    std::prev(block)->second.size += block->second.size;
    blocks.erase(block);
  }
}

bool ForeignPools::record_stream(void* pointer, cudaStream_t stream) {
  std::lock_guard<std::mutex> guard(mutex_);
  auto* segment = segment_of(pointer);
  if (segment == nullptr) {
    return false;
  }
  if (const auto block = segment->blocks.find(static_cast<char*>(pointer));
      block != segment->blocks.end()) {
    block->second.recorded |= segment->stream != stream;
  }
  return true;
}

void ForeignPools::add_segments(
    c10::MempoolId_t pool,
    std::vector<c10::CachingDeviceAllocator::SegmentInfo>& segments) {
  std::lock_guard<std::mutex> guard(mutex_);
  for (const auto& [base, segment] : segments_) {
    if (pool != c10::MempoolId_t{0, 0} && segment.key.second != pool) {
      continue;
    }
    c10::CachingDeviceAllocator::SegmentInfo info;
    info.device = segment.key.first;
    info.address = reinterpret_cast<size_t>(base);
    info.total_size = segment.size;
    info.stream = segment.stream;
    info.is_large = segment.large;
    info.owner_private_pool_id = segment.key.second;
    for (const auto& [address, block] : segment.blocks) {
      c10::CachingDeviceAllocator::BlockInfo out;
      out.size = block.size;
      out.requested_size = block.requested;
      out.allocated = block.state == State::LIVE;
      out.active = block.state != State::FREE;
      info.allocated_size += out.allocated ? block.size : 0;
      info.active_size += out.active ? block.size : 0;
      info.requested_size += block.requested;
      info.blocks.push_back(std::move(out));
    }
    segments.push_back(std::move(info));
  }
}

void ForeignPools::look_again() {
  set_watching(Watcher::FOREIGN_POOLS, !pools_.empty() || !segments_.empty());
}

} // namespace drystone_torch
