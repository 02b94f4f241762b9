// SPDX-License-Identifier: MIT
// The keeper thread: deadlines, expired temporary names, dead processes, waiting readers.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#include "server.h"

namespace bpftime::fuse {
namespace {

constexpr auto kStagingLife = std::chrono::seconds(60);

}  // namespace

void Server::wake_keeper() { waker_->wake(); }

void Server::watch(const std::shared_ptr<Proc>& proc) {
  const uint64_t key = next_watch_++;
  watched_[key] = proc;
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLONESHOT;
  event.data.u64 = key;
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, proc->pidfd.get(), &event);
  if (next_watch_ % 256 == 0) {
    std::erase_if(watched_, [](const auto& entry) { return entry.second.expired(); });
  }
}

void Server::keep() {
  prctl(PR_SET_NAME, "fuse-keep");
  int timeout_ms = -1;
  while (!stopping_.load() && !served_out_.load()) {
    epoll_event events[16];
    const int count = epoll_wait(epoll_.get(), events, 16, timeout_ms);
    std::unique_lock<std::mutex> guard(mutex_);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.u64 == 0) {
        waker_->clear();
        continue;
      }
      const auto it = watched_.find(events[i].data.u64);
      if (it == watched_.end()) continue;
      if (const std::shared_ptr<Proc> proc = it->second.lock()) proc_died(proc);
      watched_.erase(it);
    }
    serve_waiters();
    wake_pollers();
    const auto gone = std::exchange(gone_, {});
    const Clock::time_point now = Clock::now();
    const Clock::time_point next = expire(now);
    keeper_idle_ = next == Clock::time_point::max();
    timeout_ms =
        keeper_idle_
            ? -1
            : static_cast<int>(
                  std::chrono::duration_cast<std::chrono::milliseconds>(next - now).count()) +
                  1;
  }
}

void Server::serve_readers() {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (!fd_.valid()) return;
  serve_waiters();
  wake_pollers();
}

void Server::serve_waiters() {
  std::vector<Waiter> still;
  for (const Waiter& waiter : std::exchange(waiters_, {})) {
    Handle* file = handle(waiter.handle);
    if (file == nullptr) {
      send(waiter.unique, EBADF);
      continue;
    }
    Stream& stream = *file->node->stream;
    if (!stream.readable(file->cursor)) {
      still.push_back(waiter);
      continue;
    }
    stream.stop_waiting();
    const Piece piece = stream.take(&file->cursor, waiter.size_bytes);
    const std::string_view data = piece.view();
    send(waiter.unique, 0, data.data(), data.size());
  }
  waiters_.insert(waiters_.end(), still.begin(), still.end());
}

void Server::wake_pollers() {
  std::erase_if(armed_polls_, [this](uint64_t id) {
    Handle* file = handle(id);
    if (file == nullptr || !file->poll_armed) return true;
    if (!file->node->stream->readable(file->cursor)) return false;
    file->poll_armed = false;
    file->node->stream->stop_waiting();
    fuse_out_header header = {};
    fuse_notify_poll_wakeup_out out = {file->poll_key};
    header.len = sizeof(header) + sizeof(out);
    header.error = FUSE_NOTIFY_POLL;
    char message[sizeof(header) + sizeof(out)];
    memcpy(message, &header, sizeof(header));
    memcpy(message + sizeof(header), &out, sizeof(out));
    [[maybe_unused]] const ssize_t written = write(fd_.get(), message, sizeof(message));
    return true;
  });
}

void Server::proc_died(const std::shared_ptr<Proc>& proc) {
  if (const NodePtr dir = proc->dir.lock(); dir != nullptr && dir->lookup_count > 0) {
    gone_.emplace_back(dir->parent->id, dir->name);
    wake_keeper();
  }
  table_.remove_proc(proc);
  proc->pidfd.reset();
  std::vector<uint64_t> orphans;
  for (auto& [id, pending] : pending_) {
    if (pending.node != nullptr && pending.node->proc == proc && pending.unique != 0) {
      orphans.push_back(id);
    }
  }
  for (const uint64_t id : orphans) {
    if (const auto it = pending_.find(id); it != pending_.end()) give_up(it->second, ESRCH);
  }
}

Server::Clock::time_point Server::expire(Clock::time_point now) {
  Clock::time_point next = Clock::time_point::max();
  std::vector<uint64_t> late;
  for (const auto& [id, pending] : pending_) {
    if (pending.unique == 0) continue;
    if (pending.deadline <= now) {
      late.push_back(id);
    } else {
      next = std::min(next, pending.deadline);
    }
  }
  for (const uint64_t id : late) {
    const auto it = pending_.find(id);
    if (it != pending_.end()) give_up(it->second, it->second.is_interrupted ? EINTR : ETIMEDOUT);
  }
  std::erase_if(staged_, [&](const std::weak_ptr<Node>& weak) {
    const NodePtr node = weak.lock();
    if (node == nullptr || !node->staged || node->removed) return true;
    if (node->open_count == 0 && node->staged_at + kStagingLife <= now) {
      table_.remove(node);
      return true;
    }
    next = std::min(next, std::max(node->staged_at + kStagingLife, now + std::chrono::seconds(1)));
    return false;
  });
  return next;
}

}  // namespace bpftime::fuse
