// What memory looks like: torch's snapshot, and the questions that a walk over the segments answers.
#include "allocator.h"
#include "foreign.h"

#include <c10/cuda/CUDAAllocatorConfig.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

namespace drystone_torch {

namespace {

using Visitor = std::function<void(const drystone_segment_t&)>;

void visit_segments(const Visitor& visitor) {
  const auto call = [](const drystone_segment_t* segment, void* user) {
    (*static_cast<const Visitor*>(user))(*segment);
  };
  check(library.visit_segments(ready(), call, const_cast<Visitor*>(&visitor)));
}

c10::CachingDeviceAllocator::SegmentInfo info_of(const drystone_segment_t& segment) {
  c10::CachingDeviceAllocator::SegmentInfo info;
  info.device = static_cast<DeviceIndex>(segment.device);
  info.address = segment.address;
  info.total_size = segment.size;
  info.stream = reinterpret_cast<void*>(segment.stream);
  info.is_large = segment.large;
  info.is_expandable = segment.mapped;
  info.owner_private_pool_id = id_of(segment.pool);
  info.blocks.reserve(segment.block_count);
  for (size_t i = 0; i < segment.block_count; ++i) {
    const auto& block = segment.blocks[i];
    c10::CachingDeviceAllocator::BlockInfo out;
    out.size = block.size;
    out.requested_size = block.requested;
    out.allocated = block.state == DRYSTONE_ACTIVE_ALLOCATED;
    out.active = block.state != DRYSTONE_INACTIVE;
    if (out.allocated) {
      info.allocated_size += out.size;
      out.context_when_allocated = history.context_of(block.address);
    }
    if (out.active) {
      info.active_size += out.size;
      info.requested_size += out.requested_size;
    }
    info.blocks.push_back(std::move(out));
  }
  return info;
}

std::string settings() {
  drystone_text_t* text = nullptr;
  check(library.config_text(ready(), &text));
  std::string out(library.text_data(text), library.text_size(text));
  library.text_free(text);
  return out;
}

// The value of a key in settings such as "limit:8GiB,reserve:lean"; empty if it is not there.
std::string value_of(const std::string& settings, const std::string& key) {
  const std::string text = "," + settings;
  const auto at = text.find("," + key + ":");
  if (at == std::string::npos) {
    return "";
  }
  const auto start = at + key.size() + 2;
  return text.substr(start, text.find(',', start) - start);
}

// torch's settings as Drystone has them; those of pinned memory are torch's own.
native::AllocatorConfigInfo config_info(size_t max_split_size) {
  native::AllocatorConfigInfo info{};
  info.last_allocator_settings = settings();
  const auto threshold = value_of(info.last_allocator_settings, "garbage_collection_threshold");
  info.garbage_collection_threshold = std::strtod(threshold.c_str(), nullptr);
  info.max_split_size = max_split_size;
  info.pinned_num_register_threads = native::CUDAAllocatorConfig::pinned_num_register_threads();
  info.expandable_segments = value_of(info.last_allocator_settings, "backing") != "malloc";
  info.release_lock_on_malloc = true;
  info.pinned_use_host_register = native::CUDAAllocatorConfig::pinned_use_cuda_host_register();
  info.graph_capture_record_stream_reuse = false;
  // One number holds for all sizes; a list is in `last_allocator_settings` as it stands.
  const auto divisions = value_of(info.last_allocator_settings, "roundup_power2_divisions");
  info.roundup_power2_divisions.assign(16, std::strtoull(divisions.c_str(), nullptr, 10));
  return info;
}

size_t devices() {
  uint32_t count = 0;
  check(library.device_count(ready(), &count));
  return count;
}

} // namespace

void* segment_of_driver(void* inside) {
  const auto address = reinterpret_cast<uint64_t>(inside);
  void* base = nullptr;
  visit_segments([&](const drystone_segment_t& segment) {
    if (!segment.mapped && segment.address <= address && address - segment.address < segment.size) {
      base = reinterpret_cast<void*>(segment.address);
    }
  });
  return base;
}

native::SnapshotInfo Allocator::snapshot(MempoolId_t pool, bool include_traces) {
  native::SnapshotInfo out;
  if (process == nullptr) {
    return out;
  }
  // First what happened: that a snapshot was taken is an event of the next one, as in torch.
  if (include_traces) {
    out.device_traces = history.traces(devices());
    out.external_annotations = history.annotations();
  }
  visit_segments([&](const drystone_segment_t& segment) {
    if (pool == MempoolId_t{0, 0} || pool == id_of(segment.pool)) {
      out.segments.push_back(info_of(segment));
    }
  });
  foreign_pools.add_segments(pool, out.segments);
  out.config_metadata = config_info(static_cast<size_t>(getDeviceStats(0).max_split_size));
  return out;
}

std::vector<native::StreamSegmentSize> Allocator::getExpandableSegmentSizes(DeviceIndex device) {
  std::map<std::pair<drystone_stream_t, bool>, size_t> sizes;
  visit_segments([&](const drystone_segment_t& segment) {
    if (segment.device == device && segment.mapped) {
      sizes[{segment.stream, !segment.large}] += segment.size;
    }
  });
  std::vector<native::StreamSegmentSize> out;
  for (const auto& [of, size] : sizes) {
    out.emplace_back(reinterpret_cast<cudaStream_t>(of.first), of.second, size);
  }
  return out;
}

void Allocator::cacheInfo(DeviceIndex device, size_t* largest) {
  *largest = getMemoryInfo(device).first;
  visit_segments([&](const drystone_segment_t& segment) {
    for (size_t i = 0; segment.device == device && i < segment.block_count; ++i) {
      if (segment.blocks[i].state == DRYSTONE_INACTIVE) {
        *largest = std::max<size_t>(*largest, segment.blocks[i].size);
      }
    }
  });
}

void* Allocator::getBaseAllocation(void* pointer, size_t* size) {
  const auto address = reinterpret_cast<uint64_t>(pointer);
  void* base = nullptr;
  visit_segments([&](const drystone_segment_t& segment) {
    if (segment.address <= address && address - segment.address < segment.size) {
      base = reinterpret_cast<void*>(segment.address);
      if (size != nullptr) {
        *size = segment.size;
      }
    }
  });
  TORCH_CHECK(base != nullptr, "invalid device pointer: ", pointer);
  return base;
}

bool Allocator::isHistoryEnabled() {
  return history.records();
}

void Allocator::recordHistory(
    bool enabled,
    native::CreateContextFn recorder,
    size_t max_entries,
    native::RecordContext when,
    bool clear,
    const std::vector<std::string>& skip_actions) {
  history.record(enabled, recorder, max_entries, when, clear, skip_actions);
}

void Allocator::recordAnnotation(const std::vector<std::pair<std::string, std::string>>& data) {
  history.annotate(data);
}

void Allocator::pushCompileContext(std::string& context) {
  compile_contexts.push_back(context);
}

void Allocator::popCompileContext() {
  if (!compile_contexts.empty()) {
    compile_contexts.pop_back();
  }
}

void Allocator::setUserMetadata(const std::string& metadata) {
  user_metadata = metadata;
}

std::string Allocator::getUserMetadata() {
  return user_metadata;
}

void Allocator::attachAllocatorTraceTracker(native::AllocatorTraceTracker tracker) {
  history.add_tracker(std::move(tracker));
}

} // namespace drystone_torch
