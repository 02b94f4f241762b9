// SPDX-License-Identifier: MIT
// Journal: the file in which a session's state outlives the daemon. A memfd that the daemon writes
// and of which the target maps the first page, read-only: as long as the target lives so does the
// file.
//
// Invariant: at every instant the file holds one whole state. A new one is written beside the old,
// then one word says which of the two counts. Layout: head page, two places for states, then kept
// bytes (object files) at places of their own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
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
  static Result<std::vector<uint8_t>> read_state(const Source& source);

  Result<void> write_state(std::span<const uint8_t> state);
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
  std::vector<std::pair<uint64_t, uint64_t>> kept_;  // offset, bytes; sorted
};

/// Opens the memory file that is mapped at `region` of `pid`, if it is one of the kernel's own
/// (no file system of somebody's is ever asked) and cannot shrink below us. EPERM: we may not.
Result<ScopedFd> open_mapped_memfd(pid_t pid, const Region& region);

}  // namespace bpftime::target
