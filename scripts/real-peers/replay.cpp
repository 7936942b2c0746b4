// Replays the requests of a trace through a real allocator on this machine's GPU, without work, and
// prints what it held and how long it took as a line of JSON.
//
// Usage: replay LIBRARY SECONDS EVENTS LIMIT
//   SECONDS  the most that a run may take
//   EVENTS   records of four 64-bit numbers: 0 for an allocation or 1 for a free, id, bytes, stream
//   LIMIT    bytes that the device has in a last run, the rest being taken; 0 for no such run

#include "libraries.hpp"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <vector>

namespace {

struct Event {
  std::uint64_t free, id, bytes, stream;
};

std::uint64_t available()
{
  std::size_t bytes = 0, total = 0;
  must(cudaMemGetInfo(&bytes, &total) == cudaSuccess, "cudaMemGetInfo");
  return bytes;
}

/// What came of a run.
struct Run {
  double seconds      = 0;
  std::uint64_t done  = 0;  ///< Events.
  bool out_of_memory  = false;
  std::uint64_t taken = 0, device = 0;  ///< The most that was held, by the library and by the device.
};

class Replay {
 public:
  Replay(Library& library, std::vector<Event> events, double most)
    : library_(library), events_(std::move(events)), most_(most)
  {
    std::uint64_t blocks = 0, streams = 0;
    for (auto const& event : events_) {
      blocks  = std::max(blocks, event.id + 1);
      streams = std::max(streams, event.stream + 1);
    }
    blocks_.resize(blocks);
    streams_.resize(streams);
    for (std::size_t stream = 1; stream < streams; stream++)
      must(cudaStreamCreateWithFlags(&streams_[stream], cudaStreamNonBlocking) == cudaSuccess, "a stream");
  }

  /// Plays all events. `before` is what the device had free before; 0 leaves out what is held.
  Run run(std::uint64_t before)
  {
    using Clock      = std::chrono::steady_clock;
    auto const start = Clock::now();
    auto since       = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    Run run;
    for (auto const& event : events_) {
      auto& block = blocks_[event.id];
      if (event.free != 0) {
        if (block.pointer != nullptr)
          library_.free(block.pointer, block.bytes, streams_[block.stream]);
        block.pointer = nullptr;
      } else {
        block = {library_.allocate(event.bytes, streams_[event.stream]), event.bytes, event.stream};
        if (block.pointer == nullptr && event.bytes > 0) {
          run.out_of_memory = true;
          break;
        }
        if (before != 0) watch(run, before);
      }
      run.done++;
      if (run.done % 256 == 0 && since() > most_) break;
    }
    run.seconds = since();
    for (auto& block : blocks_) {
      if (block.pointer != nullptr) library_.free(block.pointer, block.bytes, streams_[block.stream]);
      block.pointer = nullptr;
    }
    cudaDeviceSynchronize();
    return run;
  }

 private:
  struct Block {
    void* pointer = nullptr;
    std::uint64_t bytes = 0, stream = 0;
  };

  void watch(Run& run, std::uint64_t before)
  {
    auto const taken = library_.taken();
    if (taken <= run.taken) return;
    run.taken      = taken;
    auto const now = available();
    run.device     = std::max(run.device, before - std::min(before, now));
  }

  Library& library_;
  std::vector<Event> events_;
  double most_;
  std::vector<Block> blocks_;
  std::vector<cudaStream_t> streams_;
};

char const* text(bool yes) { return yes ? "true" : "false"; }

}  // namespace

int main(int count, char** arguments)
{
  if (count != 5) {
    std::fprintf(stderr, "usage: replay LIBRARY SECONDS EVENTS LIMIT\n");
    return 2;
  }
  std::ifstream file(arguments[3], std::ios::binary | std::ios::ate);
  must(file.good(), "opening the events");
  std::vector<Event> events(static_cast<std::size_t>(file.tellg()) / sizeof(Event));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(events.data()),
            static_cast<std::streamsize>(events.size() * sizeof(Event)));
  std::uint64_t const limit = std::strtoull(arguments[4], nullptr, 10);

  must(cudaFree(nullptr) == cudaSuccess, "starting CUDA");
  auto const before = available();
  auto library      = library_named(arguments[1]);
  if (!library) {
    std::fprintf(stderr, "replay: there is no library %s\n", arguments[1]);
    return 2;
  }
  Replay replay(*library, events, std::strtod(arguments[2], nullptr));
  auto const watched = replay.run(before);
  library->clear();
  std::printf("{\"free\": %lu, \"events\": %zu, \"done\": %lu, \"oom\": %s, ",
              before, events.size(), watched.done, text(watched.out_of_memory));
  std::printf("\"peak_library_bytes\": %lu, \"peak_device_bytes\": %lu", watched.taken, watched.device);
  if (watched.done == events.size()) {
    auto const first = replay.run(0), again = replay.run(0);
    auto const each  = 1e9 / static_cast<double>(events.size());
    std::printf(", \"first_s\": %.6f, \"first_ns\": %.1f, \"again_ns\": %.1f",
                first.seconds, first.seconds * each, again.seconds * each);
    library->clear();
    auto const left = available();
    void* rest      = nullptr;
    if (limit != 0 && limit < left && cudaMalloc(&rest, left - limit) == cudaSuccess) {
      auto const limited = replay.run(0);
      std::printf(", \"limit_bytes\": %lu, \"fits_limit\": %s, \"limit_done\": %lu",
                  limit, text(limited.done == events.size()), limited.done);
    }
  }
  std::printf("}\n");
  std::fflush(stdout);
  // Without taking anything apart: the process ends, and the device has all back.
  std::_Exit(0);
}
