// A CUDA runtime that has nothing but addresses, for the oracle: up to a capacity, and it prints who
// took and gave back what. The test's device (../device.rs) hands out the same addresses.

#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

/// The device of the run. Each piece of memory lies in a slot of 8 GiB of its own; the slots are
/// taken in an order that jumps, so that what is newer is not always higher.
struct FakeDevice {
  std::uint64_t capacity = 0, held = 0, peak = 0;
  /// Bytes by number; 0 where it was given back.
  std::vector<std::uint64_t> pieces;
  std::uint64_t events = 0;
  /// Whether streams have passed every event.
  bool passed = true;
  /// Whether lines are printed: not while an allocator takes itself apart.
  bool noted = true;

  static constexpr std::uint64_t slots = 16384;

  void begin(std::uint64_t bytes)
  {
    *this    = FakeDevice{};
    capacity = bytes;
  }

  static std::uint64_t address_of(std::uint64_t piece)
  {
    return ((piece * 40503) % slots + 1) << 33;
  }

  std::uint64_t piece_at(std::uint64_t address) const
  {
    for (std::uint64_t piece = 0; piece < pieces.size(); piece++)
      if (address >> 33 == address_of(piece) >> 33) return piece;
    std::abort();
  }

  bool take(std::uint64_t bytes, std::uint64_t& address)
  {
    bool const fits = bytes <= capacity - held;
    if (noted) std::printf("%c %lu\n", fits ? 'S' : 'x', bytes);
    if (!fits) return false;
    held += bytes;
    peak = std::max(peak, held);
    if (pieces.size() == slots) std::abort();
    address = address_of(pieces.size());
    pieces.push_back(bytes);
    return true;
  }

  void give(std::uint64_t address)
  {
    std::uint64_t const piece = piece_at(address);
    if (address != address_of(piece) || pieces[piece] == 0) std::abort();
    held -= pieces[piece];
    pieces[piece] = 0;
    if (noted) std::printf("R %lu\n", piece);
  }
};

inline FakeDevice device;

extern "C" {
cudaError_t cudaMalloc(void** pointer, size_t bytes)
{
  std::uint64_t address = 0;
  if (!device.take(bytes, address)) return cudaErrorMemoryAllocation;
  *pointer = reinterpret_cast<void*>(address);
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer)
{
  device.give(reinterpret_cast<std::uint64_t>(pointer));
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total)
{
  *available = device.capacity - device.held;
  *total     = device.capacity;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned)
{
  *event = reinterpret_cast<cudaEvent_t>(++device.events);
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t) { return device.passed ? cudaSuccess : cudaErrorNotReady; }

cudaError_t cudaGetDevice(int* number)
{
  *number = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count)
{
  *count = 1;
  return cudaSuccess;
}

char const* cudaGetErrorName(cudaError_t) { return "cudaErrorMemoryAllocation"; }
char const* cudaGetErrorString(cudaError_t) { return "out of memory"; }

// What works and does nothing here.
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
}
