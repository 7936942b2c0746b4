// Descriptors from process to process: a parent that shares, a child that fetches.
#include "descriptors.h"

#include <c10/util/Exception.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace {

constexpr int COUNT = 300; // more than one message holds

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "not so: %s\n", what);
    std::exit(1);
  }
}

int memory_with(int value) {
  const int fd = memfd_create("shared", MFD_CLOEXEC);
  require(write(fd, &value, sizeof value) == sizeof value, "memory is written");
  return fd;
}

size_t open_files() {
  size_t open = 0;
  for (int fd = 0; fd < 2048; ++fd) {
    open += lseek(fd, 0, SEEK_CUR) >= 0;
  }
  return open;
}

std::string refusal(const std::string& name, uint64_t number, size_t count) {
  try {
    drystone_torch::fetch_descriptors(name, number, count);
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

int child(const std::string& name) {
  const auto before = open_files();
  const auto descriptors = drystone_torch::fetch_descriptors(name, 7, COUNT);
  require(descriptors.size() == COUNT, "all of them came");
  for (int i = 0; i < COUNT; ++i) {
    int value = -1;
    require(pread(descriptors[i], &value, sizeof value, 0) == sizeof value, "memory is read");
    require(value == i, "in their order");
    close(descriptors[i]);
  }
  require(refusal(name, 8, 1).find("it has freed the tensor") != std::string::npos, "nothing there");
  require(refusal(name, 7, 1).find("handed out") != std::string::npos, "more than was told");
  require(refusal("nobody", 7, 1).find("cannot reach") != std::string::npos, "nobody there");
  require(open_files() == before, "nothing stays open");
  return 0;
}

} // namespace

int main() {
  const rlimit files{2048, 2048};
  setrlimit(RLIMIT_NOFILE, &files);
  const auto shared = [](uint64_t number) {
    std::vector<int> descriptors;
    for (int i = 0; number == 7 && i < COUNT; ++i) {
      descriptors.push_back(memory_with(i));
    }
    return descriptors;
  };
  const auto name = drystone_torch::serve_descriptors(shared);
  require(drystone_torch::serve_descriptors(shared) == name, "once is enough");
  for (int round = 0; round < 3; ++round) {
    const pid_t pid = fork();
    if (pid == 0) {
      return child(name);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    require(status == 0, "the child is content");
  }
  std::puts("fetched");
}
