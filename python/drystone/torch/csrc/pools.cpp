// Private pools: for captured graphs, for torch.cuda.MemPool, and the states that the graph trees of
// torch.compile go back to.
#include "allocator.h"
#include "foreign.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>

#include <algorithm>

namespace drystone_torch {

namespace {

// Filters of ended scopes that are kept, since a request that runs now may still be asking one.
constexpr size_t KEPT_FILTERS = 256;

struct LiveBlock {
  void* address;
  uint64_t requested;
  bool operator==(const LiveBlock&) const = default;
};

// The live blocks of a pool at one time, in order of address.
struct PoolState : native::AllocatorState {
  MempoolId_t pool;
  std::vector<LiveBlock> live;
};

struct Visit {
  DeviceIndex device;
  drystone_pool_t pool;
  std::vector<LiveBlock> live;
};

void visit(const drystone_segment_t* segment, void* user) {
  auto& visit = *static_cast<Visit*>(user);
  const auto& pool = segment->pool;
  if (segment->device != visit.device || pool.a != visit.pool.a || pool.b != visit.pool.b) {
    return;
  }
  for (size_t i = 0; i < segment->block_count; ++i) {
    const auto& block = segment->blocks[i];
    if (block.state == DRYSTONE_ACTIVE_ALLOCATED) {
      visit.live.push_back({reinterpret_cast<void*>(block.address), block.requested});
    }
  }
}

std::vector<LiveBlock> live_blocks(DeviceIndex device, MempoolId_t pool) {
  Visit found{device, pool_of(pool), {}};
  check(library.visit_segments(ready(), &visit, &found));
  std::sort(found.live.begin(), found.live.end(), [](const LiveBlock& a, const LiveBlock& b) {
    return a.address < b.address;
  });
  return std::move(found.live);
}

bool contains(const std::vector<LiveBlock>& sorted, const LiveBlock& block) {
  const auto at = std::lower_bound(
      sorted.begin(), sorted.end(), block, [](const LiveBlock& a, const LiveBlock& b) {
        return a.address < b.address;
      });
  return at != sorted.end() && *at == block;
}

bool ask_filter(drystone_stream_t stream, void* user) {
  const auto& filter = *static_cast<const std::function<bool(cudaStream_t)>*>(user);
  try {
    return filter(reinterpret_cast<cudaStream_t>(stream));
  } catch (...) {
    // CUDA itself fails, as whoever calls it next is told. Nothing may be thrown through libdrystone.
    return false;
  }
}

} // namespace

void Allocator::beginAllocateToPool(DeviceIndex device, MempoolId_t pool, Filter filter) {
  // torch begins a graph's pool before the capture. Until then the graph's filter, which looks for the
  // capture, wants no stream; that of `use_mem_pool`, which looks for the thread, wants this one.
  const auto stream = c10::cuda::getCurrentCUDAStream(device).stream();
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  C10_CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  const bool captures = status != cudaStreamCaptureStatusNone || !filter(stream);
  const auto purpose = captures ? DRYSTONE_PURPOSE_CAPTURE : DRYSTONE_PURPOSE_USER;
  auto kept = std::make_unique<Filter>(filter);
  // Also a pool with another allocator: libdrystone has to know of the capture.
  check(library.begin_pool(ready(), device, pool_of(pool), purpose, &ask_filter, kept.get()));
  if (foreign_pools.any()) {
    foreign_pools.begin(device, pool, std::move(filter), captures);
  }
  std::lock_guard<std::mutex> guard(mutex_);
  filters_[{device, pool}] = std::move(kept);
}

void Allocator::endAllocateToPool(DeviceIndex device, MempoolId_t pool) {
  foreign_pools.end(device, pool);
  {
    // Before the end: the next one who begins the pool puts a filter of his own here.
    std::lock_guard<std::mutex> guard(mutex_);
    if (auto ended = filters_.extract({device, pool})) {
      ended_filters_.push_back(std::move(ended.mapped()));
    }
    if (ended_filters_.size() > KEPT_FILTERS) {
      ended_filters_.pop_front();
    }
  }
  check(library.end_pool(ready(), device, pool_of(pool)));
}

void Allocator::releasePool(DeviceIndex device, MempoolId_t pool) {
  check(library.release_pool(ready(), device, pool_of(pool)));
  uint32_t uses = 0;
  if (foreign_pools.any() &&
      (library.pool_use_count(process, device, pool_of(pool), &uses) != DRYSTONE_OK || uses == 0)) {
    foreign_pools.forget(device, pool);
  }
}

int Allocator::getPoolUseCount(DeviceIndex device, MempoolId_t pool) {
  uint32_t uses = 0;
  check(library.pool_use_count(ready(), device, pool_of(pool), &uses));
  return static_cast<int>(uses);
}

void Allocator::createOrIncrefPool(
    DeviceIndex device,
    MempoolId_t pool,
    std::shared_ptr<native::CUDAAllocator> allocator) {
  if (allocator != nullptr && allocator.get() != this) {
    foreign_pools.add(device, pool, std::move(allocator));
  }
  check(library.retain_pool(ready(), device, pool_of(pool)));
}

void Allocator::setUseOnOOM(DeviceIndex device, MempoolId_t pool, bool use_on_oom) {
  foreign_pools.set_use_on_oom(device, pool, use_on_oom);
  check(library.set_use_on_oom(ready(), device, pool_of(pool), use_on_oom));
}

void Allocator::setNoSplit(DeviceIndex device, MempoolId_t pool) {
  foreign_pools.set_no_split(device, pool);
  check(library.set_unsplit(ready(), device, pool_of(pool)));
}

bool Allocator::checkPoolLiveAllocations(
    DeviceIndex device,
    MempoolId_t pool,
    const std::unordered_set<void*>& expected) {
  const auto live = live_blocks(device, pool);
  return live.size() == expected.size() &&
      std::all_of(live.begin(), live.end(), [&](const LiveBlock& block) {
           return expected.count(block.address) > 0;
         });
}

std::shared_ptr<native::AllocatorState> Allocator::getCheckpointState(
    DeviceIndex device,
    MempoolId_t pool) {
  auto state = std::make_shared<PoolState>();
  state->pool = pool;
  state->live = live_blocks(device, pool);
  return state;
}

// The memory of a pool in which a graph was captured stays where it is, so the blocks of the state can be
// handed out again at their addresses. Blocks that are as they were then are left alone, but named as
// freed and as allocated, as torch expects it.
native::CheckpointDelta Allocator::setCheckpointPoolState(
    DeviceIndex device,
    std::shared_ptr<native::AllocatorState> state) {
  auto* wanted = dynamic_cast<PoolState*>(state.get());
  TORCH_CHECK(wanted != nullptr, "the state of a pool is not one that Drystone gave out");
  native::CheckpointDelta delta;
  const auto now = live_blocks(device, wanted->pool);
  for (const auto& block : now) {
    delta.ptrs_freed.push_back(block.address);
    if (!contains(wanted->live, block)) {
      free_block(block.address);
    }
  }
  for (const auto& block : wanted->live) {
    if (!contains(now, block)) {
      check(library.allocate_at(
          ready(), block.address, block.requested, device, pool_of(wanted->pool)));
    }
  }
  // Owners only now: one that dies with an error on the way would free what others use.
  const c10::Device cuda(c10::DeviceType::CUDA, device);
  for (const auto& block : wanted->live) {
    delta.dataptrs_allocd.emplace_back(block.address, block.address, &free_block, cuda);
  }
  return delta;
}

} // namespace drystone_torch
