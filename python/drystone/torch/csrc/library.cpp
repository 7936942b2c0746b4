// Finding the functions of libdrystone, and its errors as torch's exceptions.
#include "library.h"

#include <c10/util/Exception.h>

#include <dlfcn.h>

#include <stdexcept>

namespace drystone_torch {

Library library;
std::atomic<drystone_allocator_t*> process{nullptr};

namespace {

void* find(void* handle, const char* path, const char* name) {
  void* found = dlsym(handle, name);
  if (found == nullptr) {
    throw std::runtime_error(
        std::string(path) + " has no " + name + ": it is another version than the adapter's");
  }
  return found;
}

} // namespace

void load_library(const char* path) {
  // It stays loaded: torch calls it until the process ends.
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw std::runtime_error(std::string("cannot load ") + path + ": " + dlerror());
  }
  Library found;
#define DRYSTONE_FIND(name)                                                                        \
  found.name = reinterpret_cast<decltype(found.name)>(find(handle, path, "drystone_" #name));
  DRYSTONE_REQUIRED(DRYSTONE_FIND)
#undef DRYSTONE_FIND
  found.export_block = reinterpret_cast<decltype(found.export_block)>(
      find(handle, path, "drystone_export"));
  found.import_handles = reinterpret_cast<decltype(found.import_handles)>(
      find(handle, path, "drystone_import"));
  if (found.abi_version() != DRYSTONE_ABI_VERSION) {
    throw std::runtime_error(
        std::string(path) + " speaks version " + std::to_string(found.abi_version()) +
        " of the C interface, the adapter was built for version " +
        std::to_string(DRYSTONE_ABI_VERSION));
  }
  library = found;
}

void fail(drystone_status_t status) {
  const std::string message = library.last_error();
  TORCH_CHECK_WITH(OutOfMemoryError, status != DRYSTONE_OUT_OF_MEMORY, message);
  TORCH_CHECK(false, message);
}

} // namespace drystone_torch
