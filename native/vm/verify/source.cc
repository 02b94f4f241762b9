// SPDX-License-Identifier: MIT
#include "source.h"

#include <linux/btf.h>

#include <algorithm>
#include <cstring>

#include "verify.h"

namespace bpftime::verify {
namespace {

constexpr uint32_t kModifiersMax = 32;
constexpr size_t kSourceTextMax = 120;

struct LineRecord {
  uint32_t insn_off, file_name_off, line_off, line_col;
};
struct FunctionRecord {
  uint32_t insn_off, type_id;
};

template <typename T>
T record_at(std::span<const uint8_t> bytes, size_t index) {
  T record;
  std::memcpy(&record, bytes.data() + index * sizeof record, sizeof record);
  return record;
}

std::string trimmed(const std::string& line) {
  const size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  std::string cut =
      line.substr(begin, std::min(line.find_last_not_of(" \t\n") + 1 - begin, kSourceTextMax));
  std::replace_if(
      cut.begin(), cut.end(), [](char c) { return c < ' ' || c == '`'; }, ' ');
  return cut;
}

/// Bytes that follow a type's first three words.
uint32_t tail_bytes(uint32_t kind, uint32_t count) {
  switch (kind) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case BTF_KIND_DECL_TAG:
      return 4;
    case BTF_KIND_ARRAY:
      return 12;
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
    case BTF_KIND_DATASEC:
    case BTF_KIND_ENUM64:
      return count * 12;
    case BTF_KIND_ENUM:
    case BTF_KIND_FUNC_PROTO:
      return count * 8;
    default:
      return 0;
  }
}

}  // namespace

Source::Source(const DebugInfo& debug) : btf_(debug.btf) {
  btf_header header;
  if (btf_.size() < sizeof header) return;
  std::memcpy(&header, btf_.data(), sizeof header);
  const uint64_t strings = uint64_t{header.hdr_len} + header.str_off;
  if (header.magic != BTF_MAGIC || strings + header.str_len > btf_.size()) return;
  strings_ = static_cast<uint32_t>(strings);
  strings_end_ = strings_ + header.str_len;
  index_types();
  for (size_t i = 0; i < debug.line_info.size() / sizeof(LineRecord); ++i) {
    const auto record = record_at<LineRecord>(debug.line_info, i);
    lines_.push_back(
        {record.insn_off, record.file_name_off, record.line_off, record.line_col >> 10});
  }
  std::stable_sort(lines_.begin(), lines_.end(),
                   [](const Line& a, const Line& b) { return a.slot < b.slot; });
  for (size_t i = 0; i < debug.func_info.size() / sizeof(FunctionRecord); ++i) {
    const auto record = record_at<FunctionRecord>(debug.func_info, i);
    functions_.push_back({record.insn_off, record.type_id});
  }
  std::stable_sort(functions_.begin(), functions_.end(),
                   [](const Function& a, const Function& b) { return a.slot < b.slot; });
}

uint32_t Source::word(uint64_t off) const {
  uint32_t value = 0;
  if (off + 4 <= btf_.size()) std::memcpy(&value, btf_.data() + off, 4);
  return value;
}

std::string Source::string_at(uint32_t off) const {
  const uint64_t begin = uint64_t{strings_} + off;
  if (begin >= strings_end_) return "";
  const auto* text = reinterpret_cast<const char*>(btf_.data() + begin);
  return {text, strnlen(text, strings_end_ - begin)};
}

void Source::index_types() {
  btf_header header;
  std::memcpy(&header, btf_.data(), sizeof header);
  uint64_t at = uint64_t{header.hdr_len} + header.type_off;
  const uint64_t end = std::min<uint64_t>(at + header.type_len, btf_.size());
  types_.push_back(0);
  while (at + 12 <= end) {
    types_.push_back(static_cast<uint32_t>(at));
    const uint32_t info = word(at + 4);
    at += 12 + uint64_t{tail_bytes(BTF_INFO_KIND(info), BTF_INFO_VLEN(info))};
  }
}

uint32_t Source::resolved(uint32_t type) const {
  for (uint32_t i = 0; i < kModifiersMax && type != 0 && type < types_.size(); ++i) {
    switch (BTF_INFO_KIND(word(types_[type] + 4))) {
      case BTF_KIND_TYPEDEF:
      case BTF_KIND_CONST:
      case BTF_KIND_VOLATILE:
      case BTF_KIND_RESTRICT:
      case BTF_KIND_TYPE_TAG:
        type = word(types_[type] + 8);
        continue;
      default:
        return type;
    }
  }
  return 0;
}

