// SPDX-License-Identifier: MIT
#include "remote_thread.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "held_threads.h"
#include "proc_maps.h"

// Since Linux 4.3; missing from older headers.
#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif

namespace bpftime::target {

namespace {

// A thread that did not stop in time: let go, and put back as it was, as soon as it does.
struct LateStop {
  pid_t tid = 0;
  bool restore = false;
  user_regs_struct regs{};
  uint64_t mask = 0;
};

std::vector<LateStop>& late_stops() {
  static std::vector<LateStop> stops;
  return stops;
}

void stop_late(pid_t tid) {
  LateStop late;
  late.tid = tid;
  late_stops().push_back(late);
}

int64_t now_ms() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

// waitpid with a deadline, inside an UrgentScope; 0 when it has passed.
pid_t wait_until(pid_t tid, int* status, int timeout_ms) {
  const int64_t deadline = now_ms() + timeout_ms;
  for (;;) {
    const pid_t got = waitpid(tid, status, __WALL | UrgentScope::wait_flags());
    if (got > 0 || (got < 0 && errno != EINTR)) return got;
    if (now_ms() >= deadline) return 0;
    const timespec pause{0, 50'000};
    if (got == 0) nanosleep(&pause, nullptr);
  }
}

// Calls that show EINTR to their caller when a tracer interrupts them, although no signal handler
// ran: signal(7) lists them as never restarted, or not when a time-out is set on the socket.
bool shows_interruption(int64_t nr) {
  static constexpr int64_t kCalls[] = {SYS_epoll_wait,
                                       SYS_epoll_pwait,
                                       441 /* epoll_pwait2 */,
                                       SYS_rt_sigtimedwait,
                                       SYS_io_getevents,
                                       333 /* io_pgetevents */,
                                       426 /* io_uring_enter */,
                                       SYS_semop,
                                       SYS_semtimedop,
                                       SYS_read,
                                       SYS_readv,
                                       SYS_write,
                                       SYS_writev,
                                       SYS_recvfrom,
                                       SYS_recvmsg,
                                       SYS_recvmmsg,
                                       SYS_sendto,
                                       SYS_sendmsg,
                                       SYS_sendmmsg,
                                       SYS_accept,
                                       SYS_accept4};
  return std::find(std::begin(kCalls), std::end(kCalls), nr) != std::end(kCalls);
}

// The kernel's own word for: start again, unless a signal handler ran (include/linux/errno.h).
constexpr int64_t kRestartNoHandler = -514;

// Signals that stay deliverable while a thread works for us: synchronous ones (a blocked one would
// kill the process) and SIGTRAP, our own return.
constexpr uint64_t bit(int sig) { return uint64_t{1} << (sig - 1); }
constexpr uint64_t kBlockedWhileRemote =
    ~(bit(SIGTRAP) | bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGFPE) | bit(SIGSYS));

void syscall_tgkill(pid_t pid, pid_t tid, int sig) { ::syscall(SYS_tgkill, pid, tid, sig); }

Failure errno_failure(const char* reason) { return fail(errno, reason); }

}  // namespace

namespace {

constexpr long kTickNs = 50'000'000;
constexpr int kUrgentNice = -20;

// What an UrgentScope changes of the calling thread.
struct Urgency {
  int depth = 0;
  bool has_ticks = false;
  timer_t ticks{};
  int usual_nice = 0;

  Urgency() {
    const int sig = SIGRTMAX - 1;  // nothing else of the daemon uses real-time signals
    struct sigaction action {};
    action.sa_handler = [](int) {};  // no SA_RESTART: the point is to interrupt
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, sig);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = sig;
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    has_ticks = sigaction(sig, &action, nullptr) == 0 &&
                pthread_sigmask(SIG_UNBLOCK, &set, nullptr) == 0 &&
                timer_create(CLOCK_MONOTONIC, &event, &ticks) == 0;
    usual_nice = getpriority(PRIO_PROCESS, 0);  // of this thread, on Linux
  }
  ~Urgency() {
    if (has_ticks) timer_delete(ticks);
  }
  Urgency(const Urgency&) = delete;
  Urgency& operator=(const Urgency&) = delete;

  void tick(long every_ns) const {
    if (!has_ticks) return;
    const itimerspec when{{0, every_ns}, {0, every_ns}};
    timer_settime(ticks, 0, &when, nullptr);
  }
};

thread_local Urgency urgency;

}  // namespace

UrgentScope::UrgentScope() {
  if (urgency.depth++ > 0) return;
  urgency.tick(kTickNs);
  setpriority(PRIO_PROCESS, 0, kUrgentNice);  // fails without CAP_SYS_NICE: then we wait longer
}

