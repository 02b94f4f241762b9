// SPDX-License-Identifier: MIT
// Session, first half: getting in, mapping things, getting out.
#include <fcntl.h>
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "remote_thread.h"
#include "session.h"
#include "session_parts.h"
#include "stopped_process.h"
#include "vdso.h"

extern "C" {
extern const uint8_t bpftime_agent_blob[] __attribute__((visibility("hidden")));
extern const uint8_t bpftime_agent_blob_end[] __attribute__((visibility("hidden")));
}

namespace bpftime::target {

namespace {

constexpr uint64_t kControlBytes = 64 << 10;
constexpr uint32_t kLogRingBytes = 256 << 10;
constexpr uint32_t kBpfMapTypeRingbuf = 27;
// Where glibc and musl keep the thread id, from the thread pointer. Used only when the value found
// there is the id of the thread that we are looking at.
constexpr int32_t kTidOffsets[] = {0x2d0, 0x30, 0x38};

uint64_t now_ns() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(ts.tv_nsec);
}

uint64_t page_up(uint64_t bytes) { return (bytes + 4095) & ~uint64_t{4095}; }

// Whether /proc is of our own pid namespace: who has one id there is in it then.
bool is_plain_proc() {
  static const bool is_plain = [] {
    const Result<ProcStatus> self = read_status(getpid());
    char name[32] = {};
    return readlink("/proc/self", name, sizeof name - 1) > 0 &&
           strtol(name, nullptr, 10) == getpid() && self.ok() && self.value().ns_depth == 1;
  }();
  return is_plain;
}

// 0: our own pid namespace.
uint32_t namespace_tag(pid_t pid) {
  struct stat ours {
  }, theirs{};
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/pid", pid);
  if (stat("/proc/self/ns/pid", &ours) != 0 || stat(path, &theirs) != 0) return 0;
  return ours.st_ino == theirs.st_ino ? 0 : 1 + static_cast<uint32_t>(theirs.st_ino % 126);
}

}  // namespace

uint32_t possible_cpus() {
  // "0-3" or "0,2-5": the last number counts.
  FILE* file = fopen("/sys/devices/system/cpu/possible", "re");
  unsigned long last = 0;
  if (file != nullptr) {
    char line[128] = {};
    if (fgets(line, sizeof line, file) != nullptr) {
      const char* p = line + strcspn(line, "\n");
      while (p > line && p[-1] >= '0' && p[-1] <= '9') --p;
      last = strtoul(p, nullptr, 10);
    }
    fclose(file);
  }
  return static_cast<uint32_t>(last) + 1;
}

// By a thread that has descriptors: the first one has none any more when it has ended. Threads
// have pidfds since Linux 6.9 (PIDFD_THREAD, which is O_EXCL).
static ScopedFd descriptor_of(pid_t pid, int remote_fd) {
  const auto through = [remote_fd](pid_t thread, unsigned flags) {
    const ScopedFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, thread, flags)));
    return ScopedFd(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd.get(), remote_fd, 0)));
  };
  ScopedFd found = through(pid, 0);
  if (!found.valid() && errno == ESRCH) found = through(living_thread(pid), O_EXCL);
  return found;
}

void shutdown_remote(pid_t pid, int remote_socket) {
  const ScopedFd socket = descriptor_of(pid, remote_socket);
  if (socket.valid()) shutdown(socket.get(), SHUT_RDWR);
}

namespace {

Result<void> send_fds(pid_t pid, int remote_socket, const int* fds, size_t count) {
  const ScopedFd socket = descriptor_of(pid, remote_socket);
  if (!socket.valid()) return fail(errno, "cannot reach the process' socket");
  char byte = 0;
  iovec iov{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * MAP_BATCH_FDS_MAX)] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
  cmsghdr* cmsg = CMSG_FIRSTHDR(&msg);
  cmsg->cmsg_level = SOL_SOCKET;
  cmsg->cmsg_type = SCM_RIGHTS;
  cmsg->cmsg_len = CMSG_LEN(sizeof(int) * count);
  memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * count);
  // The number was read from the target's memory: make sure that it is what the agent made, and
  // never wait for it.
  int domain = 0;
  socklen_t domain_bytes = sizeof domain;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &domain, &domain_bytes) != 0 ||
      domain != AF_UNIX) {
    return fail(EIO, "the process exchanged our socket");
  }
  if (sendmsg(socket.get(), &msg, MSG_NOSIGNAL | MSG_DONTWAIT) != 1)
    return fail(errno, "cannot pass descriptors");
  return {};
}

}  // namespace

