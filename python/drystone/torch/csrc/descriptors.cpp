// The socket on which a process hands out the descriptors of what it shares.
#include "descriptors.h"

#include <c10/util/Exception.h>

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <thread>

namespace drystone_torch {

namespace {

// Linux sends at most 253 at once.
constexpr size_t AT_ONCE = 128;
constexpr int TIMEOUT_S = 30;

// Closes a descriptor at the end of its scope.
class Owned {
 public:
  explicit Owned(int fd) : fd_(fd) {}
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  int get() const {
    return fd_;
  }

 private:
  int fd_;
};

void close_all(const std::vector<int>& descriptors) {
  for (const int fd : descriptors) {
    close(fd);
  }
}

// An address without a file: it begins with a 0 and goes with its socket.
socklen_t address_of(const std::string& name, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  const auto size = std::min(name.size(), sizeof address.sun_path - 1);
  std::memcpy(address.sun_path + 1, name.data(), size);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + size);
}

// Nobody waits for ever for a process that has stopped.
void set_timeout(int socket) {
  const timeval limit{TIMEOUT_S, 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

bool is_of_this_user(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

bool send_some(int socket, const int* descriptors, size_t count) {
  char byte = 0;
  iovec content{&byte, 1};
  alignas(cmsghdr) char space[CMSG_SPACE(AT_ONCE * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &content;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = CMSG_SPACE(count * sizeof(int));
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(count * sizeof(int));
  std::memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
  return sendmsg(socket, &message, MSG_NOSIGNAL) == 1;
}

// Adds the descriptors of one message; false if none came.
bool receive_some(int socket, std::vector<int>& descriptors) {
  char byte = 0;
  iovec content{&byte, 1};
  alignas(cmsghdr) char space[CMSG_SPACE(AT_ONCE * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &content;
  message.msg_iovlen = 1;
  message.msg_control = space;
  message.msg_controllen = sizeof space;
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) {
    return false;
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return false;
  }
  const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  std::vector<int> some(count);
  std::memcpy(some.data(), CMSG_DATA(header), count * sizeof(int));
  descriptors.insert(descriptors.end(), some.begin(), some.end());
  return count > 0;
}

void answer(int client, const Descriptors& shared) {
  const Owned connection(client);
  set_timeout(client);
  uint64_t number = 0;
  if (!is_of_this_user(client) || recv(client, &number, sizeof number, MSG_WAITALL) != sizeof number) {
    return;
  }
  const auto descriptors = shared(number);
  for (size_t at = 0; at < descriptors.size(); at += AT_ONCE) {
    if (!send_some(client, &descriptors[at], std::min(AT_ONCE, descriptors.size() - at))) {
      break;
    }
  }
  close_all(descriptors);
}

} // namespace

std::string serve_descriptors(Descriptors descriptors) {
  static std::mutex mutex;
  static std::string name;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> guard(mutex);
  // A forked child has the name, but not the thread.
  if (owner == getpid()) {
    return name;
  }
  // The kernel makes up a name that nobody has.
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socklen_t size = sizeof(sa_family_t);
  if (listener < 0 || bind(listener, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      listen(listener, SOMAXCONN) != 0) {
    TORCH_CHECK(false, "Drystone cannot share memory: a socket: ", std::strerror(errno));
  }
  size = sizeof address;
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  name.assign(address.sun_path + 1, size - offsetof(sockaddr_un, sun_path) - 1);
  owner = getpid();
  std::thread([listener, shared = std::move(descriptors)] {
    while (true) {
      const int client = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (client >= 0) {
        answer(client, shared);
      } else if (errno != EINTR && errno != ECONNABORTED) {
        // Out of descriptors, as a rule: those who ask are told by their timeout.
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
    }
  }).detach();
  return name;
}

std::vector<int> fetch_descriptors(const std::string& name, uint64_t number, size_t count) {
  const Owned connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  const auto size = address_of(name, address);
  TORCH_CHECK(
      connection.get() >= 0 &&
          connect(connection.get(), reinterpret_cast<sockaddr*>(&address), size) == 0,
      "Drystone cannot reach the process that shared a tensor (it has ended, or it is in another network "
      "namespace): ", std::strerror(errno));
  set_timeout(connection.get());
  std::vector<int> descriptors;
  if (send(connection.get(), &number, sizeof number, MSG_NOSIGNAL) == sizeof number) {
    while (descriptors.size() < count && receive_some(connection.get(), descriptors)) {
    }
  }
  if (descriptors.size() != count) {
    close_all(descriptors);
    TORCH_CHECK(
        false,
        "the process that shared a tensor handed out ", descriptors.size(), " of ", count,
        " parts of its memory: it has freed the tensor, is of another user, or one of both processes has too "
        "many files open");
  }
  return descriptors;
}

} // namespace drystone_torch
