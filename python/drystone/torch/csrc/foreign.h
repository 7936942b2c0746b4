// Pools whose memory comes from another allocator, as `torch.cuda.MemPool(allocator)` wants it: one that
// registers memory with the network, for one. Drystone has no part in that memory but that it counts against
// the limit; its segments and blocks are kept here, by torch's rules.
#pragma once

#include "watchers.h"

#include <c10/cuda/CUDACachingAllocator.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace drystone_torch {

class ForeignPools {
 public:
  using Source = std::shared_ptr<c10::cuda::CUDACachingAllocator::CUDAAllocator>;
  using Filter = std::function<bool(cudaStream_t)>;

  // Whether requests and frees have to be looked at.
  bool any() const {
    return is_watching(Watcher::FOREIGN_POOLS);
  }

  void add(c10::DeviceIndex device, c10::MempoolId_t pool, Source source);
  // Whether its free blocks serve requests of others before those fail; nothing if the pool is none of these.
  void set_use_on_oom(c10::DeviceIndex device, c10::MempoolId_t pool, bool use_on_oom);
  // Its segments hold one block each from now on.
  void set_no_split(c10::DeviceIndex device, c10::MempoolId_t pool);
  // Notes scopes of Drystone's own pools too: the innermost serves.
  void begin(c10::DeviceIndex device, c10::MempoolId_t pool, Filter filter, bool captures);
  void end(c10::DeviceIndex device, c10::MempoolId_t pool);
  // Nobody holds the pool any more: its segments go back once no block of theirs is live.
  void forget(c10::DeviceIndex device, c10::MempoolId_t pool);
  // Gives segments of forgotten pools without a live block back, after the device has done its work. Those
  // of pools that are held stay, as in torch: a graph may replay over them.
  void empty();

  // A block of the pool that wants the stream; null if none does.
  void* request(size_t size, c10::DeviceIndex device, cudaStream_t stream);
  // A free block of a pool that serves others before they fail; null if there is none.
  void* request_on_oom(size_t size, c10::DeviceIndex device, cudaStream_t stream);
  // False if the block is none of these.
  bool free(void* pointer);
  bool record_stream(void* pointer, cudaStream_t stream);
  void add_segments(
      c10::MempoolId_t pool,
      std::vector<c10::CachingDeviceAllocator::SegmentInfo>& segments);

 private:
  using Key = std::pair<c10::DeviceIndex, c10::MempoolId_t>;
  struct Pool {
    Source source;
    bool use_on_oom = false;
    bool no_split = false;
    bool captured = false; // graphs replay over its memory, free or not
  };
  // PENDING: freed, but another stream uses it: it serves no more before the device was waited for.
  enum class State { FREE, LIVE, PENDING };
  struct Block {
    size_t size;
    size_t requested;
    State state;
    bool recorded; // on another stream
  };
  using Blocks = std::map<char*, Block>;
  struct Segment {
    Key key;
    Source source;
    cudaStream_t stream;
    bool large;
    size_t size;
    Blocks blocks; // without gaps
  };
  using Segments = std::map<char*, Segment>;

  void* take(const Key& key, bool split, size_t size, cudaStream_t stream);
  void* carve(Segment& segment, Blocks::iterator block, bool split, size_t size);
  Segment* segment_of(void* pointer);
  void merge(Blocks& blocks, Blocks::iterator block);
  void look_again();

  std::mutex mutex_; // of what follows; never held while another allocator is called
  std::map<Key, Pool> pools_;
  std::vector<std::pair<Key, Filter>> begun_;
  Segments segments_;
};

extern ForeignPools& foreign_pools;

} // namespace drystone_torch