UrgentScope::~UrgentScope() {
  if (--urgency.depth > 0) return;
  setpriority(PRIO_PROCESS, 0, urgency.usual_nice);
  urgency.tick(0);
}

int UrgentScope::wait_flags() { return urgency.depth > 0 && urgency.has_ticks ? 0 : WNOHANG; }

Result<void> seize_and_stop(pid_t tid, int timeout_ms) {
  Result<void> step = seize(tid);
  if (step.ok()) step = interrupt(tid);
  return step.ok() ? wait_stopped(tid, timeout_ms) : step;
}

void forget_interrupted(pid_t tid) {
  settled(tid, false);
  if (!is_held(tid)) stop_late(tid);
}

Result<void> seize(pid_t tid) {
  if (is_held(tid)) return {};
  const auto& late = late_stops();
  if (std::any_of(late.begin(), late.end(), [tid](const LateStop& l) { return l.tid == tid; })) {
    return fail(ETIMEDOUT, "a thread does not stop: it sleeps uninterruptibly in the kernel");
  }
  if (ptrace(PTRACE_SEIZE, tid, nullptr, 0) == 0) return {};
  if (errno != EPERM) return errno_failure("cannot seize the thread");
  // The kernel says the same of a thread that is ending.
  const Result<ProcStatus> status = read_status(tid);
  if (!status || status.value().zombie) return fail(ESRCH, "the thread ended");
  if (status.value().tracer != 0) return fail(EBUSY, "another tracer is attached to it");
  return fail(EPERM, "the kernel does not let us trace it");
}

Result<void> interrupt(pid_t tid) {
  if (is_held(tid)) return {};
  if (ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) == 0) {
    interrupted(tid);
    return {};
  }
  // It is ending; whoever waits for it next sees ECHILD.
  stop_late(tid);
  return fail(ESRCH, "the thread ended");
}

namespace {

Result<void> wait_for_stop(pid_t tid, int timeout_ms) {
  for (;;) {
    int status = 0;
    const pid_t got = wait_until(tid, &status, timeout_ms);
    if (got == 0) {
      stop_late(tid);
      return fail(ETIMEDOUT, "a thread does not stop: it sleeps uninterruptibly in the kernel");
    }
    if (got < 0 || WIFEXITED(status) || WIFSIGNALED(status)) {
      return fail(ESRCH, "the thread ended");
    }
    if (status >> 16 == PTRACE_EVENT_STOP) return {};
    // A signal was on its way: let it be delivered; our interrupt is still pending behind it.
    ptrace(PTRACE_CONT, tid, nullptr, WSTOPSIG(status));
  }
}

}  // namespace

Result<void> wait_stopped(pid_t tid, int timeout_ms) {
  if (is_held(tid)) return {};
  const Result<void> stopped = wait_for_stop(tid, timeout_ms);
  settled(tid, stopped.ok());
  return stopped;
}

void reap_late_stops() {
  // Letting a thread go may put it on the list again: work on a list of our own.
  std::vector<LateStop> waiting = std::move(late_stops());
  late_stops().clear();
  for (LateStop& late : waiting) {
    int status = 0;
    const pid_t got = waitpid(late.tid, &status, __WALL | WNOHANG);
    if (got == 0) {
      late_stops().push_back(late);
    } else if (got == late.tid && WIFSTOPPED(status)) {
      if (late.restore) {
        ptrace(PTRACE_SETSIGMASK, late.tid, sizeof late.mask, &late.mask);
        release_thread(late.tid, late.regs, true);
      } else {
        // A signal that was on its way goes on its way.
        const int sig = status >> 16 == 0 ? WSTOPSIG(status) : 0;
        ptrace(PTRACE_DETACH, late.tid, nullptr, sig);
      }
    }
  }
}

void release_thread(pid_t tid, user_regs_struct regs, bool dirty) {
  const int64_t nr = static_cast<int64_t>(regs.orig_rax);
  if (nr >= 0 && static_cast<int64_t>(regs.rax) == -EINTR && shows_interruption(nr)) {
    // If a signal arrived meanwhile its handler runs and the caller gets the EINTR it is due.
    regs.rax = static_cast<uint64_t>(kRestartNoHandler);
    dirty = true;
  }
  if (dirty) ptrace(PTRACE_SETREGS, tid, nullptr, &regs);
  if (is_held(tid)) return;
  // Not stopped any more: something kills it. Its end must be collected, or it never goes away.
  if (ptrace(PTRACE_DETACH, tid, nullptr, nullptr) != 0) stop_late(tid);
}

Result<std::unique_ptr<RemoteThread>> RemoteThread::stop(pid_t pid, pid_t tid) {
  const UrgentScope urgent;
  const Result<void> stopped = seize_and_stop(tid, kStopTimeoutMs);
  if (!stopped) return stopped.error();
  std::unique_ptr<RemoteThread> thread(new RemoteThread(pid, tid));
  const Result<void> ready = thread->prepare();
  if (!ready) return ready.error();
  return thread;
}

