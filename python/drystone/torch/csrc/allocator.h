// torch's CUDA allocator, answered by Drystone: every function that the class of torch 2.11 has.
#pragma once

#include "history.h"
#include "library.h"

#include <c10/cuda/CUDACachingAllocator.h>

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

namespace drystone_torch {

using c10::DeviceIndex;
using c10::MempoolId_t;
namespace native = c10::cuda::CUDACachingAllocator;

inline drystone_stream_t number_of(cudaStream_t stream) {
  return reinterpret_cast<drystone_stream_t>(stream);
}

inline drystone_pool_t pool_of(MempoolId_t id) {
  return {id.first, id.second};
}

inline MempoolId_t id_of(drystone_pool_t pool) {
  return {pool.a, pool.b};
}

// The allocator of the process, initialized if the program got here before torch did that.
drystone_allocator_t* ready();

// Closes the names of a block that was shared with other processes, if it was. To be called at every free
// while there are such blocks.
void end_sharing(void* pointer);

// Where the segment that the driver gave begins in which an address lies; null if it lies in pages.
void* segment_of_driver(void* inside);

// Frees a block: the deleter of every DataPtr that the allocator makes.
void free_block(void* pointer);

// It has no lock and no table on the way of an allocation or a free: libdrystone finds a block by its
// address.
class Allocator final : public native::CUDAAllocator {
 public:
  // allocator.cpp: requests and frees; figures.cpp: limits and figures.
  c10::DataPtr allocate(size_t size) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* dest, const void* src, std::size_t count) const override;
  void* raw_alloc(size_t size) override;
  void* raw_alloc_with_stream(size_t size, cudaStream_t stream) override;
  void raw_delete(void* pointer) override;
  void init(int device_count) override;
  bool initialized() override;
  std::string name() override;
  void enable(bool value) override;
  bool isEnabled() const override;
  double getMemoryFraction(DeviceIndex device) override;
  void setMemoryFraction(double fraction, DeviceIndex device) override;
  void emptyCache(MempoolId_t pool) override;
  using native::CUDAAllocator::recordStream;
  void recordStream(const c10::DataPtr& pointer, c10::cuda::CUDAStream stream) override;
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex device) override;
  void resetAccumulatedStats(DeviceIndex device) override;
  void resetPeakStats(DeviceIndex device) override;
  std::pair<size_t, size_t> getMemoryInfo(DeviceIndex device) override;
  void attachOutOfMemoryObserver(native::OutOfMemoryObserver observer) override;

  // pools.cpp: private pools and their states.
  void beginAllocateToPool(
      DeviceIndex device,
      MempoolId_t pool,
      std::function<bool(cudaStream_t)> filter) override;
  void endAllocateToPool(DeviceIndex device, MempoolId_t pool) override;
  void releasePool(DeviceIndex device, MempoolId_t pool) override;
  int getPoolUseCount(DeviceIndex device, MempoolId_t pool) override;
  void createOrIncrefPool(
      DeviceIndex device,
      MempoolId_t pool,
      std::shared_ptr<native::CUDAAllocator> allocator) override;
  void setUseOnOOM(DeviceIndex device, MempoolId_t pool, bool use_on_oom) override;
  void setNoSplit(DeviceIndex device, MempoolId_t pool) override;
  bool checkPoolLiveAllocations(
      DeviceIndex device,
      MempoolId_t pool,
      const std::unordered_set<void*>& expected) override;
  std::shared_ptr<native::AllocatorState> getCheckpointState(DeviceIndex device, MempoolId_t pool)
      override;
  native::CheckpointDelta setCheckpointPoolState(
      DeviceIndex device,
      std::shared_ptr<native::AllocatorState> state) override;

  // snapshot.cpp: what memory looks like, and what happened to it.
  native::SnapshotInfo snapshot(MempoolId_t pool, bool include_traces) override;
  std::vector<native::StreamSegmentSize> getExpandableSegmentSizes(DeviceIndex device) override;
  void cacheInfo(DeviceIndex device, size_t* largest) override;
  void* getBaseAllocation(void* pointer, size_t* size) override;
  bool isHistoryEnabled() override;
  void recordHistory(
      bool enabled,
      native::CreateContextFn recorder,
      size_t max_entries,
      native::RecordContext when,
      bool clear,
      const std::vector<std::string>& skip_actions) override;
  void recordAnnotation(const std::vector<std::pair<std::string, std::string>>& data) override;
  void pushCompileContext(std::string& context) override;
  void popCompileContext() override;
  void setUserMetadata(const std::string& metadata) override;
  std::string getUserMetadata() override;
  void attachAllocatorTraceTracker(native::AllocatorTraceTracker tracker) override;

  // peers.cpp: other devices and other processes.
  void enablePeerAccess(DeviceIndex device, DeviceIndex peer) override;
  cudaError_t memcpyAsync(
      void* dst,
      int dst_device,
      const void* src,
      int src_device,
      size_t count,
      cudaStream_t stream,
      bool p2p_enabled) override;
  native::ShareableHandle shareIpcHandle(void* pointer) override;
  std::shared_ptr<void> getIpcDevPtr(std::string handle) override;

 private:
  using Filter = std::function<bool(cudaStream_t)>;
  using Scope = std::pair<DeviceIndex, MempoolId_t>;
  // A fraction that was set, and the bytes that it came to.
  struct Fraction {
    double fraction;
    uint64_t limit;
  };

  // Memory of libdrystone, or of a pool's own allocator; whoever listens is told of it.
  void* request(size_t size, DeviceIndex device, cudaStream_t stream);
  void* request_and_tell(size_t size, DeviceIndex device, cudaStream_t stream);
  // Memory of libdrystone.
  void* serve(size_t size, DeviceIndex device, cudaStream_t stream);
  [[noreturn]] void failed(drystone_status_t status, size_t size, DeviceIndex device);

  std::mutex mutex_; // of what follows; never held in a call to libdrystone that allocates
  std::vector<native::OutOfMemoryObserver> observers_;
  std::map<DeviceIndex, Fraction> fractions_;
  std::map<Scope, std::unique_ptr<Filter>> filters_;
  std::deque<std::unique_ptr<Filter>> ended_filters_;
};

// The figures of a device.
drystone_stats_t stats_of(DeviceIndex device);

// The one that is installed. Never destroyed: tensors may be freed until the process ends.
Allocator& allocator();

} // namespace drystone_torch