uint32_t Source::size_of(uint32_t type) const {
  type = resolved(type);
  if (type == 0) return 0;
  switch (BTF_INFO_KIND(word(types_[type] + 4))) {
    case BTF_KIND_PTR:
      return 8;
    case BTF_KIND_INT:
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
    case BTF_KIND_FLOAT:
      return word(types_[type] + 8);
    case BTF_KIND_ARRAY: {
      const uint32_t element = resolved(word(types_[type] + 12));
      if (element == 0 || BTF_INFO_KIND(word(types_[element] + 4)) == BTF_KIND_ARRAY) return 0;
      const uint64_t bytes = uint64_t{size_of(element)} * word(types_[type] + 20);
      return bytes <= (1u << 29) ? static_cast<uint32_t>(bytes) : 0;
    }
    default:
      return 0;
  }
}

Parameter Source::parameter_of(uint32_t type) const {
  type = resolved(type);
  if (type == 0) return {};
  switch (BTF_INFO_KIND(word(types_[type] + 4))) {
    case BTF_KIND_INT:
    case BTF_KIND_ENUM:
    case BTF_KIND_ENUM64:
      return {Parameter::kNumber, 0};
    case BTF_KIND_PTR: {
      const uint32_t target = resolved(word(types_[type] + 8));
      if (target == 0) return {};
      const std::string name = string_at(word(types_[target]));
      if (name == "pt_regs" || name == "user_pt_regs" || name == "bpf_user_pt_regs_t") {
        return {Parameter::kContext, 0};
      }
      const uint32_t bytes = size_of(target);
      return bytes != 0 ? Parameter{Parameter::kMemory, bytes} : Parameter{};
    }
    default:
      return {};
  }
}

uint32_t Source::function_type(uint32_t slot) const {
  const auto found =
      std::lower_bound(functions_.begin(), functions_.end(), slot,
                       [](const Function& function, uint32_t s) { return function.slot < s; });
  if (found == functions_.end() || found->slot != slot) return 0;
  if (found->type >= types_.size() || found->type == 0) return 0;
  const uint32_t info = word(types_[found->type] + 4);
  return BTF_INFO_KIND(info) == BTF_KIND_FUNC ? found->type : 0;
}

std::string Source::function_name(uint32_t slot) const {
  const uint32_t type = function_type(slot);
  return type == 0 ? "" : string_at(word(types_[type]));
}

std::optional<std::vector<Parameter>> Source::parameters(uint32_t slot) const {
  const uint32_t type = function_type(slot);
  if (type == 0 || BTF_INFO_VLEN(word(types_[type] + 4)) != BTF_FUNC_GLOBAL) return std::nullopt;
  const uint32_t proto = word(types_[type] + 8);
  if (proto == 0 || proto >= types_.size()) return std::nullopt;
  const uint32_t info = word(types_[proto] + 4);
  if (BTF_INFO_KIND(info) != BTF_KIND_FUNC_PROTO) return std::nullopt;
  std::vector<Parameter> parameters;
  for (uint32_t i = 0; i < BTF_INFO_VLEN(info) && i < 5; ++i) {
    parameters.push_back(parameter_of(word(types_[proto] + 12 + 8 * i + 4)));
    if (parameters.back().kind == Parameter::kOther) return std::nullopt;
  }
  return parameters;
}

std::string Source::where(uint32_t slot) const {
  const auto after = std::upper_bound(lines_.begin(), lines_.end(), slot,
                                      [](uint32_t s, const Line& line) { return s < line.slot; });
  if (after == lines_.begin()) return "";
  const Line& line = *(after - 1);
  const std::string file = string_at(line.file_off);
  if (file.empty()) return "";
  const std::string source = trimmed(string_at(line.line_off));
  std::string where = file.substr(file.rfind('/') + 1) + ":" + std::to_string(line.number);
  if (!source.empty()) where += " `" + source + "`";
  return where;
}

Reg argument_of(const Parameter& parameter, uint32_t id) {
  switch (parameter.kind) {
    case Parameter::kNumber:
      return Reg::number(Scalar::any());
    case Parameter::kContext:
      return Reg::pointer(Kind::kCtx);
    case Parameter::kMemory: {
      Reg reg = Reg::pointer(Kind::kRecord);
      reg.bytes = parameter.bytes;
      reg.maybe_null = true;
      reg.id = id;
      return reg;
    }
    default:
      return {};
  }
}

}  // namespace bpftime::verify