Session::~Session() = default;

Session::Arena::~Arena() {
  if (stats_view != nullptr) munmap(stats_view, stats_bytes);
}

Result<std::unique_ptr<Session>> Session::enter(pid_t pid,
                                                const std::function<bool()>& still_allowed) {
  std::unique_ptr<Session> session(new Session(pid));
  const uint64_t started = now_ns();
  Result<void> step = session->open_handles();
  if (!step) return step.error();
  step = session->install_agent(still_allowed);
  if (!step) return step.error();
  session->enter_ns_ = now_ns() - started;
  return session;
}

Result<void> Session::open_handles() {
  const Result<ProcStatus> status = read_status(pid_);
  if (!status) return status.error();
  // Of a process whose first thread has ended another one tells what is about its memory.
  const pid_t thread = status.value().zombie ? any_thread() : pid_;
  const Result<ProcStatus> living = thread == pid_ ? status : read_status(thread);
  if (!living) return living.error();
  const ProcStatus& s = living.value();
  if (s.kernel_thread) return fail(EOPNOTSUPP, "it is a kernel thread: it has no user code");
  if (s.zombie) return fail(ESRCH, "the process has ended and waits for its parent");
  // Ourselves: it holds still because it is the caller.
  if (s.tracer != 0 && s.tracer != gettid()) return fail(EBUSY, "another tracer is attached to it");
  if (s.shadow_stack) {
    return fail(EOPNOTSUPP,
                "it runs with a hardware shadow stack, which moved calls would violate");
  }
  if (s.seccomp_mode == 1) return fail(EOPNOTSUPP, "strict seccomp forbids every mapping");
  entered_by_ = thread;
  start_time_ = status.value().start_time;
  main_stack_ = s.main_stack;
  ns_pid_ = status.value().ns_pid;
  if (s.ns_depth != 1 || !is_plain_proc()) ns_tag_ = namespace_tag(thread);
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/mem", thread);
  mem_.reset(open(path, O_RDWR | O_CLOEXEC));
  if (!mem_.valid()) return fail(errno, "cannot open the process' memory");
  const Result<Vdso> vdso = find_vdso(thread);
  if (!vdso) return vdso.error();
  syscall_insn_ = vdso.value().syscall_insn;
  clock_gettime_ = vdso.value().clock_gettime;
  return {};
}

pid_t Session::any_thread() const { return living_thread(pid_); }

Result<std::shared_ptr<MapObject>> Session::create_log() {
  return create_map(MapSpec{kBpfMapTypeRingbuf, 0, 0, kLogRingBytes, 0, "log"});
}

Result<void> Session::install_agent(const std::function<bool()>& still_allowed) {
  memcpy(&header_, bpftime_agent_blob, sizeof header_);
  if (header_.magic != AGENT_MAGIC || header_.version != AGENT_V6) {
    return fail(EIO, "the agent blob does not match the daemon");
  }
  agent_bytes_ = header_.data_off + header_.data_bytes;
  Result<std::shared_ptr<MapObject>> log = create_log();
  if (!log) return log.error();
  log_ = log.value();
  auto thread = RemoteThread::stop(pid_, entered_by_);
  if (!thread) return thread.error();
  // It may have become a program that the caller may not touch since the caller asked. Our
  // descriptors were opened before: if exec came in between, they lead nowhere.
  if (!still_allowed()) return fail(EACCES, "the caller may not trace it any more");
  uint8_t insn[2] = {};
  if (!get(syscall_insn_, insn, sizeof insn) || insn[0] != 0x0f || insn[1] != 0x05) {
    return fail(ESTALE, "the process runs another program now");
  }
  Result<void> step = map_agent(thread.value().get());
  if (step.ok()) step = fill_environment(thread.value()->saved().fs_base);
  if (!step && agent_ != 0) {
    static_cast<void>(
        thread.value()->syscall(syscall_insn_, SYS_munmap, agent_, agent_bytes_ + kControlBytes));
  }
  return step;
}

