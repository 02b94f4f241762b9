// SPDX-License-Identifier: MIT
#include "stream.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace bpftime::fuse {

namespace {

uint64_t count_lines(std::string_view text) {
  uint64_t count = 0;
  for (size_t at = 0; (at = text.find('\n', at)) != std::string_view::npos; ++at) ++count;
  return count;
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

void Stream::append(std::string_view lines) {
  if (lines.empty()) return;
  bool wake = false;
  {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (closed_) return;
    buf_.append(lines);
    if (lines.back() != '\n') buf_.push_back('\n');
    if (buf_.size() - head_ > max_bytes_) drop_oldest();
    wake = waiting_ > 0;
  }
  if (wake) waker_->wake();
}

void Stream::drop_oldest() {
  const uint64_t keep = kind_ == Kind::kLog ? max_bytes_ / 2 : max_bytes_;
  const size_t cut = head_ + (buf_.size() - head_ - keep);
  // The cut moves forward to the next line start; the last line always stays whole.
  size_t start = cut == 0 ? 0 : buf_.find('\n', cut - 1);
  start = start == std::string::npos ? buf_.size() : start + 1;
  dropped_lines_ += count_lines(std::string_view(buf_).substr(head_, start - head_));
  first_offset_ += start - head_;
  head_ = start;
  if (head_ >= max_bytes_ || head_ == buf_.size()) {  // amortised: each byte moves at most once
    buf_.erase(0, head_);
    head_ = 0;
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

std::string Stream::read(StreamCursor* cursor, size_t max_bytes) {
  const std::lock_guard<std::mutex> guard(mutex_);
  std::string out;
  if (cursor->offset < first_offset_) {
    if (cursor->mid_line) out.push_back('\n');
    out += "lost=" + std::to_string(dropped_lines_ - cursor->line_count) + "\n";
    if (out.size() > max_bytes) return out.substr(0, max_bytes);
    *cursor = {first_offset_, dropped_lines_, false};
  }
  const size_t at = head_ + (cursor->offset - first_offset_);
  size_t len = std::min(buf_.size() - at, max_bytes - out.size());
  if (len == 0) return out;
  std::string_view piece(buf_.data() + at, len);
  const size_t last_newline = piece.rfind('\n');
  if (last_newline != std::string_view::npos) piece = piece.substr(0, last_newline + 1);
  out += piece;
  cursor->offset += piece.size();
  cursor->line_count += count_lines(piece);
  cursor->mid_line = piece.back() != '\n';
  return out;
}

std::string Stream::read_at(uint64_t offset, size_t max_bytes) const {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (offset >= buf_.size() - head_) return {};
  return buf_.substr(head_ + offset, max_bytes);
}

uint64_t Stream::size_bytes() const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return buf_.size() - head_;
}

bool Stream::closed() const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return closed_;
}

bool Stream::readable(const StreamCursor& cursor) const {
  const std::lock_guard<std::mutex> guard(mutex_);
  return closed_ || first_offset_ + (buf_.size() - head_) > cursor.offset;
}

bool Stream::start_waiting(const StreamCursor& cursor) {
  const std::lock_guard<std::mutex> guard(mutex_);
  if (closed_ || first_offset_ + (buf_.size() - head_) > cursor.offset) return false;
  ++waiting_;
  return true;
}

void Stream::stop_waiting() {
  const std::lock_guard<std::mutex> guard(mutex_);
  --waiting_;
}

}  // namespace bpftime::fuse
