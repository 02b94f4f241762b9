// SPDX-License-Identifier: MIT
// FormatPlan: prints records as JSON by a plan that src/bpf/plan.ts compiled from BTF. The plan is
// checked once, records never: whatever a target wrote, formatting stays inside both.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../base/result.h"

namespace bpftime {

class FormatPlan {
 public:
  /// `bytes` as encodePlan() of src/bpf/plan.ts makes them. EINVAL if they are not.
  static Result<FormatPlan> parse(std::span<const uint8_t> bytes);

  /// Appends one JSON value. Fields beyond the end of a short record are null. Any thread.
  void format(std::span<const uint8_t> record, std::string& out) const;

 private:
  struct Op {
    uint32_t code, offset, a, b;
  };
  struct Run;
  FormatPlan() = default;
  [[nodiscard]] bool check();
  void render_keys();

  std::vector<Op> ops_;
  std::vector<uint32_t> ends_;  // of each object or array: index of its end
  std::vector<uint32_t> tables_;
  std::string strings_;
  std::string keys_;  // `"name":` of each key
};

/// Appends `text` as a JSON string; bytes that are not UTF-8 become U+FFFD.
void append_json_string(std::string_view text, std::string& out);

}  // namespace bpftime
