// Recording, and joining libdrystone's events with what torch knows of them.
#include "history.h"

#include "library.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/ApproximateClock.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <map>

namespace drystone_torch {

History& history = *new History();
thread_local std::vector<std::string> compile_contexts;
thread_local std::string user_metadata;

namespace {

// Events that are kept for trackers, which are told after each request, free and emptying.
constexpr size_t KEPT_FOR_TRACKERS = 1 << 16;

using Action = History::Entry::Action;

Action action_of(const drystone_event_t& event) {
  switch (event.action) {
    case DRYSTONE_ACTION_ALLOC:
      return Action::ALLOC;
    case DRYSTONE_ACTION_FREE_REQUESTED:
      return Action::FREE_REQUESTED;
    case DRYSTONE_ACTION_FREE_COMPLETED:
      return Action::FREE_COMPLETED;
    case DRYSTONE_ACTION_SEGMENT_ALLOC:
      return Action::SEGMENT_ALLOC;
    case DRYSTONE_ACTION_SEGMENT_FREE:
      return Action::SEGMENT_FREE;
    case DRYSTONE_ACTION_SEGMENT_MAP:
      return Action::SEGMENT_MAP;
    case DRYSTONE_ACTION_SEGMENT_UNMAP:
      return Action::SEGMENT_UNMAP;
    case DRYSTONE_ACTION_OOM:
      return Action::OOM;
    default:
      return Action::SNAPSHOT;
  }
}

// Events from number `since` on, oldest first, and the number of the next one.
std::pair<std::vector<drystone_event_t>, uint64_t> events_since(uint64_t since) {
  std::vector<drystone_event_t> events;
  uint64_t next = 0;
  const auto add = [](const drystone_event_t* event, void* user) {
    static_cast<std::vector<drystone_event_t>*>(user)->push_back(*event);
  };
  check(library.visit_history(process, since, add, &events, &next));
  return {std::move(events), next};
}

History::Entry entry_of(const drystone_event_t& event) {
  return {
      action_of(event),
      static_cast<c10::DeviceIndex>(event.device),
      event.address,
      event.size,
      reinterpret_cast<void*>(event.stream),
      {event.pool.a, event.pool.b},
      c10::getApproximateTime()};
}

// To be added to libdrystone's clock to get nanoseconds since 1970.
int64_t clock_offset() {
  uint64_t clock = 0;
  check(library.clock_ns(process, &clock));
  return c10::getTimeSinceEpoch() - static_cast<int64_t>(clock);
}

} // namespace

void History::start() {
  std::lock_guard<std::mutex> guard(mutex_);
  // Otherwise the ring stays as it was configured.
  if (watches()) {
    resize_ring();
  }
}

void History::record(
    bool enabled,
    c10::CachingDeviceAllocator::CreateContextFn recorder,
    size_t max_entries,
    RecordContext when,
    bool clear,
    const std::vector<std::string>& skip_actions) {
  TORCH_CHECK(when == RecordContext::NEVER || recorder != nullptr, "contexts need a recorder");
  std::vector<bool> skipped(Entry::OOM + 1);
  for (const auto& name : skip_actions) {
    skipped[c10::CachingDeviceAllocator::parseTraceEntryAction(name)] = true;
  }
  std::lock_guard<std::mutex> guard(mutex_);
  skipped_ = std::move(skipped);
  max_entries_ = std::max<size_t>(max_entries, 1);
  if (process != nullptr && (!enabled || clear)) {
    first_event_ = events_since(UINT64_MAX).second;
  }
  if (!enabled || clear) {
    notes_.clear();
    releases_.clear();
    annotations_.clear();
  }
  recorder_ = enabled ? recorder : nullptr;
  when_ = enabled ? when : RecordContext::NEVER;
  if (records_.exchange(enabled) || enabled) {
    resize_ring();
  }
  look_again();
}

void History::annotate(const std::vector<std::pair<std::string, std::string>>& data) {
  if (!records()) {
    return;
  }
  // The mark of the trace is on the current device, as in torch's own allocator.
  c10::DeviceIndex device = 0;
  C10_CUDA_CHECK(c10::cuda::GetDevice(&device));
  Annotation annotation(device, 0);
  annotation.time_.t_ = c10::getTimeSinceEpoch() / 1000;
  for (const auto& [name, value] : data) {
    annotation.recordUserMetadata(name, value);
  }
  std::lock_guard<std::mutex> guard(mutex_);
  annotations_.push_back(std::move(annotation));
  if (annotations_.size() > max_entries_) {
    annotations_.pop_front();
  }
}

void History::add_tracker(Tracker tracker) {
  std::lock_guard<std::mutex> telling(trackers_mutex_);
  std::lock_guard<std::mutex> guard(mutex_);
  if (trackers_.empty() && process != nullptr) {
    next_told_ = events_since(UINT64_MAX).second;
  }
  trackers_.push_back(std::move(tracker));
  resize_ring();
  look_again();
}

History::Context History::gather(RecordContext level) const {
  const auto recorder = recorder_.load();
  return recorder != nullptr && when_.load() >= level ? recorder() : nullptr;
}

History::Context History::context_of_request() const {
  return gather(RecordContext::STATE);
}

void History::allocated(void* pointer, Context context) {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    const auto address = reinterpret_cast<uint64_t>(pointer);
    if (context != nullptr) {
      live_[address] = context;
      look_again(); // recording may have ended meanwhile
    }
    note(Entry::ALLOC, address, when_ >= RecordContext::ALLOC ? std::move(context) : nullptr);
  }
  tell_trackers();
}

