// What adapter.py calls: plain C functions, so that one build serves every version of Python.
#include "allocator.h"

#include <torch/csrc/cuda/CUDAPluggableAllocator.h>

#include <cstring>

namespace {

void say(char* message, size_t size, const char* text) {
  std::strncpy(message, text, size - 1);
  message[size - 1] = '\0';
}

} // namespace

extern "C" {

// Puts the adapter in the place of torch's CUDA allocator, over the libdrystone at `path`. 0 if that was
// done; otherwise `message`, of `size` bytes, says why not.
__attribute__((visibility("default"))) int drystone_adapter_install(
    const char* path,
    char* message,
    size_t size) {
  using drystone_torch::allocator;
  try {
    drystone_torch::load_library(path);
    // Nobody owns it: it has to outlive all tensors, and torch's own pointer to it ends before some do.
    const std::shared_ptr<c10::cuda::CUDACachingAllocator::CUDAAllocator> shared(
        &allocator(), [](auto*) {});
    torch::cuda::CUDAPluggableAllocator::changeCurrentAllocator(shared);
    // torch.accelerator asks the registry of c10.
    c10::SetAllocator(c10::DeviceType::CUDA, &allocator(), 1);
    return 0;
  } catch (const c10::Error& error) {
    say(message, size, error.what_without_backtrace());
  } catch (const std::exception& error) {
    say(message, size, error.what());
  }
  return 1;
}

// Initializes the allocator as torch does, on machines where torch finds no CUDA device: for tests over
// the simulated one.
__attribute__((visibility("default"))) int drystone_adapter_init(
    int devices,
    char* message,
    size_t size) {
  try {
    drystone_torch::allocator().init(devices);
    return 0;
  } catch (const c10::Error& error) {
    say(message, size, error.what_without_backtrace());
    return 1;
  }
}

} // extern "C"
