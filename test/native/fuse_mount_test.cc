// SPDX-License-Identifier: MIT
// A real mount under many threads: every operation at once, answers from another thread, commits
// that fail at random, readers that come and go, processes that die. Run it under sanitizers, too.
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <random>
#include <string>
#include <thread>

#include "fuse/mount_point.h"
#include "fuse/server.h"
#include "tap.h"

using namespace bpftime::fuse;
using tap::ok;

namespace {

constexpr auto kDuration = std::chrono::seconds(3);

// Stands for the JavaScript thread.
class Answerer final : public RequestSink {
 public:
  bool claim_interrupted(int) override { return false; }
  void requests_ready() override {
    const std::lock_guard<std::mutex> guard(mutex_);
    ready_ = true;
    condition_.notify_one();
  }
  void ended() override { requests_ready(); }

  void run(Server& server) {
    std::mt19937 random(1);
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        condition_.wait(lock, [this] { return ready_; });
        ready_ = false;
      }
      if (stop.load()) return;
      for (ControlRequest& request : server.take_requests()) {
        if (request.op == ControlOp::kCancel) continue;
        ++answered;
        const bool refuse = random() % 4 == 0 && request.op != ControlOp::kRead;
        if (random() % 64 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));
        server.answer(request.id, refuse ? ENOEXEC : 0, "content\n");
      }
    }
  }

  std::atomic<bool> stop{false};
  std::atomic<int> answered{0};

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool ready_ = false;
};

ClassSpec make(const char* name, NodeKind kind, uint32_t mode) {
  ClassSpec spec;
  spec.name = name;
  spec.kind = kind;
  spec.mode = mode;
  spec.max_bytes = 65536;
  return spec;
}

std::vector<ClassSpec> classes() {
  ClassSpec root = make("root", NodeKind::kDir, 0755);
  root.children = {{"files", "files"}, {"procs", "procs"}, {"stream", "stream"}, {"log", "log"},
                   {"rules", "rules"}, {"made", "made"},   {"text", "text"}};
  ClassSpec files = make("files", NodeKind::kDir, 0755);
  files.create_class = "payload";
  ClassSpec made = make("made", NodeKind::kDir, 0755);
  made.mkdir_class = "group";
  ClassSpec group = make("group", NodeKind::kDir, 0755);
  group.children = {{"value", "text"}};
  ClassSpec procs = make("procs", NodeKind::kDir, 0755);
  procs.provider = Provider::kProcs;
  procs.child_class = "proc";
  ClassSpec proc = make("proc", NodeKind::kDir, 0755);
  proc.children = {{"events", "stream"}, {"files", "files"}};
  return {root,
          files,
          made,
          group,
          procs,
          proc,
          make("payload", NodeKind::kPayload, 0644),
          make("rules", NodeKind::kLine, 0644),
          make("text", NodeKind::kGenerated, 0444),
          make("stream", NodeKind::kStream, 0444),
          make("log", NodeKind::kLog, 0444)};
}

using Random = std::mt19937;

// Only these may come back, whatever happens at the same time.
bool is_expected(int errnum) {
  switch (errnum) {
    case 0:
    case ENOENT:
    case EEXIST:
    case ENOEXEC:
    case ESRCH:
    case EINTR:
    case ETIMEDOUT:
    case EISDIR:
    case ENOTDIR:
    case EPERM:
    case ESTALE:
    case EAGAIN:
      return true;
    default:
      return false;
  }
}

std::atomic<int> surprises{0};
std::atomic<uint64_t> operations{0};

void check(long result, const char* what) {
  ++operations;
  if (result >= 0 || is_expected(errno)) return;
  ++surprises;
  std::printf("# %s: %s\n", what, strerror(errno));
}

void write_file(const std::string& path, Random& random, int flags) {
  const int fd = open(path.c_str(), flags, 0600);
  check(fd, "open");
  if (fd < 0) return;
  const std::string data(random() % 5000, 'x');
  check(pwrite(fd, data.data(), data.size(), random() % 100), "pwrite");
  if (random() % 4 == 0) check(ftruncate(fd, random() % 200), "ftruncate");
  struct stat st;
  check(fstat(fd, &st), "fstat");
  char buf[100];
  if ((flags & O_ACCMODE) == O_RDWR) check(pread(fd, buf, sizeof(buf), 0), "pread");
  check(close(fd), "close");
}

void read_all(const std::string& path, int flags) {
  const int fd = open(path.c_str(), O_RDONLY | flags);
  check(fd, "open to read");
  if (fd < 0) return;
  char buf[4096];
  for (int i = 0; i < 4; ++i) {
    const ssize_t len = read(fd, buf, sizeof(buf));
    check(len, "read");
    if (len <= 0) break;
  }
  pollfd poller = {fd, POLLIN, 0};
  check(poll(&poller, 1, 1), "poll");
  close(fd);
}

