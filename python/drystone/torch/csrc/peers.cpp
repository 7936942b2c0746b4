// Other devices and other processes.
#include "allocator.h"
#include "descriptors.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include <unistd.h>

#include <cstring>
#include <mutex>
#include <unordered_map>

namespace drystone_torch {

namespace {

// What a process tells another of a block, as bytes: this, then for pages the bytes of each handle and the
// name to fetch the handles at, for a segment of the driver a cudaIpcMemHandle_t.
struct Header {
  enum Kind : uint32_t { PAGES = 0x44725031, SEGMENT = 0x44725331 };
  uint32_t kind;
  int32_t process;
  // Numbers of sharings do not come again, so names of different memory differ.
  uint64_t number;
  uint64_t handles;
};

struct Shared {
  std::string text;
  std::vector<drystone_shared_handle_t> handles;
  // The address of the first handle.
  uint64_t base;
  uint64_t number;
};

// What is shared. Never destroyed: the thread that answers lives until the process ends.
struct Sharing {
  std::mutex mutex; // of what follows
  std::unordered_map<void*, Shared> shared;
  uint64_t next_number = 0;
  std::unordered_map<std::string, std::weak_ptr<void>> opened;
};

Sharing& sharing() {
  static auto* all = new Sharing();
  return *all;
}

template <typename T>
void append(std::string& text, const T& value) {
  text.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T take(const std::string& text, size_t& at) {
  TORCH_CHECK(at + sizeof(T) <= text.size(), "a shared tensor's handle is cut short");
  T value;
  std::memcpy(&value, text.data() + at, sizeof value);
  at += sizeof value;
  return value;
}

// Copies of the descriptors that are shared under a number: the block may be freed while they are sent.
std::vector<int> descriptors_of(uint64_t number) {
  std::lock_guard<std::mutex> guard(sharing().mutex);
  for (const auto& [_, shared] : sharing().shared) {
    if (shared.number == number) {
      std::vector<int> copies;
      for (const auto& handle : shared.handles) {
        copies.push_back(dup(handle.fd));
      }
      return copies;
    }
  }
  return {};
}

std::string text_of(const Shared& shared) {
  std::string text;
  append(text, Header{Header::PAGES, getpid(), shared.number, shared.handles.size()});
  for (const auto& handle : shared.handles) {
    append(text, handle.bytes);
  }
  return text + serve_descriptors(&descriptors_of);
}

// A segment of the driver, which CUDA shares itself.
native::ShareableHandle share_segment(void* pointer, void* base) {
  cudaIpcMemHandle_t handle;
  C10_CUDA_CHECK(cudaIpcGetMemHandle(&handle, base));
  // The same segment has the same text always: who gets it twice opens it once.
  std::string text;
  append(text, Header{Header::SEGMENT, getpid(), 0, 0});
  append(text, handle);
  return {static_cast<char*>(pointer) - static_cast<char*>(base), std::move(text)};
}

std::shared_ptr<void> open_pages(const Header& header, const std::string& text, size_t at) {
  TORCH_CHECK(
      header.process != getpid(), "a shared tensor's handle was opened by the process that made it");
  TORCH_CHECK(header.handles <= text.size(), "a shared tensor's handle is cut short");
  std::vector<drystone_shared_handle_t> handles(header.handles);
  for (auto& handle : handles) {
    handle.bytes = take<uint64_t>(text, at);
  }
  const auto descriptors = fetch_descriptors(text.substr(at), header.number, handles.size());
  for (size_t i = 0; i < handles.size(); ++i) {
    handles[i].fd = descriptors[i];
  }
  void* address = nullptr;
  const auto status = library.import_handles(
      ready(), c10::cuda::current_device(), handles.data(), handles.size(), &address);
  for (const auto& handle : handles) {
    close(handle.fd);
  }
  check(status);
  return {address, [](void* imported) {
            // It runs when a tensor dies, and must not throw; libdrystone tries again later.
            library.end_import(process, imported);
          }};
}

std::shared_ptr<void> open_segment(const std::string& text, size_t at) {
  const auto handle = take<cudaIpcMemHandle_t>(text, at);
  const auto device = c10::cuda::current_device();
  void* address = nullptr;
  C10_CUDA_CHECK(cudaIpcOpenMemHandle(&address, handle, cudaIpcMemLazyEnablePeerAccess));
  return {address, [device](void* imported) {
            const c10::cuda::CUDAGuard guard(device);
            // At the end of the process CUDA may be gone, and the mapping with it.
            C10_CUDA_CHECK_WARN(cudaIpcCloseMemHandle(imported));
          }};
}

} // namespace

void end_sharing(void* pointer) {
  std::lock_guard<std::mutex> guard(sharing().mutex);
  auto& shared = sharing().shared;
  if (const auto found = shared.extract(pointer)) {
    for (const auto& handle : found.mapped().handles) {
      close(handle.fd);
    }
    set_watching(Watcher::SHARED_BLOCKS, !shared.empty());
  }
}

// `device` gets access to the memory of `peer`.
void Allocator::enablePeerAccess(DeviceIndex device, DeviceIndex peer) {
  const c10::cuda::CUDAGuard guard(device);
  const auto error = C10_CUDA_ERROR_HANDLED(cudaDeviceEnablePeerAccess(peer, 0));
  if (error == cudaErrorPeerAccessAlreadyEnabled) {
    (void)cudaGetLastError();
  } else {
    C10_CUDA_CHECK(error);
  }
  check(library.enable_peer_access(ready(), peer, device));
}

cudaError_t Allocator::memcpyAsync(
    void* dst,
    int dst_device,
    const void* src,
    int src_device,
    size_t count,
    cudaStream_t stream,
    bool p2p_enabled) {
  if (p2p_enabled || dst_device == src_device) {
    return cudaMemcpyAsync(dst, src, count, cudaMemcpyDeviceToDevice, stream);
  }
  // Pages that a device has no access to can only be copied so.
  return cudaMemcpyPeerAsync(dst, dst_device, src, src_device, count, stream);
}

native::ShareableHandle Allocator::shareIpcHandle(void* pointer) {
  drystone_block_t block{};
  check(library.block(process, pointer, &block));
  void* start = reinterpret_cast<void*>(block.address);
  const auto address = reinterpret_cast<uint64_t>(pointer);
  std::lock_guard<std::mutex> guard(sharing().mutex);
  auto& shared = sharing().shared;
  auto found = shared.find(start);
  if (found == shared.end()) {
    Shared made;
    const auto add = [](const drystone_shared_handle_t* handle, void* user) {
      static_cast<Shared*>(user)->handles.push_back(*handle);
    };
    uint64_t offset = 0;
    const auto status = library.export_block(process, start, add, &made, &offset);
    if (status == DRYSTONE_NOT_SUPPORTED) {
      const std::string why = library.last_error();
      if (void* base = segment_of_driver(start)) {
        return share_segment(pointer, base);
      }
      TORCH_CHECK(
          false,
          "Drystone cannot share this tensor with another process: ", why,
          ". Set DRYSTONE_CONF=backing:malloc, or send a copy in memory of the host");
    }
    check(status);
    made.base = block.address - offset;
    made.number = sharing().next_number++;
    made.text = text_of(made);
    found = shared.emplace(start, std::move(made)).first;
    set_watching(Watcher::SHARED_BLOCKS, !shared.empty());
  }
  return {static_cast<ptrdiff_t>(address - found->second.base), found->second.text};
}

std::shared_ptr<void> Allocator::getIpcDevPtr(std::string text) {
  size_t at = 0;
  const auto header = take<Header>(text, at);
  TORCH_CHECK(
      header.kind == Header::PAGES || header.kind == Header::SEGMENT,
      "this handle was not made by Drystone: the process that sends the tensor must use Drystone too");
  // Opened for each device that asks: the mapping is the device's.
  const auto key = text + static_cast<char>(c10::cuda::current_device());
  auto& opened = sharing().opened;
  {
    std::lock_guard<std::mutex> guard(sharing().mutex);
    if (auto known = opened[key].lock()) {
      return known;
    }
  }
  // Not under the lock, which is needed to answer: two processes may be asking each other.
  auto made =
      header.kind == Header::PAGES ? open_pages(header, text, at) : open_segment(text, at);
  std::lock_guard<std::mutex> guard(sharing().mutex);
  // Another thread may have opened it meanwhile; then there are two mappings of the same memory.
  std::erase_if(opened, [](const auto& entry) { return entry.second.expired(); });
  opened[key] = made;
  return made;
}

} // namespace drystone_torch
