// SPDX-License-Identifier: MIT
// The serving loop, replies, and the requests that need no knowledge of the tree.
#include "server.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <time.h>

#include <array>
#include <csignal>

#include "mount_point.h"

namespace bpftime::fuse {

namespace {

// How long the serving thread looks for the next request of a burst before it sleeps. Waking a
// thread of an idle virtual core costs about 15 us each way; a burst pays that once.
constexpr uint64_t kSpinNs = 50'000;

uint64_t now_ns() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// Waits for /dev/fuse: first awake, giving the core to anybody who wants it (the caller may be
// waiting for this very core), then asleep.
class BurstWaiter {
 public:
  explicit BurstWaiter(int fd) : fd_(fd) {}

  /// More may follow at once.
  void served() { spin_until_ns_ = 0; }
  /// Nothing is to be expected soon.
  void rest() { spin_until_ns_ = 1; }

  void wait() {
    const uint64_t now = now_ns();
    if (spin_until_ns_ == 0) spin_until_ns_ = now + kSpinNs;
    if (now < spin_until_ns_) {
      sched_yield();
      return;
    }
    pollfd fd = {fd_, POLLIN, 0};
    poll(&fd, 1, -1);
  }

 private:
  const int fd_;
  uint64_t spin_until_ns_ = 0;
};

}  // namespace

struct Server::Operation {
  uint32_t opcode;
  size_t min_body_bytes;
  void (Server::*run)(const Request&);
};

// Absent opcodes answer ENOSYS. For xattrs, fallocate, copy_file_range and statx that is on
// purpose: the kernel then stops asking, and tools fall back to plain reads and writes.
const Server::Operation Server::kOperations[] = {
    {FUSE_LOOKUP, 1, &Server::op_lookup},
    {FUSE_FORGET, sizeof(fuse_forget_in), &Server::op_forget},
    {FUSE_GETATTR, sizeof(fuse_getattr_in), &Server::op_getattr},
    {FUSE_SETATTR, sizeof(fuse_setattr_in), &Server::op_setattr},
    {FUSE_READLINK, 0, &Server::op_readlink},
    {FUSE_SYMLINK, 0, &Server::op_not_permitted},
    {FUSE_MKNOD, 0, &Server::op_not_permitted},
    {FUSE_LINK, 0, &Server::op_not_permitted},
    {FUSE_MKDIR, sizeof(fuse_mkdir_in), &Server::op_mkdir},
    {FUSE_UNLINK, 1, &Server::op_unlink},
    {FUSE_RMDIR, 1, &Server::op_rmdir},
    {FUSE_RENAME, sizeof(fuse_rename_in), &Server::op_rename},
    {FUSE_RENAME2, sizeof(fuse_rename2_in), &Server::op_rename2},
    {FUSE_OPEN, sizeof(fuse_open_in), &Server::op_open},
    {FUSE_READ, sizeof(fuse_read_in), &Server::op_read},
    {FUSE_WRITE, sizeof(fuse_write_in), &Server::op_write},
    {FUSE_STATFS, 0, &Server::op_statfs},
    {FUSE_RELEASE, sizeof(fuse_release_in), &Server::op_release},
    {FUSE_FSYNC, 0, &Server::op_ok},
    {FUSE_FSYNCDIR, 0, &Server::op_ok},
    {FUSE_FLUSH, sizeof(fuse_flush_in), &Server::op_flush},
    {FUSE_INIT, offsetof(fuse_init_in, flags2), &Server::op_init},
    {FUSE_OPENDIR, sizeof(fuse_open_in), &Server::op_opendir},
    {FUSE_READDIR, sizeof(fuse_read_in), &Server::op_readdir},
    {FUSE_RELEASEDIR, sizeof(fuse_release_in), &Server::op_releasedir},
    {FUSE_ACCESS, sizeof(fuse_access_in), &Server::op_access},
    {FUSE_CREATE, sizeof(fuse_create_in), &Server::op_create},
    {FUSE_INTERRUPT, sizeof(fuse_interrupt_in), &Server::op_interrupt},
    {FUSE_DESTROY, 0, &Server::op_silent},
    {FUSE_POLL, sizeof(fuse_poll_in), &Server::op_poll},
    {FUSE_BATCH_FORGET, sizeof(fuse_batch_forget_in), &Server::op_batch_forget},
};

Server::Server(ServerOptions options, RequestSink* sink)
    : options_(std::move(options)),
      sink_(sink),
      table_(waker_, [this](const std::shared_ptr<Proc>& proc) { watch(proc); }) {}

Result<std::shared_ptr<Server>> Server::start(ServerOptions options, RequestSink* sink) {
  std::shared_ptr<Server> server(new Server(std::move(options), sink));
  const ServerOptions& kept = server->options_;
  if (const Result<void> made = server->table_.init(kept.classes, kept.root_class); !made) {
    return made.error();
  }
  // One pidfd per process directory in use.
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 1 << 20);
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  server->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event = {};
  event.events = EPOLLIN;
  if (!server->epoll_.valid() ||
      epoll_ctl(server->epoll_.get(), EPOLL_CTL_ADD, server->waker_->fd(), &event) != 0) {
    return fail(errno, "epoll");
  }
  Result<ScopedFd> fd = mount_fuse(kept.mountpoint, kept.allow_other);
  if (!fd) return fd.error();
  server->fd_ = std::move(*fd);
  Server* self = server.get();
  server->server_thread_ = std::thread([self] { self->serve(); });
  server->keeper_thread_ = std::thread([self] { self->keep(); });
  return server;
}

