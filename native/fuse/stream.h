// SPDX-License-Identifier: MIT
// Stream: the bytes behind a `stream` or `log` file: whole lines, in memory, bounded.
// A stream drops its oldest lines and tells each reader how many it missed; a log drops its older
// half at once, so that readers that poll its size (tail -f) see a truncation and start over.
// Lines that came as a batch are shared by the streams that have them, and dropped together: up to
// a batch more than the bound is kept.
//
// append() may be called from any thread and never blocks on a reader or on the file system.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace bpftime::fuse {

/// Wakes the thread that completes waiting reads; shared, so that it outlives the mount.
class Waker {
 public:
  Waker();
  ~Waker();
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;
  void wake();
  /// Forgets past wake-ups; called by the waiting thread before it looks at the streams.
  void clear();
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
  std::atomic<bool> pending_{false};
};

/// Where a reader stands.
struct StreamCursor {
  uint64_t offset = 0;      // bytes since the stream began
  uint64_t line_count = 0;  // whole lines before `offset`
  bool mid_line = false;
};

/// Whole lines that several streams keep, in one copy.
struct Lines {
  std::string text;  // ends in a newline
  uint64_t line_count = 0;
};

/// What a read got: text of its own, or a part of lines that are kept as long as this is.
struct Piece {
  std::string own;
  std::shared_ptr<const Lines> kept;
  std::string_view text;  // of `kept`, if that is set
  [[nodiscard]] std::string_view view() const { return kept != nullptr ? text : own; }
};

class Stream {
 public:
  enum class Kind { kStream, kLog };
  Stream(Kind kind, uint64_t max_bytes, std::shared_ptr<Waker> waker)
      : kind_(kind), max_bytes_(max_bytes), waker_(std::move(waker)) {}

  /// Adds whole lines; a missing last newline is added. Ignored once closed.
  void append(std::string_view lines);
  /// The same for who calls serve_readers() afterwards: nobody is woken. True if a reader waits.
  bool add(std::string_view lines);
  /// Without a copy, for batches; not for logs.
  bool add(std::shared_ptr<const Lines> lines);
  /// Open files that read this stream now: producers may stay silent while it is 0.
  [[nodiscard]] int reader_count() const { return readers_.load(std::memory_order_relaxed); }
  /// No more lines; waiting readers see the end of the file.
  void close();

  // --- for the file system -----------------------------------------------------------------------
  StreamCursor open_reader();
  void close_reader();
  /// Up to `max_bytes` at the cursor, preceded by `lost=N` when lines were dropped before it.
  /// Empty: nothing yet, or the end when closed().
  Piece take(StreamCursor* cursor, size_t max_bytes);
  std::string read(StreamCursor* cursor, size_t max_bytes);
  /// log: bytes at an offset of the file as it is now.
  [[nodiscard]] std::string read_at(uint64_t offset, size_t max_bytes) const;
  [[nodiscard]] uint64_t size_bytes() const;
  [[nodiscard]] bool closed() const;
  /// True when a reader at `cursor` would not block.
  [[nodiscard]] bool readable(const StreamCursor& cursor) const;
  /// Announces a waiting reader unless there is something to read already.
  bool start_waiting(const StreamCursor& cursor);
  void stop_waiting();

 private:
  struct Chunk {
    std::shared_ptr<const Lines> lines;
    std::shared_ptr<Lines> own;  // the same, while it is nobody else's
    uint64_t offset = 0;         // of its first byte
  };
  [[nodiscard]] uint64_t end() const;
  [[nodiscard]] std::deque<Chunk>::const_iterator find(uint64_t offset) const;
  void push(Chunk chunk);
  bool copy(uint64_t offset, size_t max_bytes, std::string* out) const;
  void drop_oldest();

  const Kind kind_;
  const uint64_t max_bytes_;
  const std::shared_ptr<Waker> waker_;
  mutable std::mutex mutex_;
  std::deque<Chunk> chunks_;    // one after the other
  uint64_t first_offset_ = 0;   // stream offset of the oldest retained byte, in the first chunk
  uint64_t dropped_lines_ = 0;  // whole lines before first_offset_
  int waiting_ = 0;
  bool closed_ = false;
  std::atomic<int> readers_{0};
};

/// The stream behind a file of a mount, e.g. (1, "/procs/12/events"); made when it is absent.
/// Null when there is no such mount, class or process.
std::shared_ptr<Stream> find_stream(int mount, std::string_view path);

/// Answers the readers of a mount's streams for which there is something now, on this thread.
void serve_readers(int mount);

}  // namespace bpftime::fuse