// Text, data and the control block in one range, by two system calls. Nothing of the agent runs
// yet, so what takes more of the thread's time waits for the first batch of mappings.
Result<void> Session::map_agent(RemoteThread* thread) {
  const auto map = [&](uint64_t addr, uint64_t bytes, int prot, int flags) {
    return thread->syscall(syscall_insn_, SYS_mmap, addr, bytes, static_cast<uint64_t>(prot),
                           static_cast<uint64_t>(flags | MAP_PRIVATE | MAP_ANONYMOUS), ~uint64_t{0},
                           0);
  };
  const Result<int64_t> text = map(0, agent_bytes_ + kControlBytes, PROT_READ | PROT_EXEC, 0);
  if (!text) return text.error();
  if (text.value() < 0) {
    return fail(static_cast<int>(-text.value()), "the process cannot map code");
  }
  agent_ = static_cast<uint64_t>(text.value());
  control_ = agent_ + agent_bytes_;
  const Result<int64_t> data = map(agent_ + header_.data_off, header_.data_bytes + kControlBytes,
                                   PROT_READ | PROT_WRITE, MAP_FIXED);
  if (!data) return data.error();
  if (data.value() < 0) return fail(ENOMEM, "the process cannot map memory");
  const size_t blob_bytes = static_cast<size_t>(bpftime_agent_blob_end - bpftime_agent_blob);
  return put(agent_, bpftime_agent_blob, blob_bytes);
}

// What an environment still lacks before a program may run: the log, and a cache of the process id
// that a child does not inherit.
Result<void> Session::complete_agent(RemoteThread* thread) {
  if (map_addrs_.contains(log_->id)) return {};
  const Result<void> journal = ensure_journal();
  if (!journal) return journal;
  MapWant wants[] = {
      MapWant::wipe_on_fork(agent_ + header_.pid_page_off, sizeof(rt_pid_page)),
      MapWant::shared(log_->storage.get(), log_->view.storage_bytes, PROT_READ | PROT_WRITE),
      // A child has its own life: it must not be taken for the process of this journal.
      MapWant::shared(journal_->readable_fd(), ABI_PAGE_BYTES, PROT_READ),
      MapWant::dont_fork(0, ABI_PAGE_BYTES)};
  // From its first instant in the target on the journal says what else is there.
  save();
  const Result<void> mapped = run_batch(thread, wants, std::size(wants));
  for (const MapWant& want : wants) {
    const bool is_new = want.request.op == MAP_OP_FD && want.addr != 0;
    if (!mapped && is_new) orphans_.emplace_back(want.addr, want.addr + want.request.bytes);
  }
  if (!mapped) return mapped;
  journal_page_ = wants[2].addr;
  map_addrs_[log_->id] = wants[1].addr;
  map_bytes_[log_->id] = log_->view.storage_bytes;
  unsaved_.maps[wants[1].addr] = log_->id;
  vm_map log = log_->view;
  log.base = reinterpret_cast<u8*>(wants[1].addr);
  return put(agent_ + header_.env_off + offsetof(rt_env, log), &log, sizeof log);
}

Result<void> Session::fill_environment(uint64_t fs_base) {
  rt_env env{};
  env.version = RT_ENV_V2;
  env.tid_fs_offset = -1;
  for (const int32_t off : kTidOffsets) {
    uint32_t found = 0;
    if (fs_base != 0 && get(fs_base + static_cast<uint64_t>(off), &found, sizeof found).ok() &&
        found == static_cast<uint32_t>(ns_pid_)) {
      env.tid_fs_offset = off;
      break;
    }
  }
  uint64_t self = 0;
  fs_points_at_itself_ =
      env.tid_fs_offset > 0 && get(fs_base, &self, sizeof self).ok() && self == fs_base;
  env.clock_gettime_fn = clock_gettime_;
  env.cpu_count = log_->view.cpu_count != 0 ? log_->view.cpu_count : possible_cpus();
  env.pid = static_cast<uint32_t>(ns_pid_);
  env.pid_cached = 1;
  env.ns_tag = ns_tag_;
  agent_state state{};
  state.version = AGENT_V6;
  const JournalOwner us = JournalOwner::ourselves();
  state.owner_start = us.start_time;
  state.owner_tracer = us.tracer;
  state.owner_daemon = us.daemon;
  state.home = pid_;
  const Result<void> wrote = put(agent_ + header_.env_off, &env, sizeof env);
  if (!wrote) return wrote;
  return put(agent_ + header_.state_off, &state, sizeof state);
}

Result<void> Session::put(uint64_t addr, const void* bytes, size_t size) const {
  return write_memory(mem_.get(), addr, bytes, size);
}