void History::freeing(void* pointer) {
  auto context = gather(RecordContext::ALL);
  const auto address = reinterpret_cast<uint64_t>(pointer);
  std::lock_guard<std::mutex> guard(mutex_);
  live_.erase(address);
  note(Entry::FREE_REQUESTED, address, std::move(context));
  look_again();
}

void History::out_of_memory() {
  if (!records()) {
    return;
  }
  auto context = gather(RecordContext::ALLOC);
  std::lock_guard<std::mutex> guard(mutex_);
  note(Entry::OOM, 0, std::move(context));
}

History::Context History::context_of_release() const {
  return gather(RecordContext::ALL);
}

uint64_t History::next_event() const {
  return events_since(UINT64_MAX).second;
}

void History::released(uint64_t since, Context context) {
  if (!records()) {
    return;
  }
  const auto until = next_event();
  std::lock_guard<std::mutex> guard(mutex_);
  if (since < until) {
    releases_.push_back({since, until, note_of(Entry::SEGMENT_FREE, 0, std::move(context))});
  }
  if (releases_.size() > max_entries_) {
    releases_.pop_front();
  }
}

History::Note History::note_of(Action action, uint64_t address, Context context) const {
  const auto compile_context = compile_contexts.empty() ? "" : compile_contexts.back();
  return {action, address, std::move(context), compile_context, user_metadata};
}

void History::note(Action action, uint64_t address, Context context) {
  if (!records()) {
    return;
  }
  notes_.push_back(note_of(action, address, std::move(context)));
  if (notes_.size() > max_entries_) {
    notes_.pop_front();
  }
}

void History::tell_trackers() {
  std::lock_guard<std::mutex> telling(trackers_mutex_);
  if (trackers_.empty()) {
    return;
  }
  auto [events, next] = events_since(next_told_);
  next_told_ = next;
  for (const auto& event : events) {
    const auto entry = entry_of(event);
    for (const auto& tracker : trackers_) {
      tracker(entry);
    }
  }
}

History::Context History::context_of(uint64_t address) {
  std::lock_guard<std::mutex> guard(mutex_);
  const auto found = live_.find(address);
  return found == live_.end() ? nullptr : found->second;
}

