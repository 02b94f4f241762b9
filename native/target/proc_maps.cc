// SPDX-License-Identifier: MIT
#include "proc_maps.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "../base/scoped_fd.h"

namespace bpftime::target {

namespace {

constexpr uint64_t kReach = (uint64_t{1} << 31) - (uint64_t{1} << 20);
constexpr uint64_t kMinAddr = 0x10000;             // vm.mmap_min_addr's usual value
constexpr uint64_t kMaxAddr = 0x7ffffffff000;      // end of user space, 4-level paging
constexpr uint64_t kHeapRoom = uint64_t{1} << 30;  // below this distance the heap may still grow
// Where there is no choice: a heap that meets a page goes on elsewhere, as every allocator can.
constexpr uint64_t kHeapRoomLeast = uint64_t{64} << 20;
constexpr uint64_t kStackRoom = uint64_t{16} << 20;

// 0, or the errno: ENOENT and ESRCH mean that the process is gone, others are our own trouble.
int read_file(const char* path, std::string* out) {
  const ScopedFd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return errno;
  char buffer[16384];
  ssize_t got = 0;
  while ((got = read(fd.get(), buffer, sizeof buffer)) > 0) {
    out->append(buffer, static_cast<size_t>(got));
  }
  return got == 0 ? 0 : errno;
}

Failure proc_failure(int err) {
  if (err == ENOENT || err == ESRCH) return fail(ESRCH, "no such process");
  return fail(err, "cannot read its files in /proc");
}

std::string proc_path(pid_t pid, const char* name) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
  return path;
}

// A number at `*at`, which moves behind it and the character that ends it.
uint64_t take_number(const char** at, int base) {
  char* end = nullptr;
  const uint64_t value = strtoull(*at, &end, base);
  *at = *end == '\0' ? end : end + 1;
  return value;
}

// start-end rwxp offset major:minor inode    path. Not by sscanf: a large process has thousands.
bool parse_region(const char* line, Region* region) {
  const char* at = line;
  region->start = take_number(&at, 16);
  region->end = take_number(&at, 16);
  if (region->end <= region->start || strlen(at) < 5) return false;
  region->read = at[0] == 'r';
  region->write = at[1] == 'w';
  region->exec = at[2] == 'x';
  region->shared = at[3] == 's';
  at += 5;
  region->file_off = take_number(&at, 16);
  take_number(&at, 16);
  take_number(&at, 16);
  region->inode = take_number(&at, 10);
  while (*at == ' ') ++at;
  region->path = at;
  return true;
}

long status_field(const std::string& status, const char* key) {
  const size_t at = status.find(key);
  return at == std::string::npos ? 0 : strtol(status.c_str() + at + strlen(key), nullptr, 10);
}

}  // namespace

Result<std::vector<Region>> read_regions(pid_t pid) {
  std::string text;
  const int err = read_file(proc_path(pid, "maps").c_str(), &text);
  if (err != 0) return proc_failure(err);
  if (text.empty()) return fail(ESRCH, "the process has no memory any more");
  std::vector<Region> regions;
  size_t at = 0;
  while (at < text.size()) {
    size_t eol = text.find('\n', at);
    if (eol == std::string::npos) eol = text.size();
    text[std::min(eol, text.size() - 1)] = '\0';
    Region region;
    if (parse_region(text.c_str() + at, &region)) regions.push_back(std::move(region));
    at = eol + 1;
  }
  return regions;
}

std::vector<pid_t> read_threads(pid_t pid) {
  std::vector<pid_t> tids;
  DIR* dir = opendir(proc_path(pid, "task").c_str());
  if (dir == nullptr) return tids;
  while (const dirent* entry = readdir(dir)) {
    const long tid = strtol(entry->d_name, nullptr, 10);
    if (tid > 0) tids.push_back(static_cast<pid_t>(tid));
  }
  closedir(dir);
  return tids;
}