Result<void> Session::map_all(std::vector<MapWant>* wants) {
  if (wants->empty()) return {};
  auto thread = RemoteThread::stop(pid_, any_thread());
  if (!thread) return thread.error();
  const Result<void> same = check_program();
  if (!same) return same;
  Result<void> done = complete_agent(thread.value().get());
  for (size_t at = 0; at < wants->size() && done.ok(); at += MAP_BATCH_MAX) {
    const size_t count = std::min<size_t>(MAP_BATCH_MAX, wants->size() - at);
    done = run_batch(thread.value().get(), wants->data() + at, count);
  }
  // What was mapped before a failure is not lost: leave() takes it out.
  for (const MapWant& want : *wants) {
    if (done.ok() || want.addr == 0) continue;
    if (want.request.op == MAP_OP_FD || want.request.op == MAP_OP_ANON) {
      orphans_.emplace_back(want.addr, want.addr + want.request.bytes);
    }
  }
  return done;
}

Result<void> Session::run_batch(RemoteThread* thread, MapWant* wants, size_t count) {
  map_batch batch{};
  batch.version = AGENT_V6;
  batch.count = static_cast<u32>(count);
  int fds[MAP_BATCH_FDS_MAX];
  for (size_t i = 0; i < count; ++i) {
    map_request& request = batch.requests[i];
    request = wants[i].request;
    if (request.op == MAP_OP_FD) {
      request.fd_index = batch.fd_count;
      fds[batch.fd_count++] = wants[i].fd;
    }
  }
  Result<void> step = put(control_, &batch, sizeof batch);
  if (!step) return step;
  step = thread->call(agent_fn(header_.map_batch), control_, control_ + kControlBytes);
  if (!step) return step;
  if (batch.fd_count > 0) {
    map_batch seen{};
    step = get(control_, &seen, sizeof seen);
    if (!step) return step;
    if (seen.error != 0) return fail(-seen.error, "the process cannot make a socket");
    if (seen.sockets[0] < 0 || seen.sockets[0] == seen.sockets[1]) {
      // Only the agent's own failure before its first stop leaves this as it was.
      return fail(EMFILE, "the process cannot make a socket (its descriptor limit is reached)");
    }
    // Whatever happens from here on, the agent must run to its end: it closes what it opened.
    const Result<void> sent = send_fds(pid_, seen.sockets[1], fds, batch.fd_count);
    if (!sent) {
      shutdown_remote(pid_, seen.sockets[1]);
      static_cast<void>(thread->resume());
      return sent;
    }
    step = thread->resume();
    if (!step) return step;
  }
  step = get(control_, &batch, sizeof batch);
  if (!step) return step;
  for (size_t i = 0; i < count; ++i) {
    const int64_t result = batch.requests[i].result;
    if (result > 0) wants[i].addr = static_cast<uint64_t>(result);
  }
  if (batch.error != 0) return fail(-batch.error, "the process cannot map memory");
  return {};
}

Result<void> Session::check_alive() const {
  const Result<ProcStatus> status = read_status(pid_);
  if (!status) return status.error();
  if (status.value().start_time != start_time_) {
    return fail(ESTALE, "the pid is another process now");
  }
  // A leader that called pthread_exit is a zombie while its process lives on.
  if (status.value().zombie && any_thread() == pid_) return fail(ESRCH, "the process is gone");
  return check_program();
}

// After exec our descriptor of the old memory reads nothing, so neither reads nor writes through it
// can reach the new program; this says so before a thread is made to run what is no longer there.
Result<void> Session::check_program() const {
  agent_header seen{};
  if (!get(agent_, &seen, sizeof seen) || memcmp(&seen, &header_, sizeof seen) != 0) {
    return fail(ESTALE, "the process runs another program now");
  }
  return {};
}

Result<void> Session::get(uint64_t addr, void* out, size_t size) const {
  const ssize_t got = pread(mem_.get(), out, size, static_cast<off_t>(addr));
  if (got == static_cast<ssize_t>(size)) return {};
  return fail(EFAULT, "part of the memory is not mapped");
}

std::vector<std::pair<uint64_t, uint64_t>> Session::code_ranges() const {
  std::vector<std::pair<uint64_t, uint64_t>> ranges{{agent_, agent_ + agent_bytes_},
                                                    {control_, control_ + kControlBytes}};
  for (const auto& arena : arenas_) {
    ranges.emplace_back(arena->base, arena->base + arena->bytes + arena->stats_bytes);
  }
  for (const auto& [id, image] : images_) ranges.emplace_back(image.base, image.base + image.bytes);
  ranges.insert(ranges.end(), former_code_.begin(), former_code_.end());
  ranges.insert(ranges.end(), landings_.begin(), landings_.end());
  return ranges;
}

