// SPDX-License-Identifier: MIT
#include "branch_index.h"

#include <Zydis/Zydis.h>

#include <algorithm>
#include <cstring>

namespace bpftime::rewrite {

BranchIndex::BranchIndex(std::span<const uint8_t> text, uint64_t text_addr)
    : text_addr_(text_addr) {
  const uint8_t* bytes = text.data();
  const size_t size = text.size();
  for (size_t i = 0; i + 5 <= size; ++i) {
    const uint8_t op = bytes[i];
    size_t rel_at = 0;
    if (op == 0xe8 || op == 0xe9) {
      rel_at = i + 1;
    } else if (op == 0x0f && (bytes[i + 1] & 0xf0) == 0x80 && i + 6 <= size) {
      rel_at = i + 2;
    } else {
      continue;
    }
    int32_t rel = 0;
    memcpy(&rel, bytes + rel_at, sizeof rel);
    const int64_t to = static_cast<int64_t>(rel_at) + 4 + rel;
    if (to < 0 || to >= static_cast<int64_t>(size)) continue;
    branches_.push_back(Branch{static_cast<uint32_t>(to), static_cast<uint32_t>(i)});
  }
  std::sort(branches_.begin(), branches_.end(),
            [](const Branch& a, const Branch& b) { return a.to < b.to; });
}

std::vector<uint64_t> BranchIndex::entering(uint64_t site, uint32_t len, uint64_t skip_begin,
                                            uint64_t skip_end) const {
  std::vector<uint64_t> found;
  const uint64_t first = site + 1 - text_addr_;
  auto it = std::lower_bound(branches_.begin(), branches_.end(), first,
                             [](const Branch& branch, uint64_t to) { return branch.to < to; });
  for (; it != branches_.end() && it->to < site + len - text_addr_; ++it) {
    const uint64_t from = text_addr_ + it->from;
    if (from < skip_begin || from >= skip_end) found.push_back(from);
  }
  return found;
}

namespace {

// Nobody says where the instructions of a neighbour begin. But decoding gets into step within a few
// of them wherever it begins: two beginnings, both well before what is asked about. `seen` is told
// each instruction and ends it by returning true.
template <typename Seen>
bool any_insn(std::span<const uint8_t> near, uint64_t near_addr, const Seen& seen) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  for (const size_t begin : {size_t{0}, size_t{256}}) {
    for (size_t at = begin; at < near.size();) {
      ZydisDecodedInstruction insn;
      if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, near.data() + at,
                                                      near.size() - at, &insn))) {
        ++at;
        continue;
      }
      if (seen(near_addr + at, insn)) return true;
      at += insn.length;
    }
  }
  return false;
}

}  // namespace

bool short_branch_enters(std::span<const uint8_t> near, uint64_t near_addr, uint64_t site,
                         uint32_t len, uint64_t skip_begin, uint64_t skip_end) {
  return any_insn(near, near_addr, [&](uint64_t from, const ZydisDecodedInstruction& insn) {
    const auto& imm = insn.raw.imm[0];
    if (!imm.is_relative || imm.size != 8) return false;
    const uint64_t to = from + insn.length + static_cast<uint64_t>(imm.value.s);
    return (from < skip_begin || from >= skip_end) && to > site && to < site + len;
  });
}

bool may_begin_at(std::span<const uint8_t> near, uint64_t near_addr, uint64_t at) {
  constexpr uint64_t kFunctionAlign = 16;  // data in the text may end there
  if (at % kFunctionAlign == 0) return true;
  return any_insn(near, near_addr,
                  [at](uint64_t from, const ZydisDecodedInstruction&) { return from == at; });
}

}  // namespace bpftime::rewrite
