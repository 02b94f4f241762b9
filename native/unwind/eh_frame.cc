// SPDX-License-Identifier: MIT
#include "eh_frame.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <string_view>

#include "byte_reader.h"
#include "frame_state.h"

namespace bpftime::unwind {

namespace {

// Encodings of pointers: Linux Standard Base, "DWARF Exception Header Encoding".
constexpr uint8_t kPeOmit = 0xff, kPeAbs = 0x00, kPePcRel = 0x10, kPeIndirect = 0x80;
constexpr uint8_t kPeFormat = 0x0f, kPeApplication = 0x70;

struct Cie {
  CodeFactors factors;
  uint8_t fde_encoding = kPeAbs;
  bool has_augmentation_data = false;
  bool is_signal_frame = false;
  FrameState initial;
};

// The rows of one function, of those of all.
struct Function {
  uint64_t start = 0, end = 0;  // as linked
  uint32_t first = 0, count = 0;
};

class EhFrame {
 public:
  explicit EhFrame(const EhFrameInput& input) : input_(input), encoder_(&out_.wides) {}

  Result<UnwindRows> read() {
    ByteReader in(input_.bytes);
    while (!in.at_end()) {
      const size_t start = in.at();
      uint64_t length = in.number<uint32_t>();
      if (length == 0) break;
      if (length == UINT32_MAX) length = in.number<uint64_t>();
      const size_t body_at = in.at();
      const std::span<const uint8_t> body = in.take(length);
      if (!in.ok() || body.size() < 4) break;
      read_entry(start, body_at, body);
      if (rows_.size() > kRowsMax) return fail(E2BIG, "its unwind information is too much");
    }
    arrange();
    return std::move(out_);
  }

 private:
  void read_entry(size_t start, size_t body_at, std::span<const uint8_t> body) {
    ByteReader in(body);
    const auto id = in.number<uint32_t>();
    if (id == 0 && cies_.size() < kCiesMax) {
      const std::optional<Cie> cie = read_cie(body, &in);
      if (cie) cies_.emplace(start, *cie);
    }
    if (id == 0) return;
    // The distance back to the entry, from here. Only those that came before are looked for.
    const auto cie = body_at >= id ? cies_.find(body_at - id) : cies_.end();
    if (cie != cies_.end()) read_fde(cie->second, body, body_at, &in);
  }

  static std::optional<uint64_t> read_format(uint8_t encoding, ByteReader* in) {
    uint64_t value = 0;
    switch (encoding & kPeFormat) {
      case 0x00:
      case 0x04:
      case 0x0c:
        value = in->number<uint64_t>();
        break;
      case 0x02:
        value = in->number<uint16_t>();
        break;
      case 0x03:
        value = in->number<uint32_t>();
        break;
      case 0x0a:
        value = static_cast<uint64_t>(int64_t{in->number<int16_t>()});
        break;
      case 0x0b:
        value = static_cast<uint64_t>(int64_t{in->number<int32_t>()});
        break;
      default:
        return std::nullopt;
    }
    return in->ok() ? std::optional(value) : std::nullopt;
  }

  std::optional<uint64_t> read_pointer(uint8_t encoding, size_t body_at, ByteReader* in) {
    if (encoding == kPeOmit || (encoding & kPeIndirect) != 0) return std::nullopt;
    const uint64_t place = input_.vaddr + body_at + in->at();
    const std::optional<uint64_t> value = read_format(encoding, in);
    if (!value) return std::nullopt;
    if ((encoding & kPeApplication) == kPePcRel) return *value + place;
    if ((encoding & kPeApplication) != kPeAbs) return std::nullopt;
    out_.is_relocated = true;
    return *value - input_.bias;
  }

  // What 'z' announces: a byte for each letter, or a pointer.
  static bool read_augmentation(std::string_view letters, ByteReader* in, Cie* cie) {
    const uint64_t size = in->uleb();
    const size_t begin = in->at();
    cie->has_augmentation_data = true;
    for (const char letter : letters.substr(1)) {
      if (letter == 'R') {
        cie->fde_encoding = in->number<uint8_t>();
      } else if (letter == 'L') {
        in->number<uint8_t>();
      } else if (letter == 'P') {
        const auto encoding = in->number<uint8_t>();
        // Where it leads does not matter, only how long it is.
        if (encoding != kPeOmit && !read_format(encoding, in)) return false;
      } else if (letter == 'S') {
        cie->is_signal_frame = true;
      } else {
        break;  // the size says where it ends
      }
    }
    const size_t used = in->at() - begin;
    if (!in->ok() || used > size) return false;
    in->take(size - used);
    return in->ok();
  }

  static std::optional<Cie> read_cie(std::span<const uint8_t> body, ByteReader* in) {
    Cie cie;
    const auto version = in->number<uint8_t>();
    const size_t from = in->at();
    const void* end = memchr(body.data() + from, 0, body.size() - from);
    if ((version != 1 && version != 3) || end == nullptr) return std::nullopt;
    const std::string_view letters(reinterpret_cast<const char*>(body.data() + from),
                                   static_cast<const uint8_t*>(end) - (body.data() + from));
    in->take(letters.size() + 1);
    if (!letters.empty() && letters.front() != 'z') return std::nullopt;
    cie.factors.code = in->uleb();
    cie.factors.data = in->sleb();
    const uint64_t return_reg = version == 1 ? in->number<uint8_t>() : in->uleb();
    if (!in->ok() || return_reg != kRegReturn) return std::nullopt;
    if (!letters.empty() && !read_augmentation(letters, in, &cie)) return std::nullopt;
    FrameProgram program(cie.factors, FrameState{});
    const auto ignore = [](uint64_t, const FrameState&) {};
    if (!program.run(body.subspan(in->at()), ignore)) return std::nullopt;
    cie.initial = program.state();
    return cie;
  }

