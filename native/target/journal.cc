// SPDX-License-Identifier: MIT
#include "journal.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace bpftime::target {

namespace {

constexpr uint64_t kMagic = 0x6c6e726a62667062ull;
constexpr uint32_t kVersion = 3;
constexpr uint64_t kPlaceBytes = (kJournalStatesBytes - 4096) / 2;
constexpr uint64_t kPlaces[2] = {4096, 4096 + kPlaceBytes};
constexpr uint64_t kKeptBegin = uint64_t{256} << 20;
constexpr uint64_t kFileBytes = uint64_t{16} << 30;  // sparse
constexpr uint64_t kKeptBytesMax = uint64_t{64} << 20;

struct Head {
  uint64_t magic;
  uint32_t version;
  uint32_t current;  // which of the two
  JournalOwner owner;
  struct {
    uint64_t bytes, checksum;
  } states[2];
};
static_assert(sizeof(Head) == 64, "daemons of one version read each other's");

uint64_t checksum(std::span<const uint8_t> bytes) {
  uint64_t sum = 0xcbf29ce484222325ull;
  for (const uint8_t byte : bytes) sum = (sum ^ byte) * 0x100000001b3ull;
  return sum;
}

Result<void> write_at(int fd, const void* bytes, size_t size, uint64_t off) {
  const ssize_t done = pwrite(fd, bytes, size, static_cast<off_t>(off));
  if (done == static_cast<ssize_t>(size)) return {};
  return fail(done < 0 ? errno : ENOSPC, "the journal cannot be written");
}

Result<Head> read_head(const Journal::Source& source) {
  Head head{};
  if (!source(0, &head, sizeof head)) return fail(EINVAL, "its journal cannot be read");
  if (head.magic != kMagic || head.version != kVersion || head.current > 1) {
    return fail(EINVAL, "its journal is of another version");
  }
  return head;
}

Result<ScopedFd> reopen(int fd, int flags) {
  char path[40];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ScopedFd opened(open(path, flags | O_CLOEXEC));
  if (!opened.valid()) return fail(errno, "a memory file cannot be opened again");
  return opened;
}

// Read when the addon is loaded, on the daemon's own thread.
const pid_t kDaemon = getpid();

}  // namespace

JournalOwner JournalOwner::ourselves() {
  static const uint64_t start_time = [] {
    Result<ProcStatus> status = read_status(getpid());
    return status.ok() ? status->start_time : 0;
  }();
  return JournalOwner{start_time, getpid(), kDaemon};
}

bool JournalOwner::alive() const {
  Result<ProcStatus> status = read_status(tracer);
  return status.ok() && status->start_time == start_time && !status->zombie;
}

