// What happened to memory, with who asked for it. libdrystone keeps the events; what only torch knows of
// them (frames, the compiled function, the user's words) is kept here and joined when a snapshot is taken.
#pragma once

#include "watchers.h"

#include <c10/cuda/CUDACachingAllocator.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace drystone_torch {

class History {
 public:
  using Context = std::shared_ptr<c10::GatheredContext>;
  using Entry = c10::CachingDeviceAllocator::TraceEntry;
  using RecordContext = c10::CachingDeviceAllocator::RecordContext;
  using Tracker = c10::CachingDeviceAllocator::AllocatorTraceTracker;
  using Annotation = c10::CachingDeviceAllocator::AnnotationEntry;

  // Whether requests and frees have to be told.
  bool watches() const {
    return is_watching(Watcher::HISTORY);
  }
  bool records() const {
    return records_.load(std::memory_order_relaxed);
  }

  // libdrystone's allocator is there: what was asked for before takes effect.
  void start();
  void record(
      bool enabled,
      c10::CachingDeviceAllocator::CreateContextFn recorder,
      size_t max_entries,
      RecordContext when,
      bool clear,
      const std::vector<std::string>& skip_actions);
  void annotate(const std::vector<std::pair<std::string, std::string>>& data);
  void add_tracker(Tracker tracker);

  // Who asks for memory now. To be called before the request: it may wait for Python.
  Context context_of_request() const;
  void allocated(void* pointer, Context context);
  // To be called before the free: afterwards the address may be another block's.
  void freeing(void* pointer);
  void out_of_memory();
  // Who gives memory back to the device now; null if that is not to be recorded.
  Context context_of_release() const;
  // The number of the next event.
  uint64_t next_event() const;
  // Memory was given back by the events from number `since` on.
  void released(uint64_t since, Context context);
  // Tells the trackers what happened since they were told last.
  void tell_trackers();

  // Who asked for a live block; null if that was not recorded.
  Context context_of(uint64_t address);
  // The recorded events of each device, oldest first, with times in microseconds since 1970.
  std::vector<std::vector<Entry>> traces(size_t devices);
  std::vector<Annotation> annotations();

 private:
  // What torch knows of an event.
  struct Note {
    Entry::Action action;
    uint64_t address;
    Context context;
    std::string compile_context;
    std::string user_metadata;
  };

  // Events in which a caller gave memory back, and what torch knows of it.
  struct Release {
    uint64_t since;
    uint64_t until;
    Note note;
  };

  Context gather(RecordContext level) const;
  Note note_of(Entry::Action action, uint64_t address, Context context) const;
  void note(Entry::Action action, uint64_t address, Context context);
  void resize_ring();
  void look_again();

  std::atomic<bool> records_{false};
  std::atomic<c10::CachingDeviceAllocator::CreateContextFn> recorder_{nullptr};
  std::atomic<RecordContext> when_{RecordContext::NEVER};

  std::mutex mutex_; // of what follows; never held while contexts are gathered
  std::deque<Note> notes_;
  std::deque<Release> releases_;
  std::unordered_map<uint64_t, Context> live_;
  std::deque<Annotation> annotations_;
  std::vector<bool> skipped_ = std::vector<bool>(Entry::OOM + 1);
  size_t max_entries_ = 1;
  uint64_t first_event_ = 0; // what came before was cleared

  std::mutex trackers_mutex_; // held while they are told, so that they see events in order
  std::vector<Tracker> trackers_;
  uint64_t next_told_ = 0;
};

// Never destroyed: tensors may be freed until the process ends.
extern History& history;

// The calling thread's words for what it allocates.
extern thread_local std::vector<std::string> compile_contexts;
extern thread_local std::string user_metadata;

} // namespace drystone_torch
