// SPDX-License-Identifier: MIT
#include "stream.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace bpftime::fuse {

namespace {

constexpr size_t kChunkBytes = 64 << 10;  // small texts are gathered in chunks of up to this

uint64_t count_lines(std::string_view text) {
  uint64_t count = 0;
  for (size_t at = 0; (at = text.find('\n', at)) != std::string_view::npos; ++at) ++count;
  return count;
}

// Moves a reader over `piece`, of which only whole lines are left if it has any. `line_count` is
// how many these are, 0 if that is not known.
void advance(StreamCursor* cursor, std::string_view* piece, uint64_t line_count) {
  if (piece->empty()) return;
  const size_t last_newline = piece->rfind('\n');
  if (last_newline != std::string_view::npos) *piece = piece->substr(0, last_newline + 1);
  cursor->offset += piece->size();
  cursor->line_count += line_count != 0 ? line_count : count_lines(*piece);
  cursor->mid_line = piece->back() != '\n';
}

}  // namespace

Waker::Waker() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Waker::~Waker() { ::close(fd_); }

void Waker::wake() {
  if (pending_.exchange(true, std::memory_order_acq_rel)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd_, &one, sizeof(one));
}

void Waker::clear() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd_, &count, sizeof(count));
  pending_.store(false, std::memory_order_release);
}

uint64_t Stream::end() const {
  return chunks_.empty() ? first_offset_
                         : chunks_.back().offset + chunks_.back().lines->text.size();
}

void Stream::push(Chunk chunk) {
  chunk.offset = end();
  chunks_.push_back(std::move(chunk));
}

void Stream::append(std::string_view lines) {
  if (add(lines)) waker_->wake();
}

bool Stream::add(std::string_view lines) {
  if (lines.empty()) return false;
  const std::lock_guard<std::mutex> guard(mutex_);
  if (closed_) return false;
  const bool fits = !chunks_.empty() && chunks_.back().own != nullptr &&
                    chunks_.back().own->text.size() + lines.size() < kChunkBytes;
  if (!fits) {
    const auto own = std::make_shared<Lines>();
    push({own, own});
  }
  Lines& last = *chunks_.back().own;
  last.text.append(lines);
  if (lines.back() != '\n') last.text.push_back('\n');
  last.line_count += count_lines(lines) + (lines.back() != '\n' ? 1 : 0);
  if (end() - first_offset_ > max_bytes_) drop_oldest();
  return waiting_ > 0;
}

bool Stream::add(std::shared_ptr<const Lines> lines) {
  if (lines->text.empty()) return false;
  const std::lock_guard<std::mutex> guard(mutex_);
  if (closed_) return false;
  push({std::move(lines), nullptr});
  if (end() - first_offset_ > max_bytes_) drop_oldest();
  return waiting_ > 0;
}

void Stream::drop_oldest() {
  const uint64_t keep = kind_ == Kind::kLog ? max_bytes_ / 2 : max_bytes_;
  const uint64_t cut = end() - keep;
  while (first_offset_ < cut) {
    const Chunk& chunk = chunks_.front();
    const std::string& text = chunk.lines->text;
    const uint64_t at = first_offset_ - chunk.offset;
    const uint64_t chunk_end = chunk.offset + text.size();
    const bool is_whole = chunk_end <= cut;
    // A batch goes as a whole, when all of it is too much, and nobody looks at its bytes again.
    if (!is_whole && chunk.own == nullptr) return;
    // The cut moves forward to the next line start; the last line always stays whole.
    const size_t newline = is_whole ? text.size() - 1 : text.find('\n', cut - chunk.offset - 1);
    dropped_lines_ += is_whole && at == 0
                          ? chunk.lines->line_count
                          : count_lines(std::string_view(text).substr(at, newline + 1 - at));
    first_offset_ = chunk.offset + newline + 1;
    if (first_offset_ == chunk_end) chunks_.pop_front();
  }
}

void Stream::close() {
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    closed_ = true;
  }
  waker_->wake();
}

StreamCursor Stream::open_reader() {
  readers_.fetch_add(1, std::memory_order_relaxed);
  const std::lock_guard<std::mutex> guard(mutex_);
  return {first_offset_, dropped_lines_, false};
}

void Stream::close_reader() { readers_.fetch_sub(1, std::memory_order_relaxed); }

// The chunk that holds the byte at `offset`, which is retained.
std::deque<Stream::Chunk>::const_iterator Stream::find(uint64_t offset) const {
  return std::prev(
      std::upper_bound(chunks_.begin(), chunks_.end(), offset,
                       [](uint64_t wanted, const Chunk& chunk) { return wanted < chunk.offset; }));
}

// Appends up to `max_bytes` from `offset` on; true if that was all there is.
bool Stream::copy(uint64_t offset, size_t max_bytes, std::string* out) const {
  if (offset >= end()) return true;
  for (auto chunk = find(offset); chunk != chunks_.end() && max_bytes != 0; ++chunk) {
    const auto piece =
        std::string_view(chunk->lines->text).substr(offset - chunk->offset, max_bytes);
    out->append(piece);
    offset += piece.size();
    max_bytes -= piece.size();
  }
  return offset == end();
}

Piece Stream::take(StreamCursor* cursor, size_t max_bytes) {
  const std::lock_guard<std::mutex> guard(mutex_);
  Piece out;
  if (cursor->offset < first_offset_) {
    if (cursor->mid_line) out.own.push_back('\n');
    out.own += "lost=" + std::to_string(dropped_lines_ - cursor->line_count) + "\n";
    if (out.own.size() > max_bytes) {
      out.own.resize(max_bytes);
      return out;
    }
    *cursor = {first_offset_, dropped_lines_, false};
  }
  if (cursor->offset == end()) return out;
  const auto chunk = find(cursor->offset);
  const size_t at = cursor->offset - chunk->offset;
  const size_t left = chunk->lines->text.size() - at;
  const bool is_last = std::next(chunk) == chunks_.end();
  if (out.own.empty() && chunk->own == nullptr && (is_last || left > max_bytes / 4)) {
    out.kept = chunk->lines;
    out.text = std::string_view(chunk->lines->text).substr(at, max_bytes);
    advance(cursor, &out.text, at == 0 && left <= max_bytes ? chunk->lines->line_count : 0);
    return out;
  }
  const size_t before = out.own.size();
  copy(cursor->offset, max_bytes - before, &out.own);
  std::string_view piece = std::string_view(out.own).substr(before);
  advance(cursor, &piece, 0);
  out.own.resize(before + piece.size());
  return out;
}

std::string Stream::read(StreamCursor* cursor, size_t max_bytes) {
  return std::string(take(cursor, max_bytes).view());
}

std::string Stream::read_at(uint64_t offset, size_t max_bytes) const {
  const std::lock_guard<std::mutex> guard(mutex_);
  std::string out;
  if (offset < end() - first_offset_) copy(first_offset_ + offset, max_bytes, &out);
  return out;
}

uint64_t Stream::size_bytes() const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return end() - first_offset_;
}

bool Stream::closed() const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return closed_;
}

bool Stream::readable(const StreamCursor& cursor) const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return closed_ || end() > cursor.offset;
}

bool Stream::start_waiting(const StreamCursor& cursor) {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (closed_ || end() > cursor.offset) return false;
  ++waiting_;
  return true;
}

void Stream::stop_waiting() {
  const std::lock_guard<std::mutex> guard(mutex_);
  --waiting_;
}

}  // namespace bpftime::fuse
