// SPDX-License-Identifier: MIT
#include "collector.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string_view>

namespace bpftime::events {

namespace {

constexpr uint32_t kRecordsPerRound = 4096;
constexpr size_t kLineBytesPerRound = 1 << 20;  // a ring that never ends must not fill our memory
constexpr size_t kBatchBytes = 16 << 10;        // streams share batches of more than this
constexpr size_t kRecordBytesMax = 64 << 10;
constexpr std::chrono::microseconds kShortestPause{200};
constexpr std::chrono::microseconds kLongestBusyPause{5'000};
constexpr std::chrono::microseconds kLongestPause{20'000};
constexpr uint64_t kRingFillMax = 16;  // a ring that is fuller than this part is looked at sooner

// `"key":value,`
void append_number(std::string_view key, uint64_t value, std::string* out) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  out->push_back('"');
  out->append(key).append("\":").append(digits, end.ptr);
  out->push_back(',');
}

uint64_t monotonic_ns() {
  timespec ts{};
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return static_cast<uint64_t>(ts.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(ts.tv_nsec);
}

void append_hex(const uint8_t* data, size_t size, std::string* out) {
  static constexpr char kDigits[] = "0123456789abcdef";
  out->append("\"0x");
  for (size_t i = 0; i < size; ++i) {
    out->push_back(kDigits[data[i] >> 4]);
    out->push_back(kDigits[data[i] & 15]);
  }
  out->push_back('"');
}

void append_printk(const uint8_t* data, size_t size, fuse::Lines* lines) {
  printk_record record{};
  if (size < sizeof record) return;
  memcpy(&record, data, sizeof record);
  const size_t text_bytes = std::min<size_t>(record.text_bytes, size - sizeof record);
  std::string_view text(reinterpret_cast<const char*>(data) + sizeof record, text_bytes);
  // printk texts end in a newline by habit; a JSON line needs none inside.
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  std::string* out = &lines->text;
  ++lines->line_count;
  out->append("{\"type\":\"printk\",");
  append_number("time_ns", record.time_ns, out);
  append_number("pid", record.pid, out);
  append_number("tid", record.tid, out);
  append_number("cpu", record.cpu, out);
  out->append("\"comm\":");
  append_json_string(std::string_view(record.comm, strnlen(record.comm, sizeof record.comm)), *out);
  out->append(",\"msg\":");
  append_json_string(text, *out);
  out->append("}\n");
}

}  // namespace

Collector& Collector::instance() {
  static Collector collector;
  return collector;
}

Collector::Collector() : thread_([this] { run(); }) {}

Collector::~Collector() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Result<uint32_t> Collector::add(SourceSpec spec) {
  auto source = std::make_unique<Source>();
  source->map = find_map(spec.map_id);
  if (source->map == nullptr) return fail(ENOENT, "no such map");
  if (!spec.plan.empty()) {
    Result<FormatPlan> plan = FormatPlan::parse(spec.plan);
    if (!plan) return plan.error();
    source->plan = std::move(plan.value());
  }
  source->spec = std::move(spec);
  append_number("pid", source->spec.pid, &source->line_rest);
  source->line_rest.append("\"map\":");
  append_json_string(source->spec.map_name, source->line_rest);
  source->line_rest.append(",\"data\":");
  const uint32_t rings = rt_ring_count(&source->map->view);
  source->cursors.resize(rings);
  source->lost_seen.resize(rings);
  uint32_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = next_id_++;
    sources_[id] = std::move(source);
  }
  wake_.notify_one();
  return id;
}

Result<void> Collector::replan(uint32_t id, const std::vector<uint8_t>& bytes) {
  std::optional<FormatPlan> plan;
  if (!bytes.empty()) {
    Result<FormatPlan> parsed = FormatPlan::parse(bytes);
    if (!parsed) return parsed.error();
    plan = std::move(parsed.value());
  }
  const std::lock_guard lock(mutex_);
  const auto it = sources_.find(id);
  if (it == sources_.end()) return fail(ENOENT, "no such source");
  drain(it->second.get());
  it->second->plan = std::move(plan);
  return {};
}

void Collector::remove(uint32_t id) {
  const std::lock_guard lock(mutex_);
  const auto it = sources_.find(id);
  if (it == sources_.end()) return;
  drain(it->second.get());
  sources_.erase(it);
}

int Collector::take_record(void* arg, const void* data, uint32_t len) {
  auto* source = static_cast<Source*>(arg);
  // Shared memory: one copy, and only the copy is looked at.
  uint8_t copy[kRecordBytesMax];
  const size_t size = std::min<size_t>(len, sizeof copy);
  memcpy(copy, data, size);
  if (source->spec.kind == SourceKind::kLog) {
    append_printk(copy, size, &source->full_lines);
    return source->full_lines.text.size() > kLineBytesPerRound ? 1 : 0;
  }
  std::string& full = source->full_lines.text;
  full.append(source->line_begin);
  const size_t value_at = full.size();
  if (source->plan.has_value()) {
    source->plan->format({copy, size}, full);
  } else {
    append_hex(copy, size, &full);
  }
  if (!source->bare.empty()) {
    source->bare_lines.text.append(full, value_at).push_back('\n');
    ++source->bare_lines.line_count;
  }
  full.append("}\n");
  ++source->full_lines.line_count;
  return full.size() > kLineBytesPerRound ? 1 : 0;
}

// Nodes may be published after the source was added, so this is asked until all are there.
void Collector::find_streams(Source* source) {
  if (source->full.size() + source->bare.size() == source->spec.streams.size()) return;
  source->full.clear();
  source->bare.clear();
  for (const std::string& path : source->spec.streams) {
    auto stream = fuse::find_stream(source->spec.mount, path);
    if (stream == nullptr) continue;
    (path.ends_with("/stream") ? source->bare : source->full).push_back(std::move(stream));
  }
}

void Collector::report_lost(Source* source, uint32_t ring) {
  const uint64_t lost = rt_ring_lost(&source->map->view, ring);
  if (lost <= source->lost_seen[ring]) return;
  char line[160];
  snprintf(line, sizeof line,
           "{\"type\":\"lost\",\"pid\":%u,\"count\":%llu,\"map\":", source->spec.pid,
           static_cast<unsigned long long>(lost - source->lost_seen[ring]));
  std::string& full = source->full_lines.text;
  full.append(line);
  append_json_string(source->spec.map_name, full);
  full.append("}\n");
  ++source->full_lines.line_count;
  source->lost_seen[ring] = lost;
}

// Empties `lines`; true if a reader waits for them. Their memory stays while they are few: it is
// warm.
bool Collector::deliver(fuse::Lines* lines, const std::vector<std::shared_ptr<fuse::Stream>>& to) {
  bool is_awaited = false;
  if (lines->text.size() < kBatchBytes) {
    for (const auto& stream : to) is_awaited |= stream->add(lines->text);
    lines->text.clear();
  } else {
    const size_t size = lines->text.size();
    const auto batch = std::make_shared<const fuse::Lines>(std::move(*lines));
    for (const auto& stream : to) is_awaited |= stream->add(batch);
    lines->text = {};
    lines->text.reserve(size + size / 4);  // the next one is likely to be alike
  }
  lines->line_count = 0;
  return is_awaited;
}

Collector::Load Collector::drain(Source* source) {
  find_streams(source);
  Load load = Load::kNone;
  // The time of a line says when its record was taken, and records of one round are taken together.
  source->line_begin = "{\"type\":\"record\",";
  append_number("time_ns", monotonic_ns(), &source->line_begin);
  source->line_begin.append(source->line_rest);
  for (uint32_t ring = 0; ring < source->cursors.size(); ++ring) {
    const uint64_t pending = rt_ring_pending(&source->map->view, ring);
    if (pending > source->map->view.value_stride / kRingFillMax) load = Load::kMuch;
    const long taken = rt_ring_consume(&source->map->view, ring, &source->cursors[ring],
                                       kRecordsPerRound, take_record, source);
    if (taken > 0 && load == Load::kNone) load = Load::kSome;
    report_lost(source, ring);
  }
  const bool full = deliver(&source->full_lines, source->full);
  const bool bare = deliver(&source->bare_lines, source->bare);
  // Waking another thread for it would cost the processor as much as the answer.
  if (full || bare) fuse::serve_readers(source->spec.mount);
  return load;
}

// Each look costs a wake-up on a processor that the program may want, so looks are as rare as the
// rings allow: often when records begin to come, then less often while little has come together.
std::chrono::microseconds Collector::pause_after(Load load, std::chrono::microseconds pause) {
  switch (load) {
    case Load::kMuch:
      return std::max(pause / 2, kShortestPause);
    case Load::kSome:
      return pause > kLongestBusyPause ? kShortestPause
                                       : std::min(pause + pause / 8, kLongestBusyPause);
    default:
      return std::min(pause * 2, kLongestPause);
  }
}

void Collector::run() {
  pthread_setname_np(pthread_self(), "collector");
  auto pause = kLongestPause;
  std::unique_lock lock(mutex_);
  while (!ending_) {
    Load load = Load::kNone;
    for (const auto& [id, source] : sources_) load = std::max(load, drain(source.get()));
    if (sources_.empty()) {
      wake_.wait(lock, [this] { return ending_ || !sources_.empty(); });
      continue;
    }
    pause = pause_after(load, pause);
    wake_.wait_for(lock, pause, [this] { return ending_; });
  }
}

}  // namespace bpftime::events