void list(const std::string& path) {
  DIR* dir = opendir(path.c_str());
  check(dir == nullptr ? -1 : 0, "opendir");
  if (dir == nullptr) return;
  while (readdir(dir) != nullptr) {
  }
  closedir(dir);
}

void one_operation(const std::string& root, Random& random) {
  const std::string files = root + "/files/";
  const std::string name = files + static_cast<char>('a' + random() % 4);
  const std::string staged = files + ".x.Abc12" + std::to_string(random() % 3);
  struct stat st;
  switch (random() % 14) {
    case 0:
      return write_file(name, random, O_WRONLY | O_CREAT | O_TRUNC);
    case 1:
      return write_file(name, random, O_RDWR | O_CREAT);
    case 2:
      return write_file(name, random, O_WRONLY | O_APPEND);
    case 3:
      return write_file(staged, random, O_RDWR | O_CREAT | O_EXCL);
    case 4:
      return check(rename(staged.c_str(), name.c_str()), "rename");
    case 5:
      return check(rename(name.c_str(), (files + "b").c_str()), "rename");
    case 6:
      return check(unlink(name.c_str()), "unlink");
    case 7:
      return read_all(name, 0);
    case 8:
      return read_all(root + "/stream", O_NONBLOCK);
    case 9:
      return read_all(root + (random() % 2 ? "/log" : "/text"), 0);
    case 10:
      return list(root + (random() % 2 ? "/files" : "/procs"));
    case 11:
      return check(stat(name.c_str(), &st), "stat");
    case 12: {
      const std::string dir = root + "/made/" + std::to_string(random() % 3);
      check(mkdir(dir.c_str(), 0755), "mkdir");
      read_all(dir + "/value", 0);
      return check(rmdir(dir.c_str()), "rmdir");
    }
    default: {
      const int fd = open((root + "/rules").c_str(), O_WRONLY | O_TRUNC);
      check(fd, "open rules");
      check(write(fd, "one\ntwo\nthr", 11), "write rules");
      return check(close(fd), "close rules");
    }
  }
}

// A process whose directory is used until and after it dies.
void live_and_die(const std::string& root, Random& random) {
  const pid_t pid = fork();
  if (pid == 0) {
    pause();
    _exit(0);
  }
  const std::string dir = root + "/procs/" + std::to_string(pid);
  write_file(dir + "/files/f", random, O_WRONLY | O_CREAT);
  std::thread reader([&] { read_all(dir + "/events", 0); });
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  reader.join();
  list(dir);
}

}  // namespace

int main() {
  char path[] = "/tmp/bpftimefs-fuse-XXXXXX";
  if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0) {
    ok(true, "mounting needs root and /dev/fuse # SKIP");
    return tap::done();
  }
  ok(mkdtemp(path) != nullptr, "a directory");
  Answerer answerer;
  ServerOptions options;
  options.mountpoint = path;
  options.root_class = "root";
  options.classes = classes();
  options.deadline_ms = 20;  // some answers come too late
  bpftime::Result<std::shared_ptr<Server>> started = Server::start(options, &answerer);
  if (!ok(started.ok(), "mounted")) return tap::done();
  Server& server = **started;
  std::thread answers([&] { answerer.run(server); });
  const auto end = std::chrono::steady_clock::now() + kDuration;
  const auto busy = [end] { return std::chrono::steady_clock::now() < end; };
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      Random random(seed);
      while (busy()) one_operation(path, random);
    });
  }
  threads.emplace_back([&] {
    while (busy()) {
      (void)server.append("/stream", "0123456789abcdef\n");
      (void)server.append("/log", "0123456789abcdef\n");
      (void)server.publish({"/files/p", "payload", "published", {}});
      (void)server.unpublish("/files/p");
      (void)server.stats();
    }
  });
  Random random(99);
  while (busy()) live_and_die(path, random);
  for (std::thread& thread : threads) thread.join();
  std::printf("# %llu operations, %d answers\n", static_cast<unsigned long long>(operations.load()),
              answerer.answered.load());
  ok(operations > 1000, "work was done");
  tap::equal(surprises.load(), 0, "no unexpected errno");
  // The kernel sends RELEASE after close(2) has returned.
  for (int i = 0; i < 100 && server.stats().open_files != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  tap::equal(static_cast<long long>(server.stats().open_files), 0, "no open file is left");
  std::thread blocked([&] { read_all(std::string(path) + "/stream", 0); });
  server.stop();
  blocked.join();
  answerer.stop = true;
  answerer.requests_ready();
  answers.join();
  ok(!is_our_mount(path), "unmounted");
  ok(rmdir(path) == 0, "nothing is left");
  return tap::done();
}
