// SPDX-License-Identifier: MIT
// A program as it lies in a target: text, its table of addresses, its views of maps.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "../bpf/registry.h"
#include "../rewrite/inline_code.h"

namespace bpftime::target {

struct Image {
  std::shared_ptr<ProgObject> program;
  uint64_t base = 0, bytes = 0;
  uint32_t users = 0;
  uint32_t clobbers = 0;                    // words of the registers that it changes
  std::optional<rewrite::InlineCode> code;  // to stand in bodies instead of a call
  // By program array: the programs that its words lead to, 0 where none is left.
  std::map<uint32_t, std::vector<uint32_t>> tails{};
  std::set<uint32_t> reach{};  // programs that tail calls lead to, and theirs
};

}  // namespace bpftime::target