Result<std::unique_ptr<RemoteThread>> RemoteThread::borrow(pid_t pid, pid_t tid) {
  std::unique_ptr<RemoteThread> thread(new RemoteThread(pid, tid));
  thread->borrowed_ = true;
  const Result<void> ready = thread->prepare();
  if (!ready) return ready.error();
  return thread;
}

namespace {

bool has_seccomp(pid_t tid) {
  const Result<ProcStatus> status = read_status(tid);
  return status.ok() && status.value().seccomp_mode != 0;
}

}  // namespace

// Remembers what the destructor puts back; on failure there is nothing to put back.
Result<void> RemoteThread::prepare() {
  gone_ = true;
  if (ptrace(PTRACE_GETREGS, tid_, nullptr, &saved_) != 0 ||
      ptrace(PTRACE_GETSIGMASK, tid_, sizeof(uint64_t), &saved_mask_) != 0) {
    if (!borrowed_ && !is_held(tid_)) ptrace(PTRACE_DETACH, tid_, nullptr, nullptr);
    return fail(ESRCH, "the thread ended");
  }
  // A filter may have been installed since we last looked, by this thread alone. Not being allowed
  // to suspend one matters only if there is one.
  if (ptrace(PTRACE_SETOPTIONS, tid_, nullptr, PTRACE_O_SUSPEND_SECCOMP) != 0 &&
      has_seccomp(tid_)) {
    if (!borrowed_) release_thread(tid_, saved_, false);
    return fail(EPERM, "it has a seccomp filter, and we may not suspend it");
  }
  gone_ = false;
  save_rseq();
  uint64_t mask = kBlockedWhileRemote;
  ptrace(PTRACE_SETSIGMASK, tid_, sizeof mask, &mask);
  return {};
}

void RemoteThread::let_go() {
  if (borrowed_) {
    ptrace(PTRACE_SETREGS, tid_, nullptr, &saved_);
  } else {
    release_thread(tid_, saved_, true);
  }
}

RemoteThread::~RemoteThread() {
  if (gone_) return;
  if (stuck_) {
    lose_held(tid_);
    LateStop late;
    late.tid = tid_;
    late.restore = true;
    late.regs = saved_;
    late.mask = saved_mask_;
    late_stops().push_back(late);
    return;
  }
  restore_rseq();
  ptrace(PTRACE_SETSIGMASK, tid_, sizeof saved_mask_, &saved_mask_);
  let_go();
  for (const int sig : due_) syscall_tgkill(pid_, tid_, sig);
}

// A restartable sequence (rseq(2)) that we interrupted must still be aborted by the kernel when the
// thread goes on; while foreign code runs the kernel forgets that one was under way. One that the
// thread is not in is not put back: it may be our own token, whose time is over.
void RemoteThread::save_rseq() {
  struct {
    uint64_t addr;
    uint32_t size, signature, flags, pad;
  } config{};
  constexpr int kGetRseqConfiguration = 0x420f;  // PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13
  if (ptrace(static_cast<__ptrace_request>(kGetRseqConfiguration), tid_, sizeof config, &config) <=
          0 ||
      config.addr == 0) {
    return;
  }
  rseq_ = {config.addr, config.size, config.signature};
  struct {
    uint32_t version, flags;
    uint64_t start, length, abort;
  } sequence{};
  if (!read_memory(tid_, config.addr + kRseqCsOffset, &rseq_cs_, sizeof rseq_cs_).ok() ||
      rseq_cs_ == 0 || !read_memory(tid_, rseq_cs_, &sequence, sizeof sequence).ok() ||
      saved_.rip - sequence.start >= sequence.length) {
    rseq_cs_ = 0;
  }
}

void RemoteThread::restore_rseq() const {
  if (rseq_cs_ == 0) return;
  const iovec local{const_cast<uint64_t*>(&rseq_cs_), sizeof rseq_cs_};
  const iovec remote{reinterpret_cast<void*>(rseq_.addr + kRseqCsOffset), sizeof rseq_cs_};
  process_vm_writev(tid_, &local, 1, &remote, 1, 0);
}

