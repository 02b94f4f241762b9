// SPDX-License-Identifier: MIT
#include "fork_watch.h"

#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>

#include "../base/scoped_fd.h"

namespace bpftime::target {

struct ForkWatch::Shared {
  ScopedFd socket;
  Listener listener;
  std::mutex mutex;
  std::set<pid_t> pids;
  std::atomic<bool> ending{false};

  bool cares(pid_t pid) {
    const std::lock_guard lock(mutex);
    return pids.contains(pid);
  }
  void take(const proc_event& event) {
    if (event.what == proc_event::PROC_EVENT_FORK) {
      const auto& fork = event.event_data.fork;
      const bool is_thread = fork.child_pid != fork.child_tgid;
      if (!is_thread && cares(fork.parent_tgid)) listener(fork.parent_tgid, fork.child_tgid);
    } else if (event.what == proc_event::PROC_EVENT_EXEC) {
      const pid_t pid = event.event_data.exec.process_tgid;
      if (cares(pid)) listener(pid, 0);
    }
  }
};

namespace {

constexpr int kReceiveBytes = 4 << 20;  // of bursts, while we are not scheduled

Result<void> subscribe(int socket) {
  alignas(nlmsghdr) char bytes[NLMSG_SPACE(sizeof(cn_msg) + sizeof(proc_cn_mcast_op))] = {};
  auto* header = reinterpret_cast<nlmsghdr*>(bytes);
  header->nlmsg_len = NLMSG_LENGTH(sizeof(cn_msg) + sizeof(proc_cn_mcast_op));
  header->nlmsg_type = NLMSG_DONE;
  auto* message = static_cast<cn_msg*>(NLMSG_DATA(header));
  message->id = {CN_IDX_PROC, CN_VAL_PROC};
  message->len = sizeof(proc_cn_mcast_op);
  const proc_cn_mcast_op op = PROC_CN_MCAST_LISTEN;
  memcpy(message->data, &op, sizeof op);
  if (send(socket, bytes, header->nlmsg_len, 0) == static_cast<ssize_t>(header->nlmsg_len)) {
    return {};
  }
  return fail(errno, "the kernel tells us nothing of processes");
}

}  // namespace

Result<std::unique_ptr<ForkWatch>> ForkWatch::create(Listener listener) {
  auto shared = std::make_shared<Shared>();
  shared->listener = std::move(listener);
  shared->socket.reset(socket(PF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR));
  if (!shared->socket.valid()) return fail(errno, "the kernel tells us nothing of processes");
  const int fd = shared->socket.get();
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = CN_IDX_PROC;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return fail(errno, "the kernel tells us nothing of processes");
  }
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBytes, sizeof kReceiveBytes);
  const timeval limit{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  const Result<void> done = subscribe(fd);
  if (!done) return done.error();
  std::thread([shared] {
    prctl(PR_SET_NAME, "fork-watch");
    alignas(nlmsghdr) char buffer[4096];
    while (!shared->ending.load()) {
      const ssize_t got = recv(shared->socket.get(), buffer, sizeof buffer, 0);
      if (got <= 0) continue;
      size_t left = static_cast<size_t>(got);
      for (auto* header = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(header, left);
           header = NLMSG_NEXT(header, left)) {
        const auto* message = static_cast<const cn_msg*>(NLMSG_DATA(header));
        proc_event event{};
        if (header->nlmsg_len < NLMSG_LENGTH(sizeof *message) + sizeof event) continue;
        memcpy(&event, message->data, sizeof event);
        shared->take(event);
      }
    }
  }).detach();
  return std::unique_ptr<ForkWatch>(new ForkWatch(std::move(shared)));
}

ForkWatch::~ForkWatch() { shared_->ending.store(true); }

void ForkWatch::care(pid_t pid, bool cares) {
  const std::lock_guard lock(shared_->mutex);
  if (cares) {
    shared_->pids.insert(pid);
  } else {
    shared_->pids.erase(pid);
  }
}

}  // namespace bpftime::target