ThreadCount::ThreadCount(pid_t pid)
    : task_dir_(open(proc_path(pid, "task").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}

// The kernel shows the directories below task/ as links of it (proc_task_getattr).
size_t ThreadCount::now() const {
  struct stat task {};
  if (fstat(task_dir_.get(), &task) != 0 || task.st_nlink < 2) return 0;
  return task.st_nlink - 2;
}

Result<ProcStatus> read_status(pid_t pid) {
  std::string status, stat;
  int err = read_file(proc_path(pid, "status").c_str(), &status);
  if (err == 0) err = read_file(proc_path(pid, "stat").c_str(), &stat);
  if (err != 0) return proc_failure(err);
  ProcStatus out;
  out.tracer = static_cast<pid_t>(status_field(status, "\nTracerPid:"));
  out.seccomp_mode = static_cast<int>(status_field(status, "\nSeccomp:"));
  out.kernel_thread =
      status_field(status, "\nKthread:") == 1 || status.find("\nVmSize:") == std::string::npos;
  const size_t features = status.find("\nx86_Thread_features:");
  if (features != std::string::npos) {
    const size_t eol = status.find('\n', features + 1);
    out.shadow_stack = status.substr(features, eol - features).find("shstk") != std::string::npos;
  }
  const size_t state = status.find("\nState:\t");
  out.zombie = state != std::string::npos && (status[state + 8] == 'Z' || status[state + 8] == 'X');
  const size_t nspid = status.find("\nNSpid:");
  if (nspid != std::string::npos) {
    const size_t eol = status.find('\n', nspid + 1);
    const size_t last = status.find_last_of("\t ", eol);
    out.ns_depth = static_cast<int>(std::count(status.begin() + static_cast<ptrdiff_t>(nspid),
                                               status.begin() + static_cast<ptrdiff_t>(eol), '\t'));
    out.ns_pid = static_cast<pid_t>(strtol(status.c_str() + last, nullptr, 10));
  }
  // Fields after the command, which may contain anything, start behind the last ')'.
  const size_t paren = stat.rfind(')');
  if (paren == std::string::npos) return fail(ESRCH, "no such process");
  const char* p = stat.c_str() + paren + 1;
  for (int field = 3; field <= 28 && *p != '\0'; ++field) {
    while (*p == ' ') ++p;
    if (field == 22) out.start_time = strtoull(p, nullptr, 10);
    if (field == 28) out.main_stack = strtoull(p, nullptr, 10);
    while (*p != '\0' && *p != ' ') ++p;
  }
  return out;
}

namespace {

constexpr uint32_t kPfIoWorker = 0x10, kPfUserWorker = 0x4000;  // include/linux/sched.h

// State and flags of proc_pid_stat(5), behind the name; nothing when it is gone.
std::optional<std::pair<char, uint32_t>> state_of(pid_t tid) {
  std::string stat;
  if (read_file(proc_path(tid, "stat").c_str(), &stat) != 0) return std::nullopt;
  const size_t paren = stat.rfind(')');
  char state = 'X';
  uint32_t flags = 0;
  if (paren == std::string::npos ||
      sscanf(stat.c_str() + paren, ") %c %*d %*d %*d %*d %*d %" SCNu32, &state, &flags) != 2) {
    return std::nullopt;
  }
  return std::pair{state, flags};
}

}  // namespace

bool has_ended(pid_t tid) {
  const auto state = state_of(tid);
  return !state || state->first == 'Z' || state->first == 'X';
}

pid_t living_thread(pid_t pid) {
  if (!has_ended(pid)) return pid;
  for (const pid_t tid : read_threads(pid)) {
    if (tid != pid && runs_code(tid)) return tid;
  }
  return pid;
}

bool runs_code(pid_t tid) {
  const auto state = state_of(tid);
  return state && state->first != 'Z' && state->first != 'X' &&
         (state->second & (kPfIoWorker | kPfUserWorker)) == 0;
}

namespace {

// Calls `consider(begin, end)` for each free range, clear of the growing ends of heap and stack.
template <typename Consider>
void for_each_gap(const std::vector<Region>& regions, uint64_t heap_room, Consider consider) {
  uint64_t gap_start = kMinAddr;
  bool heap_below = false;
  for (size_t i = 0; i <= regions.size(); ++i) {
    const bool last = i == regions.size();
    uint64_t gap_end = last ? kMaxAddr : regions[i].start;
    if (!last && regions[i].path == "[stack]" && gap_end > kStackRoom) gap_end -= kStackRoom;
    const uint64_t usable = heap_below ? gap_start + heap_room : gap_start;
    if (gap_end > usable) consider(usable, gap_end);
    if (last) break;
    gap_start = regions[i].end;
    // Behind the main program's data or the heap itself the heap grows upwards.
    heap_below =
        regions[i].path == "[heap]" || (regions[i].write && regions[i].end < uint64_t{1} << 46);
  }
}

}  // namespace

std::optional<uint64_t> find_hole(const std::vector<Region>& regions, uint64_t near_start,
                                  uint64_t near_end, uint64_t bytes) {
  const uint64_t low = std::max(kMinAddr, near_end > kReach ? near_end - kReach : 0);
  const uint64_t high = std::min(kMaxAddr, near_start + kReach);
  std::optional<uint64_t> best;
  uint64_t best_distance = UINT64_MAX;
  const auto consider = [&](uint64_t at) {
    if (at < low || at + bytes > high) return;
    const uint64_t distance = at < near_start ? near_start - at : at - near_start;
    if (distance < best_distance) {
      best = at;
      best_distance = distance;
    }
  };
  for_each_gap(regions, kHeapRoom, [&](uint64_t begin, uint64_t end) {
    if (end - begin < bytes) return;
    const uint64_t top = (std::min(end, high) - bytes) & ~uint64_t{0xffff};
    if (top >= begin) consider(top);
    consider((std::max(begin, low) + 0xffff) & ~uint64_t{0xffff});
  });
  return best;
}

std::optional<uint64_t> find_place(const std::vector<Region>& regions, uint64_t first,
                                   uint64_t choices, uint64_t bytes) {
  constexpr uint64_t kPage = 4096;
  std::optional<uint64_t> place;
  for_each_gap(regions, kHeapRoomLeast, [&](uint64_t begin, uint64_t end) {
    const uint64_t from = (begin + kPage - 1) & ~(kPage - 1);
    const uint64_t at = std::max(first, from);
    const uint64_t last = (at + bytes + kPage - 1) & ~(kPage - 1);
    // A displacement may lead below zero: such an address wraps.
    const bool fits = at < end && last > at && last <= end;
    if (!place && fits && at - first < choices) place = at;
  });
  return place;
}

}  // namespace bpftime::target
