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
constexpr uint32_t kVersion = 4;
constexpr uint64_t kPlaceBytes = (kJournalStatesBytes - 4096) / 2;
constexpr uint64_t kPlaces[2] = {4096, 4096 + kPlaceBytes};
constexpr uint64_t kKeptBegin = uint64_t{256} << 20;
constexpr uint64_t kFileBytes = uint64_t{16} << 30;  // sparse
constexpr uint64_t kKeptBytesMax = uint64_t{64} << 20;
// As many bytes of records may be out of date as are not, and this many.
constexpr uint64_t kStaleBytes = 64 << 10;

struct PlaceHead {
  uint64_t bytes;  // of records that count
  uint64_t seed;   // what the first checksum goes on from
};
struct Head {
  uint64_t magic;
  uint32_t version;
  uint32_t current;  // which of the two
  JournalOwner owner;
  PlaceHead places[2];
};
static_assert(sizeof(Head) == 64, "daemons of one version read each other's");

struct RecordHead {
  uint64_t sum;  // of all before it, and of what follows
  uint64_t key;
  uint32_t kind;
  uint32_t bytes;  // behind this head; kDropped: none, and the part goes
};
static_assert(sizeof(RecordHead) == 24, "daemons of one version read each other's");
constexpr uint32_t kDropped = ~uint32_t{0};

uint64_t add_to(uint64_t sum, const void* data, size_t size) {
  const auto* at = static_cast<const uint8_t*>(data);
  for (; size >= 8; size -= 8, at += 8) {
    uint64_t word = 0;
    memcpy(&word, at, sizeof word);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
    sum ^= sum >> 29;
  }
  for (; size > 0; --size, ++at) sum = (sum ^ *at) * 0x100000001b3ull;
  return sum;
}

// The checksum of a record whose head is `head` but for the sum.
uint64_t sum_of(uint64_t before, const RecordHead& head, const uint8_t* data) {
  constexpr size_t kRest = sizeof head - sizeof head.sum;
  uint64_t sum = add_to(before, reinterpret_cast<const uint8_t*>(&head) + sizeof head.sum, kRest);
  if (head.bytes != kDropped) sum = add_to(sum, data, head.bytes);
  return sum;
}

void add_record(const PartKey& key, const Bytes* part, Bytes* records, uint64_t* sum) {
  RecordHead head{};
  head.key = key.key;
  head.kind = key.kind;
  head.bytes = part == nullptr ? kDropped : static_cast<uint32_t>(part->size());
  head.sum = *sum = sum_of(*sum, head, part == nullptr ? nullptr : part->data());
  const auto* from = reinterpret_cast<const uint8_t*>(&head);
  records->insert(records->end(), from, from + sizeof head);
  if (part != nullptr) records->insert(records->end(), part->begin(), part->end());
}

uint64_t record_bytes(const Bytes& part) { return sizeof(RecordHead) + part.size(); }

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

// Read when the addon is loaded, on the daemon's own thread.
const pid_t kDaemon = getpid();

}  // namespace

Result<ScopedFd> reopen(int fd, int flags) {
  char path[40];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ScopedFd opened(open(path, flags | O_CLOEXEC));
  if (!opened.valid()) return fail(errno, "a memory file cannot be opened again");
  return opened;
}

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
  Result<Head> head = read_head(journal->source());
  if (!head) return head.error();
  journal->current_ = head->current;
  journal->sum_ = head->places[head->current].seed;
  return journal;
}

Result<JournalOwner> Journal::read_owner(const Source& source) {
  Result<Head> head = read_head(source);
  if (!head) return head.error();
  return head->owner;
}

Result<Parts> Journal::read_parts(const Source& source) {
  Result<Head> head = read_head(source);
  if (!head) return head.error();
  const PlaceHead& place = head->places[head->current];
  if (place.bytes == 0 || place.bytes > kPlaceBytes) {
    return fail(EINVAL, "its journal makes no sense");
  }
  Bytes records(place.bytes);
  if (!source(kPlaces[head->current], records.data(), records.size())) {
    return fail(EINVAL, "its journal cannot be read");
  }
  Parts parts;
  uint64_t sum = place.seed;
  for (size_t at = 0; at < records.size();) {
    RecordHead record{};
    if (records.size() - at < sizeof record) return fail(EINVAL, "its journal is damaged");
    memcpy(&record, records.data() + at, sizeof record);
    at += sizeof record;
    const size_t bytes = record.bytes == kDropped ? 0 : record.bytes;
    if (records.size() - at < bytes) return fail(EINVAL, "its journal is damaged");
    const uint8_t* data = records.data() + at;
    sum = sum_of(sum, record, data);
    if (sum != record.sum) return fail(EINVAL, "its journal is damaged");
    at += bytes;
    const PartKey key{record.kind, record.key};
    if (record.bytes == kDropped) {
      parts.erase(key);
    } else {
      parts[key].assign(data, data + bytes);
    }
  }
  return parts;
}

Result<void> Journal::write(Step step) {
  std::erase_if(step, [this](const auto& one) {
    const auto known = parts_.find(one.first);
    if (!one.second) return known == parts_.end();
    return known != parts_.end() && known->second == *one.second;
  });
  if (step.empty()) return {};
  Bytes records;
  uint64_t sum = sum_;
  for (const auto& [key, part] : step) add_record(key, part ? &*part : nullptr, &records, &sum);
  const uint64_t used = used_ + records.size();
  if (used > kPlaceBytes || used > 2 * parts_bytes_ + kStaleBytes) {
    Parts parts = parts_;
    for (auto& [key, part] : step) {
      if (part) {
        parts[key] = std::move(*part);
      } else {
        parts.erase(key);
      }
    }
    return rewrite(std::move(parts));
  }
  Result<void> done =
      write_at(file_.get(), records.data(), records.size(), kPlaces[current_] + used_);
  if (!done) return done;
  done = write_at(file_.get(), &used, sizeof used,
                  offsetof(Head, places) + current_ * sizeof(PlaceHead));
  if (!done) return done;
  used_ = used;
  sum_ = sum;
  for (auto& [key, part] : step) {
    const auto known = parts_.find(key);
    if (known != parts_.end()) {
      parts_bytes_ -= record_bytes(known->second);
      parts_.erase(known);
    }
    if (!part) continue;
    parts_bytes_ += record_bytes(*part);
    parts_.emplace(key, std::move(*part));
  }
  return {};
}

Result<void> Journal::rewrite(Parts parts) {
  const uint32_t next = 1 - current_;
  PlaceHead place{0, sum_ + 1};
  uint64_t sum = place.seed;
  Bytes records;
  for (const auto& [key, part] : parts) add_record(key, &part, &records, &sum);
  place.bytes = records.size();
  if (place.bytes > kPlaceBytes) return fail(E2BIG, "too much is attached for one journal");
  const int fd = file_.get();
  Result<void> done = write_at(fd, records.data(), records.size(), kPlaces[next]);
  if (!done) return done;
  done = write_at(fd, &place, sizeof place, offsetof(Head, places) + next * sizeof place);
  if (!done) return done;
  done = write_at(fd, &next, sizeof next, offsetof(Head, current));
  if (!done) return done;
  // What nobody reads any more is no memory of the target's.
  fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(kPlaces[current_]),
            static_cast<off_t>(kPlaceBytes));
  current_ = next;
  used_ = parts_bytes_ = place.bytes;
  sum_ = sum;
  parts_ = std::move(parts);
  return {};
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
  snprintf(path, sizeof path, "/proc/%d/map_files/%lx-%lx", living_thread(pid), region.start,
           region.end);
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
