// SPDX-License-Identifier: MIT
// Functions with parts that stand elsewhere: which jumps out of a function are no way out.
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "rewrite/function_parts.h"
#include "tap.h"

namespace {

using namespace bpftime;
using Bytes = std::vector<uint8_t>;

constexpr uint64_t kMain = 0x1000, kPart = 0x2000, kOther = 0x3000, kCallee = 0x4000;
constexpr uint32_t kDown = UNWIND_SP | 1u << 3, kDeep = UNWIND_SP | 4u << 3;

Bytes with_rel32(Bytes opcode, uint64_t at, uint64_t target) {
  const auto rel = static_cast<uint32_t>(target - (at + opcode.size() + 4));
  for (int i = 0; i < 4; ++i) opcode.push_back(static_cast<uint8_t>(rel >> 8 * i));
  return opcode;
}
Bytes jmp(uint64_t at, uint64_t target) { return with_rel32({0xe9}, at, target); }
Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct Piece {
  Bytes bytes;
  uint32_t rule = kDeep;
};

struct Case {
  const char* name;
  Bytes main;
  std::map<uint64_t, Piece> pieces;
  bool joins = false;
  std::vector<uint64_t> targets = {};  // when it joins: where control comes to inside of main
};

const Bytes kInc = {0x48, 0xff, 0xc7}, kRet = {0xc3}, kJmpRax = {0xff, 0xe0};
const Bytes kToPart = with_rel32({0x0f, 0x8f}, kMain, kPart);  // jg: six bytes
const Bytes kBack = jmp(kPart, kMain + 6);

const std::vector<Case> kCases = {
    {"a part that comes back", kToPart + kRet, {{kPart, {kBack}}}, true, {kMain + 6}},
    {"into the middle of a part",
     with_rel32({0x0f, 0x8f}, kMain, kPart + 3) + kRet,
     {{kPart, {kInc + jmp(kPart + 3, kMain + 6)}}},
     true,
     {kMain + 6}},
    {"a part that never comes back", kToPart + kRet, {{kPart, {{0x0f, 0x0b}}}}, true, {}},
    {"from part to part",
     kToPart + kRet,
     {{kPart, {jmp(kPart, kOther)}}, {kOther, {kInc + jmp(kOther + 3, kMain + 6)}}},
     true,
     {kMain + 6}},
    {"two parts that lead to each other",
     kToPart + kRet,
     {{kPart, {jmp(kPart, kOther)}}, {kOther, {jmp(kOther, kPart)}}},
     true,
     {}},
    {"a function that is called elsewhere", kToPart + kRet, {{kPart, {kBack, kDown}}}},
    {"nothing that the tables know", kToPart + kRet, {}},
    {"a part that returns", kToPart + kRet, {{kPart, {kInc + kRet}}}},
    {"a part with an indirect jump", kToPart + kRet, {{kPart, {kJmpRax}}}},
    {"a part that leaves for a function",
     kToPart + kRet,
     {{kPart, {jmp(kPart, kCallee)}}, {kCallee, {kRet, kDown}}}},
    {"a part that cannot be decoded", kToPart + kRet, {{kPart, {{0x06}}}}},
    {"a part whose frame is not known", kToPart + kRet, {{kPart, {kBack, UNWIND_NONE}}}},
    {"a function that leaves by another jump, too",
     kToPart + jmp(kMain + 6, kCallee),
     {{kPart, {kBack}}, {kCallee, {kRet, kDown}}}},
};

void run(const Case& one) {
  const auto read = [&](uint64_t addr, void* out, size_t size) {
    for (const auto& [start, piece] : one.pieces) {
      if (addr < start || addr + size > start + piece.bytes.size()) continue;
      memcpy(out, piece.bytes.data() + (addr - start), size);
      return true;
    }
    return false;
  };
  const auto piece_at = [&](uint64_t addr) -> std::optional<unwind::CodePiece> {
    for (const auto& [start, piece] : one.pieces) {
      const uint64_t end = start + piece.bytes.size();
      if (addr >= start && addr < end) return unwind::CodePiece{start, end, piece.rule};
    }
    return std::nullopt;
  };
  auto view =
      rewrite::decode_function(kMain, static_cast<uint32_t>(one.main.size()), one.main, read);
  const bool left = view.ok() && view->has_tail_jump;
  if (left) rewrite::join_parts(&view.value(), piece_at, read);
  const bool joined = left && !view->has_tail_jump;
  tap::ok(left && joined == one.joins && (!joined || view->branch_targets == one.targets),
          one.name);
}

}  // namespace

int main() {
  for (const Case& one : kCases) run(one);
  return tap::done();
}