Server::~Server() { stop(); }

void Server::stop() {
  // A server that never mounted must not unmount what another one has there.
  if (!stopping_.exchange(true) && fd_.valid()) {
    (void)unmount_fuse(options_.mountpoint);
    wake_keeper();
  }
  if (server_thread_.joinable()) {
    // A lazy unmount without FORCE (fusermount3) does not end the read while files are open.
    while (!served_out_.load()) {
      pthread_kill(server_thread_.native_handle(), SIGURG);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    server_thread_.join();
  }
  if (keeper_thread_.joinable()) keeper_thread_.join();
  const std::lock_guard<std::mutex> guard(mutex_);  // serve_readers() may be at it
  fd_.reset();
}

void Server::serve() {
  prctl(PR_SET_NAME, "fuse-serve");
  // SIGURG is ignored by default; with an empty handler it interrupts the read below.
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigaction(SIGURG, &action, nullptr);
  std::vector<char> buf(kReadBufferBytes);
  fcntl(fd_.get(), F_SETFL, O_NONBLOCK);
  BurstWaiter waiter(fd_.get());
  while (!stopping_.load(std::memory_order_relaxed)) {
    const ssize_t len = read(fd_.get(), buf.data(), buf.size());
    if (len < 0) {
      if (errno == EAGAIN) {
        waiter.wait();
        continue;
      }
      if (errno == EINTR || errno == ENOENT) continue;
      break;  // ENODEV: unmounted
    }
    if (static_cast<size_t>(len) < sizeof(fuse_in_header)) break;
    Request request;
    request.header = reinterpret_cast<const fuse_in_header*>(buf.data());
    request.body = buf.data() + sizeof(fuse_in_header);
    request.size_bytes = static_cast<size_t>(len) - sizeof(fuse_in_header);
    is_burst_ = true;
    dispatch(request);
    is_burst_ ? waiter.served() : waiter.rest();
  }
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    for (auto& [id, file] : handles_) {
      if (file.is_reader && file.node->stream != nullptr) file.node->stream->close();
    }
  }
  served_out_.store(true);
  if (!stopping_.load()) sink_->ended();
}

void Server::dispatch(const Request& request) {
  static const auto table = [] {
    std::array<const Operation*, kOpcodeCount> out = {};
    for (const Operation& operation : kOperations) out[operation.opcode] = &operation;
    return out;
  }();
  const uint32_t opcode = request.header->opcode;
  const Operation* operation = opcode < kOpcodeCount ? table[opcode] : nullptr;
  const std::lock_guard<std::mutex> guard(mutex_);
  ++request_count_;
  if (operation == nullptr) {
    send(request.unique(), opcode == FUSE_IOCTL ? ENOTTY : ENOSYS);
    return;
  }
  if (request.size_bytes < operation->min_body_bytes) {
    send(request.unique(), EINVAL);
    return;
  }
  (this->*operation->run)(request);
}

bool Server::send(uint64_t unique, int errnum, const void* a, size_t a_len, const void* b,
                  size_t b_len) {
  if (unique == 0) return false;
  fuse_out_header header = {};
  header.len = static_cast<uint32_t>(sizeof(header) + a_len + b_len);
  header.error = -errnum;
  header.unique = unique;
  iovec parts[3] = {
      {&header, sizeof(header)}, {const_cast<void*>(a), a_len}, {const_cast<void*>(b), b_len}};
  // ENOENT: the caller was killed and nobody waits any more.
  return writev(fd_.get(), parts, b_len != 0 ? 3 : a_len != 0 ? 2 : 1) >= 0;
}

void Server::op_init(const Request& request) {
  const auto& in = request.arg<fuse_init_in>();
  fuse_init_out out = {};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = FUSE_KERNEL_MINOR_VERSION;
  if (in.major < FUSE_KERNEL_VERSION || (in.major == FUSE_KERNEL_VERSION && in.minor < kMinMinor)) {
    send(request.unique(), EPROTO);
    return;
  }
  if (in.major == FUSE_KERNEL_VERSION) {
    out.minor = std::min<uint32_t>(in.minor, FUSE_KERNEL_MINOR_VERSION);
    // ATOMIC_O_TRUNC: O_TRUNC comes with OPEN, so that it can mean nothing until bytes follow.
    out.flags = in.flags & (FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_PARALLEL_DIROPS |
                            FUSE_MAX_PAGES | FUSE_ASYNC_DIO | FUSE_HANDLE_KILLPRIV);
  }
  out.max_readahead = in.max_readahead;
  out.max_background = 16;
  out.congestion_threshold = 12;
  out.max_write = kMaxWriteBytes;
  out.max_pages = kMaxPages;
  out.time_gran = 1;
  send(request.unique(), 0, &out, sizeof(out));
}