// Both lists are in the order in which things happened to one address, and both have lost their oldest
// entries, so they are joined from the end.
std::vector<std::vector<History::Entry>> History::traces(size_t devices) {
  std::unique_lock<std::mutex> guard(mutex_);
  const auto [events, next] = events_since(first_event_);
  const std::vector<Note> notes(notes_.begin(), notes_.end());
  const std::vector<Release> releases(releases_.begin(), releases_.end());
  const auto skipped = skipped_;
  const auto max_entries = max_entries_;
  guard.unlock();

  std::map<std::pair<Action, uint64_t>, std::vector<const Note*>> notes_of;
  for (const auto& note : notes) {
    notes_of[{note.action, note.address}].push_back(&note);
  }
  const auto last_note = [&](Action action, uint64_t address, bool take) -> const Note* {
    const auto found = notes_of.find({action, address});
    if (found == notes_of.end() || found->second.empty()) {
      return nullptr;
    }
    const auto* note = found->second.back();
    if (take) {
      found->second.pop_back();
    }
    return note;
  };

  const auto release_with = [&](uint64_t number) -> const Note* {
    const auto found = std::find_if(releases.begin(), releases.end(), [&](const Release& release) {
      return release.since <= number && number < release.until;
    });
    return found == releases.end() ? nullptr : &found->note;
  };

  const auto offset = clock_offset();
  std::vector<std::vector<Entry>> traces(devices);
  // Segments are taken for the request that is noted next on their stream.
  std::map<std::pair<int32_t, uint64_t>, const Note*> next_request;
  // Memory of any stream is given back for the request that is noted next on the device.
  std::map<int32_t, const Note*> next_of_device;
  uint64_t number = next;
  for (auto event = events.rbegin(); event != events.rend(); ++event) {
    auto entry = entry_of(*event);
    const Note* note = nullptr;
    --number;
    auto& request = next_request[{event->device, event->stream}];
    switch (entry.action_) {
      case Entry::ALLOC:
        note = request = last_note(Entry::ALLOC, event->address, true);
        next_of_device[event->device] = note;
        break;
      case Entry::FREE_REQUESTED:
        note = last_note(Entry::FREE_REQUESTED, event->address, true);
        break;
      case Entry::FREE_COMPLETED:
        note = last_note(Entry::FREE_REQUESTED, event->address, false);
        break;
      case Entry::OOM:
        note = request = last_note(Entry::OOM, 0, true);
        next_of_device[event->device] = note;
        break;
      case Entry::SEGMENT_ALLOC:
      case Entry::SEGMENT_MAP:
        note = request;
        break;
      case Entry::SEGMENT_FREE:
      case Entry::SEGMENT_UNMAP:
        note = release_with(number);
        note = note == nullptr ? next_of_device[event->device] : note;
        break;
      default:
        break;
    }
    const auto device = static_cast<size_t>(event->device);
    if (skipped[entry.action_] || device >= devices || traces[device].size() >= max_entries) {
      continue;
    }
    if (note != nullptr) {
      entry.context_ = note->context;
      entry.compile_context_ = note->compile_context;
      entry.user_metadata_ = note->user_metadata;
    }
    entry.time_.t_ = (static_cast<int64_t>(event->time_ns) + offset) / 1000;
    traces[device].push_back(std::move(entry));
  }
  for (auto& trace : traces) {
    std::reverse(trace.begin(), trace.end());
  }
  return traces;
}

std::vector<History::Annotation> History::annotations() {
  std::lock_guard<std::mutex> guard(mutex_);
  return {annotations_.begin(), annotations_.end()};
}

void History::resize_ring() {
  if (process == nullptr) {
    return;
  }
  const size_t recorded = records() ? max_entries_ : 0;
  const size_t told = trackers_.empty() ? 0 : KEPT_FOR_TRACKERS;
  check(library.history_set(process, std::max(recorded, told)));
}

void History::look_again() {
  set_watching(Watcher::HISTORY, records() || !live_.empty() || !trackers_.empty());
}

} // namespace drystone_torch