  void read_fde(const Cie& cie, std::span<const uint8_t> body, size_t body_at, ByteReader* in) {
    const std::optional<uint64_t> start = read_pointer(cie.fde_encoding, body_at, in);
    const std::optional<uint64_t> size = read_format(cie.fde_encoding, in);
    if (!start || !size) return;
    const uint64_t bytes = *size;
    if (*start < input_.text_start || *start >= input_.text_end) return;
    if (bytes == 0 || bytes > input_.text_end - *start) return;
    if (cie.has_augmentation_data) in->take(in->uleb());
    if (!in->ok()) return;
    Function function{*start, *start + bytes, static_cast<uint32_t>(rows_.size()), 0};
    FrameProgram program(cie.factors, cie.initial);
    const bool is_known =
        program.run(body.subspan(in->at()), [&](uint64_t off, const FrameState& state) {
          if (off >= bytes) return;
          const uint32_t rule =
              cie.is_signal_frame ? uint32_t{UNWIND_SIGNAL} : encoder_.encode(state);
          if (rule == UNWIND_NONE) ++out_.unknown;
          put_row(function, *start + off, rule);
        });
    if (!is_known) {
      rows_.resize(function.first);
      put_row(function, *start, UNWIND_NONE);
      ++out_.unknown;
    }
    function.count = static_cast<uint32_t>(rows_.size()) - function.first;
    functions_.push_back(function);
  }

  void put_row(const Function& function, uint64_t addr, uint32_t rule) {
    const bool is_first = rows_.size() == function.first;
    // Distances that overflow would lead back.
    if (!is_first && addr < rows_.back().start) return;
    if (!is_first && rows_.back().start == addr) {
      rows_.back().rule = rule;
    } else if (is_first || rows_.back().rule != rule) {
      rows_.push_back({static_cast<u32>(addr), rule});
    }
  }

  // In order of addresses, with rows that know nothing in the gaps.
  void arrange() {
    std::stable_sort(functions_.begin(), functions_.end(),
                     [](const Function& a, const Function& b) { return a.start < b.start; });
    std::vector<unwind_row>& rows = out_.rows;
    uint64_t end = 0;
    for (const Function& function : functions_) {
      if (function.start < end) continue;  // two that overlap: neither is worth more
      if (!rows.empty() && function.start > end) {
        rows.push_back({static_cast<u32>(end), UNWIND_NONE});
      }
      for (uint32_t i = 0; i < function.count; ++i) {
        const unwind_row& row = rows_[function.first + i];
        if (rows.empty() || rows.back().rule != row.rule) rows.push_back(row);
      }
      end = function.end;
      const uint32_t rule = function.count == 0 ? 0u : rows_[function.first].rule;
      out_.pieces.push_back({function.start, function.end, rule});
    }
    if (!rows.empty()) rows.push_back({static_cast<u32>(end), UNWIND_NONE});
  }

  EhFrameInput input_;
  UnwindRows out_;
  RuleEncoder encoder_;
  std::map<uint64_t, Cie> cies_;  // by offset
  std::vector<unwind_row> rows_;
  std::vector<Function> functions_;
};

}  // namespace

Result<UnwindRows> read_eh_frame(const EhFrameInput& input) {
  // Rows have 32 bits for an address; nothing is linked higher.
  if (input.text_end > UINT32_MAX || input.text_start > input.text_end) {
    return fail(EOPNOTSUPP, "its code is linked above 4 GiB");
  }
  return EhFrame(input).read();
}

std::vector<uint8_t> build_table(const UnwindRows& in) {
  unwind_table table{};
  table.version = UNWIND_V1;
  std::vector<u32> blocks;
  if (!in.rows.empty()) {
    constexpr u32 kBlock = 1u << UNWIND_BLOCK_SHIFT;
    table.first = in.rows.front().start & ~(kBlock - 1);
    u32 row = 0;
    // One more than there are blocks: where the last one ends.
    for (uint64_t at = table.first;; at += kBlock) {
      while (row + 1 < in.rows.size() && in.rows[row + 1].start <= at) ++row;
      blocks.push_back(row);
      if (at > in.rows.back().start) break;
    }
    table.block_count = static_cast<u32>(blocks.size() - 1);
  } else {
    blocks.push_back(0);
  }
  table.row_count = static_cast<u32>(in.rows.size());
  table.wide_count = static_cast<u32>(in.wides.size());
  const size_t blocks_bytes = (blocks.size() * sizeof(u32) + 7) & ~size_t{7};
  const size_t rows_bytes = in.rows.size() * sizeof(unwind_row);
  table.blocks_off = sizeof table;
  table.rows_off = static_cast<u32>(table.blocks_off + blocks_bytes);
  table.wides_off = static_cast<u32>(table.rows_off + rows_bytes);
  std::vector<uint8_t> bytes(table.wides_off + in.wides.size() * sizeof(unwind_wide));
  memcpy(bytes.data(), &table, sizeof table);
  memcpy(&bytes[table.blocks_off], blocks.data(), blocks.size() * sizeof(u32));
  if (rows_bytes != 0) memcpy(&bytes[table.rows_off], in.rows.data(), rows_bytes);
  if (!in.wides.empty()) {
    memcpy(&bytes[table.wides_off], in.wides.data(), in.wides.size() * sizeof(unwind_wide));
  }
  return bytes;
}

}  // namespace bpftime::unwind