void Server::op_forget(const Request& request) {
  table_.forget(request.header->nodeid, request.arg<fuse_forget_in>().nlookup);
}

void Server::op_batch_forget(const Request& request) {
  const uint32_t count = request.arg<fuse_batch_forget_in>().count;
  const char* at = request.body + sizeof(fuse_batch_forget_in);
  const size_t fit = (request.size_bytes - sizeof(fuse_batch_forget_in)) / sizeof(fuse_forget_one);
  for (size_t i = 0; i < std::min<size_t>(count, fit); ++i) {
    fuse_forget_one one;
    memcpy(&one, at + i * sizeof(one), sizeof(one));
    table_.forget(one.nodeid, one.nlookup);
  }
}

void Server::op_interrupt(const Request& request) {
  const uint64_t unique = request.arg<fuse_interrupt_in>().unique;
  for (auto it = waiters_.begin(); it != waiters_.end(); ++it) {
    if (it->unique != unique) continue;
    if (Handle* file = handle(it->handle)) file->node->stream->stop_waiting();
    waiters_.erase(it);
    send(unique, EINTR);
    return;
  }
  for (auto& [id, pending] : pending_) {
    if (pending.unique != unique) continue;
    if (pending.self_tid == 0)
      interrupt(pending);
    else if (sink_->claim_interrupted(pending.self_tid))
      (void)answer_early(pending);
    // Else a signal of its own: an answer now could let it return before we can stop it.
    return;
  }
  // Not here: it was answered while the interrupt was on its way.
}

void Server::op_statfs(const Request& request) {
  fuse_statfs_out out = {};
  out.st.bsize = 4096;
  out.st.frsize = 4096;
  out.st.namelen = 255;
  send(request.unique(), 0, &out, sizeof(out));
}

void Server::op_ok(const Request& request) { send(request.unique(), 0); }

void Server::op_not_permitted(const Request& request) { send(request.unique(), EPERM); }

void Server::op_silent(const Request& request) { send(request.unique(), 0); }

std::vector<ControlRequest> Server::take_requests() {
  const std::lock_guard<std::mutex> guard(mutex_);
  return std::exchange(outbox_, {});
}

void Server::answer(uint64_t id, int errnum, std::string data) {
  const std::lock_guard<std::mutex> guard(mutex_);
  finish(id, errnum, data);
}

Result<void> Server::publish(Publication node) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const NodeClass* cls = table_.find_class(node.cls);
  if (cls == nullptr) return fail(EINVAL, "no such class");
  std::string_view name;
  const NodePtr dir = table_.find_parent(node.path, &name);
  if (dir == nullptr || !dir->cls->is_dir()) return fail(ENOENT, "the parent does not exist");
  if (name.empty() || name.size() > 255) return fail(EINVAL, "bad name");
  NodePtr found = table_.find_child(dir, name);
  if (found == nullptr) found = table_.add_child(dir, name, cls);
  found->published = true;
  found->staged = false;
  if (found->cls != cls && !found->fixed) found->cls = cls;
  if (node.content) {
    found->content = std::make_shared<const std::string>(std::move(*node.content));
  }
  if (node.symlink) {
    found->content = std::make_shared<const std::string>(std::move(*node.symlink));
  }
  found->changed = std::chrono::system_clock::now();
  return {};
}

Result<void> Server::unpublish(std::string_view path) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const NodePtr node = table_.find_path(path);
  if (node == nullptr || node == table_.root()) return fail(ENOENT, "no such node");
  if (node->fixed) {
    node->published = false;
    node->content = nullptr;
    table_.collect(node);
  } else {
    table_.remove(node);
  }
  waker_->wake();  // readers of streams below
  return {};
}

std::shared_ptr<Stream> Server::stream_at(std::string_view path) {
  const std::lock_guard<std::mutex> guard(mutex_);
  const NodePtr node = table_.find_path(path);
  return node == nullptr ? nullptr : table_.stream_of(node);
}

Result<void> Server::append(std::string_view path, std::string_view text) {
  const std::shared_ptr<Stream> stream = stream_at(path);
  if (stream == nullptr) return fail(ENOENT, "no such stream or log");
  stream->append(text);
  return {};
}

ServerStats Server::stats() {
  const std::lock_guard<std::mutex> guard(mutex_);
  return {request_count_, handles_.size(), pending_.size()};
}

}  // namespace bpftime::fuse