Result<void> RemoteThread::run_to_trap(int request) {
  if (ptrace(static_cast<__ptrace_request>(request), tid_, nullptr, nullptr) != 0) {
    return errno_failure("cannot continue the thread");
  }
  for (;;) {
    int status = 0;
    const pid_t got = wait_until(tid_, &status, kRemoteTimeoutMs);
    if (got == 0) return give_up();
    if (got < 0 || !WIFSTOPPED(status)) {
      gone_ = true;
      return fail(ESRCH, "the thread ended");
    }
    const int sig = WSTOPSIG(status);
    const int event = status >> 16;
    if (event == 0 && sig == SIGTRAP) return {};
    // SIGSTOP cannot be masked: keep it for the end. A group stop takes effect at detach anyway.
    if (event == 0 && sig == SIGSTOP) {
      due_.push_back(sig);
    } else if (event == 0 && !was_pending(sig)) {
      return fail(EIO, "a remote call ended in a signal");
    }
    ptrace(static_cast<__ptrace_request>(request), tid_, nullptr, nullptr);
  }
}

// The stop met the thread between a fault of its own and the delivery of the signal, which now came
// before our first instruction. The faulting instruction runs again and faults again; what
// somebody sent is sent again.
bool RemoteThread::was_pending(int sig) {
  user_regs_struct regs{};
  siginfo_t info{};
  if (ptrace(PTRACE_GETREGS, tid_, nullptr, &regs) != 0 || regs.rip != start_rip_ ||
      ptrace(PTRACE_GETSIGINFO, tid_, nullptr, &info) != 0) {
    return false;
  }
  if (info.si_code <= 0) due_.push_back(sig);
  return true;
}

// The thread runs, or is kept from running (a frozen cgroup, memory pressure). It must not be left
// with our registers: stop it again, or, if even that fails, as soon as it can be stopped.
Result<void> RemoteThread::give_up() {
  stuck_ = true;
  if (ptrace(PTRACE_INTERRUPT, tid_, nullptr, nullptr) == 0) {
    int status = 0;
    const pid_t got = wait_until(tid_, &status, kStopTimeoutMs);
    if (got == tid_ && WIFSTOPPED(status)) stuck_ = false;
    if (got < 0 || (got == tid_ && !WIFSTOPPED(status))) gone_ = true;
  }
  return fail(ETIMEDOUT, "the thread does not come back from a remote call (is it frozen?)");
}

Result<int64_t> RemoteThread::syscall(uint64_t syscall_insn, int64_t nr, uint64_t a, uint64_t b,
                                      uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  user_regs_struct regs = saved_;
  regs.rip = start_rip_ = syscall_insn;
  regs.rax = static_cast<uint64_t>(nr);
  regs.orig_rax = ~uint64_t{0};  // no restart handling of the call that we interrupted
  regs.rdi = a;
  regs.rsi = b;
  regs.rdx = c;
  regs.r10 = d;
  regs.r8 = e;
  regs.r9 = f;
  if (ptrace(PTRACE_SETREGS, tid_, nullptr, &regs) != 0) {
    return errno_failure("cannot run a remote system call");
  }
  const Result<void> stopped = run_to_trap(PTRACE_SINGLESTEP);
  if (!stopped) return stopped.error();
  if (ptrace(PTRACE_GETREGS, tid_, nullptr, &regs) != 0) {
    return errno_failure("cannot read the result of a remote system call");
  }
  return static_cast<int64_t>(regs.rax);
}

Result<void> RemoteThread::call(uint64_t fn, uint64_t arg, uint64_t stack_top) {
  user_regs_struct regs = saved_;
  regs.rip = start_rip_ = fn;
  regs.rdi = arg;
  regs.rsp = stack_top - 8;
  regs.rax = 0;
  regs.orig_rax = ~uint64_t{0};
  regs.eflags &= ~uint64_t{0x400};  // DF clear, as the ABI demands
  if (ptrace(PTRACE_SETREGS, tid_, nullptr, &regs) != 0) {
    return errno_failure("cannot set registers");
  }
  return resume();
}

Result<void> RemoteThread::resume() { return run_to_trap(PTRACE_CONT); }

Result<int64_t> RemoteThread::result() const {
  user_regs_struct regs{};
  if (ptrace(PTRACE_GETREGS, tid_, nullptr, &regs) != 0) {
    return errno_failure("cannot read the result of a remote call");
  }
  return static_cast<int64_t>(regs.rax);
}

Result<void> read_memory(pid_t pid, uint64_t addr, void* out, size_t size) {
  const iovec local{out, size};
  const iovec remote{reinterpret_cast<void*>(addr), size};
  const ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
  if (got == static_cast<ssize_t>(size)) return {};
  if (got >= 0) return fail(EFAULT, "part of the memory is not mapped");
  return errno_failure("cannot read the process' memory");
}

Result<void> write_memory(int mem_fd, uint64_t addr, const void* bytes, size_t size) {
  const ssize_t put = pwrite(mem_fd, bytes, size, static_cast<off_t>(addr));
  if (put == static_cast<ssize_t>(size)) return {};
  if (put >= 0) return fail(EFAULT, "part of the memory is not mapped");
  return errno_failure("cannot write the process' memory");
}

}  // namespace bpftime::target
