// SPDX-License-Identifier: MIT
// Journal: the file in which a session's state outlives the daemon. A memfd that the daemon writes
// and of which the target maps the first page, read-only: as long as the target lives so does the
// file.
//
// A state is a set of parts, each under a key. What changes is appended: records of the parts that
// were put or dropped, each with a checksum over itself and all before it, then one word that says
// how far the records count (docs/adr/0023). When most of them are out of date the parts that are
// left are written into the other place, and one word says which of the two counts.
//
// Invariant: at every instant the file holds one whole state; killed in the middle of a step we
// leave the one before it. Layout: head page, two places for records, then kept bytes (object
// files) at places of their own.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "../base/result.h"
#include "../base/scoped_fd.h"
#include "proc_maps.h"

namespace bpftime::target {

/// Names of our memory files as /proc/<pid>/maps shows them.
constexpr const char* kJournalPath = "/memfd:bpftime-state";
/// What of the file holds states; some hundred bytes for each diverted place.
constexpr uint64_t kJournalStatesBytes = 4096 + (uint64_t{128} << 20);

/// Who writes a journal. The tracer outlives a killed daemon by the job that it is at.
struct JournalOwner {
  uint64_t start_time = 0;  // of the tracer, clock ticks since boot
  pid_t tracer = 0;
  pid_t daemon = 0;
  [[nodiscard]] bool alive() const;
  /// Only on the tracer thread.
  static JournalOwner ourselves();
};

/// What a part is, and which of its kind.
struct PartKey {
  uint32_t kind = 0;
  uint64_t key = 0;
  auto operator<=>(const PartKey&) const = default;
};
using Bytes = std::vector<uint8_t>;
using Parts = std::map<PartKey, Bytes>;
/// Parts that are put, or, without bytes, dropped.
using Step = std::map<PartKey, std::optional<Bytes>>;

/// What a session's journal does not say yet. Whoever changes one of these marks it.
struct Unsaved {
  bool all = true;
  std::map<uint64_t, uint32_t> maps;  // id, by address
  std::set<uint32_t> images;
  std::set<uint64_t> sites, notes;
};

class Journal {
 public:
  /// Reads `size` bytes of the file at an offset; false when it cannot.
  using Source = std::function<bool(uint64_t off, void* out, size_t size)>;

  /// A new file that belongs to this process.
  static Result<std::unique_ptr<Journal>> create();
  /// The file of which `page` is mapped in `pid`; only privileged daemons may open it (EPERM).
  /// EACCES: somebody else made it.
  static Result<std::unique_ptr<Journal>> open_in(pid_t pid, const Region& page);

  /// Who wrote it, the state that counts: of any source. EINVAL: not a journal, or damaged.
  static Result<JournalOwner> read_owner(const Source& source);
  static Result<Parts> read_parts(const Source& source);

  /// All of a step, or, when it fails (E2BIG, no memory), nothing. Parts that are as they were cost
  /// nothing.
  Result<void> write(Step step);
  /// These are all parts there are. The first thing to do with a journal that was opened.
  Result<void> rewrite(Parts parts);
  /// From now on we are the owner. Only on the tracer thread.
  Result<void> take_over();

  /// Keeps bytes in the file; where.
  Result<uint64_t> keep(std::span<const uint8_t> bytes);
  void drop(uint64_t off, uint64_t bytes);
  Result<std::vector<uint8_t>> kept(uint64_t off, uint64_t bytes);

  [[nodiscard]] Source source() const;
  /// For the target to map: read-only.
  [[nodiscard]] int readable_fd() const { return readable_.get(); }

 private:
  ScopedFd file_, readable_;
  Parts parts_;                          // as they are in the file
  uint64_t used_ = 0, parts_bytes_ = 0;  // records in the place that counts; those of parts_
  uint64_t sum_ = 0;                     // of the last record
  uint32_t current_ = 0;
  std::vector<std::pair<uint64_t, uint64_t>> kept_;  // offset, bytes; sorted
};

/// Another descriptor of a memory file of ours.
Result<ScopedFd> reopen(int fd, int flags);

/// Opens the memory file that is mapped at `region` of `pid`, if it is one of the kernel's own
/// (no file system of somebody's is ever asked) and cannot shrink below us. EPERM: we may not.
Result<ScopedFd> open_mapped_memfd(pid_t pid, const Region& region);

}  // namespace bpftime::target
