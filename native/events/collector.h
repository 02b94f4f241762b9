// SPDX-License-Identifier: MIT
// The collector: one thread that empties the rings of all entered processes into streams, as JSON
// lines. Producers never wake it (a wake-up costs them more than the probe); it looks by itself,
// often while records come and seldom while none do. JavaScript is not involved.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "../bpf/format_plan.h"
#include "../bpf/registry.h"
#include "../fuse/stream.h"
#include "../vm/rt/ring.h"

namespace bpftime::events {

enum class SourceKind : uint8_t { kLog, kRing, kPerf };

struct SourceSpec {
  int mount = 0;
  SourceKind kind = SourceKind::kRing;
  uint32_t map_id = 0;
  uint32_t pid = 0;
  std::string map_name;
  std::vector<std::string> streams;  // paths; one that ends in /stream gets the record alone
  std::vector<uint8_t> plan;         // native/bpf/format_plan.h; empty: hex
};

class Collector {
 public:
  static Collector& instance();
  ~Collector();
  Collector(const Collector&) = delete;
  Collector& operator=(const Collector&) = delete;

  /// ENOENT when there is no such map.
  Result<uint32_t> add(SourceSpec spec);
  /// From here on records are formatted by `plan`; those that lie in the ring by the former one.
  Result<void> replan(uint32_t id, const std::vector<uint8_t>& plan);
  /// Delivers what is in the ring, then forgets the source.
  void remove(uint32_t id);

 private:
  struct Source {
    SourceSpec spec;
    std::optional<FormatPlan> plan;
    std::shared_ptr<MapObject> map;
    std::vector<rt_ring_cursor> cursors;  // one per ring
    std::vector<uint64_t> lost_seen;
    std::vector<std::shared_ptr<fuse::Stream>> full, bare;
    std::string line_begin, line_rest;   // what every line of a round begins with
    fuse::Lines full_lines, bare_lines;  // of one round
  };
  enum class Load : uint8_t { kNone, kSome, kMuch };  // what a look at the rings found
  Collector();
  void run();
  static Load drain(Source* source);
  static bool deliver(fuse::Lines* lines, const std::vector<std::shared_ptr<fuse::Stream>>& to);
  static std::chrono::microseconds pause_after(Load load, std::chrono::microseconds pause);
  static int take_record(void* arg, const void* data, uint32_t len);
  static void find_streams(Source* source);
  static void report_lost(Source* source, uint32_t ring);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<uint32_t, std::unique_ptr<Source>> sources_;
  uint32_t next_id_ = 1;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace bpftime::events