// Calls an agent function while every thread stands still, none of them in our code or between a
// diverted system call site and the end of its call. Nanoseconds of the stop.
Result<uint64_t> Session::call_agent_alone(uint64_t fn) {
  auto stopped = StoppedProcess::stop(pid_);
  if (!stopped) return stopped.error();
  const Result<void> called = call_agent_within(stopped.value().get(), fn);
  if (!called) return called.error();
  return stopped.value()->release();
}

Result<void> Session::call_agent_within(StoppedProcess* process, uint64_t fn) {
  const Result<void> same = check_program();
  if (!same) return same;
  if (is_in_the_way(*process, fn)) return fail(EBUSY, "a thread is inside our code");
  // Not one that is about to go on elsewhere: a borrowed thread goes on where it was.
  const auto& threads = process->threads();
  const auto free =
      std::find_if(threads.begin(), threads.end(),
                   [](const StoppedProcess::Thread& one) { return !one.dirty && one.runs_code(); });
  if (free == threads.end()) return fail(EBUSY, "every thread is being moved");
  auto thread = RemoteThread::borrow(pid_, free->tid);
  if (!thread) return thread.error();
  const Result<void> called = thread.value()->call(fn, 0, control_ + kControlBytes);
  if (!called) return called;
  const Result<int64_t> result = thread.value()->result();
  if (!result) return result.error();
  if (result.value() != 0) return fail(EIO, "the signal handlers cannot be set");
  return {};
}

Result<uint64_t> Session::arm_guard() {
  if (guard_armed_) return uint64_t{0};
  const Result<uint64_t> done = call_agent_alone(agent_fn(header_.guard_install));
  guard_armed_ = done.ok();
  save();
  return done;
}

Result<void> Session::disarm_guard() {
  const Result<void> alive = check_alive();
  if (!alive) return alive;
  if (!guard_armed_) return {};
  const Result<void> free = way_is_free();
  if (!free) return free;
  const Result<uint64_t> done = call_agent_alone(agent_fn(header_.guard_remove));
  if (done.ok()) guard_armed_ = false;
  save();
  if (!done) return done.error();
  return {};
}

Result<void> Session::want_loads(bool wanted, const std::function<void(uint32_t event)>& on_event) {
  if (gate_ == 0) {
    if (!wanted) return {};
    Result<std::unique_ptr<LoadWatch>> watch = LoadWatch::create(on_event);
    if (!watch) return watch.error();
    std::vector<MapWant> wants;
    wants.push_back(MapWant::shared((*watch)->page_fd(), ABI_PAGE_BYTES, PROT_READ | PROT_WRITE));
    const Result<void> mapped = map_all(&wants);
    if (!mapped) return mapped;
    gate_ = wants[0].addr;
    load_watch_ = std::move(watch.value());
    const Result<void> told =
        put(agent_ + header_.state_off + offsetof(agent_state, gate), &gate_, sizeof gate_);
    if (!told) return told;
    save();
  }
  load_watch_->want(wanted);
  return {};
}

void Session::settle_loads(uint32_t event) {
  if (load_watch_ != nullptr) load_watch_->settle(event);
}

Result<void> Session::leave() {
  if (!sites_.empty()) return fail(EBUSY, "hooks are still attached");
  const Result<void> alive = check_alive();
  if (!alive) return alive;  // ESRCH, ESTALE: its memory went with it
  std::vector<std::pair<uint64_t, uint64_t>> ranges = code_ranges();
  // No code leads there any more, so the only way in is a return that was hijacked before.
  const Result<void> left = is_left();
  if (!left) return left;
  for (const auto& [id, addr] : map_addrs_) {
    const auto it = map_bytes_.find(id);
    if (it != map_bytes_.end()) ranges.emplace_back(addr, addr + it->second);
  }
  ranges.insert(ranges.end(), orphans_.begin(), orphans_.end());
  if (shadows_ != 0) {
    ranges.emplace_back(shadows_, shadows_ + SHADOWS_BYTES);
  }
  if (gate_ != 0) ranges.emplace_back(gate_, gate_ + ABI_PAGE_BYTES);
  auto thread = RemoteThread::stop(pid_, any_thread());
  if (!thread) return thread.error();
  const Result<void> same = check_program();
  if (!same) return same;
  // The journal first: what it says is not true any more.
  if (journal_page_ != 0) {
    ranges.insert(ranges.begin(), {journal_page_, journal_page_ + ABI_PAGE_BYTES});
  }
  for (const auto& [start, end] : ranges) {
    const Result<int64_t> unmapped =
        thread.value()->syscall(syscall_insn_, SYS_munmap, start, page_up(end - start));
    if (!unmapped) return unmapped.error();
  }
  return {};
}

}  // namespace bpftime::target
