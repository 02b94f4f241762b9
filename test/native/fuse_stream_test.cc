// SPDX-License-Identifier: MIT
// Streams and logs: whole lines, exact losses, many threads.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "fuse/stream.h"
#include "tap.h"

using namespace bpftime::fuse;
using tap::ok;

static void lines_and_cursors() {
  const auto waker = std::make_shared<Waker>();
  Stream stream(Stream::Kind::kStream, 64, waker);
  stream.append("one\ntwo");
  StreamCursor first = stream.open_reader();
  tap::equal(stream.read(&first, 100), "one\ntwo\n", "a missing newline is added");
  tap::equal(stream.read(&first, 100), std::string(), "nothing more");
  stream.append("three\n");
  tap::equal(stream.read(&first, 3), "thr", "a buffer shorter than the line");
  tap::equal(stream.read(&first, 100), "ee\n", "the rest of it");
  StreamCursor second = stream.open_reader();
  tap::equal(stream.read(&second, 100), "one\ntwo\nthree\n", "a reader of its own");
  tap::equal(stream.reader_count(), 2, "two readers");
  stream.close_reader();
  tap::equal(stream.reader_count(), 1, "one reader");
}

static void losses() {
  Stream stream(Stream::Kind::kStream, 40, std::make_shared<Waker>());
  StreamCursor reader = stream.open_reader();
  stream.append("0000000\n");
  tap::equal(stream.read(&reader, 4), "0000", "half a line");
  for (int i = 1; i <= 10; ++i) stream.append("line" + std::to_string(100 + i) + "\n");
  tap::equal(stream.read(&reader, 1000),
             std::string("\nlost=6\nline106\nline107\nline108\nline109\nline110\n"),
             "the line that was begun ends, the marker counts, five lines are left");
  stream.append(std::string(100, 'x') + "\n");
  tap::equal(stream.read(&reader, 1000), "lost=1\n", "a line that never fits is lost");
}

static std::shared_ptr<const Lines> batch(const std::string& word, int count) {
  auto lines = std::make_shared<Lines>();
  for (int i = 0; i < count; ++i) lines->text += word + "\n";
  lines->line_count = static_cast<uint64_t>(count);
  return lines;
}

static void batches() {
  const auto waker = std::make_shared<Waker>();
  Stream one(Stream::Kind::kStream, 20, waker);
  Stream other(Stream::Kind::kStream, 1000, waker);
  StreamCursor slow = one.open_reader();
  StreamCursor fast = one.open_reader();
  one.append("a\n");
  const auto shared = batch("bbb", 3);
  one.add(shared);
  other.add(shared);
  one.append("c\n");
  tap::equal(one.read(&fast, 100), "a\nbbb\nbbb\nbbb\nc\n", "text and batches in their order");
  tap::equal(one.read(&slow, 4), "a\n", "whole lines first");
  tap::equal(one.read(&slow, 6), "bbb\n", "a part of a batch");
  tap::equal(one.read(&slow, 2), "bb", "a part of its line");
  one.add(batch("dd", 5));
  tap::equal(one.read(&fast, 100), "dd\ndd\ndd\ndd\ndd\n", "one batch as it is");
  tap::equal(one.read(&slow, 100), "b\nbbb\nc\ndd\ndd\ndd\ndd\ndd\n", "across all");
  one.add(batch("ee", 4));
  tap::equal(one.size_bytes(), uint64_t{27}, "a batch that is too much in part is kept");
  one.add(batch("ff", 4));
  tap::equal(one.size_bytes(), uint64_t{24}, "and goes as a whole");
  tap::equal(one.read(&slow, 100), "ee\nee\nee\nee\nff\nff\nff\nff\n", "nothing unread was in it");
  StreamCursor late = other.open_reader();
  tap::equal(other.read(&late, 100), "bbb\nbbb\nbbb\n", "the other stream has its own end");
}

static void lost_batches() {
  Stream stream(Stream::Kind::kStream, 20, std::make_shared<Waker>());
  StreamCursor reader = stream.open_reader();
  for (int i = 0; i < 4; ++i) stream.add(batch("1234", 4));
  tap::equal(stream.read(&reader, 1000), "lost=12\n1234\n1234\n1234\n1234\n",
             "losses are counted in lines");
}

static void waiting_and_end() {
  Stream stream(Stream::Kind::kStream, 1000, std::make_shared<Waker>());
  const StreamCursor reader = stream.open_reader();
  ok(stream.start_waiting(reader), "nothing to read: wait");
  stream.append("x\n");
  ok(stream.readable(reader), "readable");
  stream.stop_waiting();
  ok(!stream.start_waiting(reader), "something to read: do not wait");
  stream.close();
  stream.append("late\n");
  StreamCursor again = stream.open_reader();
  tap::equal(stream.read(&again, 100), "x\n", "what was there can be read after the end");
  ok(stream.closed(), "closed");
}

static void logs() {
  Stream log(Stream::Kind::kLog, 100, std::make_shared<Waker>());
  for (int i = 0; i < 10; ++i) log.append("123456789\n");
  tap::equal(log.size_bytes(), uint64_t{100}, "a true size");
  tap::equal(log.read_at(95, 100), "6789\n", "any offset");
  tap::equal(log.read_at(100, 100), std::string(), "the end");
  log.append("abcdefghi\n");
  tap::equal(log.size_bytes(), uint64_t{50}, "the older half is gone");
  tap::equal(log.read_at(40, 100), "abcdefghi\n", "the newest is there");
}

static void threads() {
  Stream stream(Stream::Kind::kStream, 4096, std::make_shared<Waker>());
  StreamCursor reader = stream.open_reader();
  std::atomic<int> writers{4};
  std::vector<std::thread> all;
  for (int t = 0; t < 4; ++t) {
    all.emplace_back([&] {
      for (int i = 0; i < 20000; ++i) stream.append("0123456\n");
      --writers;
    });
  }
  uint64_t seen = 0;
  uint64_t lost = 0;
  bool whole = true;
  for (;;) {
    const bool last = writers.load() == 0;
    const std::string data = stream.read(&reader, 1000);
    if (data.empty() && last) break;
    size_t at = 0;
    while (at < data.size()) {
      const size_t end = data.find('\n', at);
      const std::string line = data.substr(at, end - at);
      if (line.starts_with("lost=")) {
        lost += std::stoull(line.substr(5));
      } else {
        whole = whole && line == "0123456";
        ++seen;
      }
      at = end + 1;
    }
  }
  for (std::thread& thread : all) thread.join();
  ok(whole, "lines are never torn");
  tap::equal(seen + lost, uint64_t{80000}, "seen and lost add up");
}

int main() {
  lines_and_cursors();
  losses();
  batches();
  lost_batches();
  waiting_and_end();
  logs();
  threads();
  return tap::done();
}