Result<std::unique_ptr<Journal>> Journal::create() {
  std::unique_ptr<Journal> journal(new Journal);
  journal->file_.reset(memfd_create("bpftime-state", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const int fd = journal->file_.get();
  if (!journal->file_.valid() || fchmod(fd, 0600) != 0 ||
      ftruncate(fd, static_cast<off_t>(kFileBytes)) != 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail(ENOMEM, "no memory for the journal");
  }
  Result<ScopedFd> readable = reopen(fd, O_RDONLY);
  if (!readable) return readable.error();
  journal->readable_ = std::move(*readable);
  Head head{};
  head.magic = kMagic;
  head.version = kVersion;
  head.states[0].checksum = checksum({});
  const Result<void> wrote = write_at(fd, &head, sizeof head, 0);
  if (!wrote) return wrote.error();
  const Result<void> taken = journal->take_over();
  if (!taken) return taken.error();
  return journal;
}

Result<std::unique_ptr<Journal>> Journal::open_in(pid_t pid, const Region& page) {
  Result<ScopedFd> file = open_mapped_memfd(pid, page);
  if (!file) return file.error();
  struct stat st {};
  // Nobody can make a file of our user but we, and the target cannot write this one.
  if (fstat(file->get(), &st) != 0 || st.st_uid != geteuid() || page.write) {
    return fail(EACCES, "its journal was made by somebody else");
  }
  if (static_cast<uint64_t>(st.st_size) != kFileBytes) {
    return fail(EINVAL, "its journal is of another version");
  }
  std::unique_ptr<Journal> journal(new Journal);
  Result<ScopedFd> readable = reopen(file->get(), O_RDONLY);
  if (!readable) return readable.error();
  journal->readable_ = std::move(*readable);
  journal->file_ = std::move(*file);
  return journal;
}

Result<JournalOwner> Journal::read_owner(const Source& source) {
  Result<Head> head = read_head(source);
  if (!head) return head.error();
  return head->owner;
}

Result<std::vector<uint8_t>> Journal::read_state(const Source& source) {
  Result<Head> head = read_head(source);
  if (!head) return head.error();
  const auto& current = head->states[head->current];
  if (current.bytes > kPlaceBytes) return fail(EINVAL, "its journal makes no sense");
  std::vector<uint8_t> state(current.bytes);
  if (!source(kPlaces[head->current], state.data(), state.size()) ||
      checksum(state) != current.checksum) {
    return fail(EINVAL, "its journal is damaged");
  }
  return state;
}

Result<void> Journal::write_state(std::span<const uint8_t> state) {
  if (state.size() > kPlaceBytes) return fail(E2BIG, "too much is attached for one journal");
  Result<Head> head = read_head(source());
  if (!head) return head.error();
  const uint32_t next = 1 - head->current;
  Result<void> step = write_at(file_.get(), state.data(), state.size(), kPlaces[next]);
  if (!step) return step;
  head->states[next].bytes = state.size();
  head->states[next].checksum = checksum(state);
  step = write_at(file_.get(), &head->states[next], sizeof head->states[next],
                  offsetof(Head, states) + next * sizeof head->states[0]);
  if (!step) return step;
  return write_at(file_.get(), &next, sizeof next, offsetof(Head, current));
}

Result<void> Journal::take_over() {
  const JournalOwner us = JournalOwner::ourselves();
  return write_at(file_.get(), &us, sizeof us, offsetof(Head, owner));
}

Result<uint64_t> Journal::keep(std::span<const uint8_t> bytes) {
  uint64_t at = kKeptBegin;
  size_t index = 0;
  for (; index < kept_.size(); ++index) {
    if (kept_[index].first - at >= bytes.size()) break;
    at = (kept_[index].first + kept_[index].second + 4095) & ~uint64_t{4095};
  }
  if (at + bytes.size() > kFileBytes) return fail(ENOSPC, "the journal is full");
  const Result<void> wrote = write_at(file_.get(), bytes.data(), bytes.size(), at);
  if (!wrote) return wrote.error();
  kept_.insert(kept_.begin() + static_cast<int64_t>(index), {at, bytes.size()});
  return at;
}

void Journal::drop(uint64_t off, uint64_t bytes) {
  const auto it = std::find(kept_.begin(), kept_.end(), std::pair{off, bytes});
  if (it == kept_.end()) return;
  kept_.erase(it);
  const uint64_t pages = (bytes + 4095) & ~uint64_t{4095};
  fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(off),
            static_cast<off_t>(pages));
}

Result<std::vector<uint8_t>> Journal::kept(uint64_t off, uint64_t bytes) {
  if (off < kKeptBegin || off > kFileBytes || bytes > kFileBytes - off || bytes > kKeptBytesMax) {
    return fail(EINVAL, "its journal makes no sense");
  }
  std::vector<uint8_t> out(bytes);
  if (!source()(off, out.data(), out.size())) return fail(EINVAL, "its journal cannot be read");
  const std::pair range{off, bytes};
  const auto at = std::lower_bound(kept_.begin(), kept_.end(), range);
  if (at == kept_.end() || *at != range) kept_.insert(at, range);
  return out;
}

Journal::Source Journal::source() const {
  return [fd = file_.get()](uint64_t off, void* out, size_t size) {
    return pread(fd, out, size, static_cast<off_t>(off)) == static_cast<ssize_t>(size);
  };
}

Result<ScopedFd> open_mapped_memfd(pid_t pid, const Region& region) {
  char path[80];
  snprintf(path, sizeof path, "/proc/%d/map_files/%lx-%lx", pid, region.start, region.end);
  const ScopedFd found(open(path, O_PATH | O_CLOEXEC));
  if (!found.valid()) return fail(errno, "its memory files cannot be opened by us");
  // Which file system it lies on, without asking that file system: it may be anybody's.
  static const ScopedFd sample(memfd_create("bpftime-sample", MFD_CLOEXEC));
  struct statx ours {
  }, theirs{};
  if (statx(sample.get(), "", AT_EMPTY_PATH, STATX_INO, &ours) != 0 ||
      statx(found.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &theirs) != 0 ||
      ours.stx_dev_major != theirs.stx_dev_major || ours.stx_dev_minor != theirs.stx_dev_minor) {
    return fail(EINVAL, "a file of somebody else is mapped in its place");
  }
  Result<ScopedFd> file = reopen(found.get(), O_RDWR);
  if (!file) return file.error();
  constexpr int kWanted = F_SEAL_SHRINK | F_SEAL_GROW;
  if ((fcntl(file->get(), F_GET_SEALS) & kWanted) != kWanted) {
    return fail(EINVAL, "a file of somebody else is mapped in its place");
  }
  return file;
}

}  // namespace bpftime::target
