// SPDX-License-Identifier: MIT
// Runs format plans. src/bpf/format.ts does the same; test/unit/bpf-format.test.ts compares them.
#include "format_plan.h"

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

namespace bpftime {

namespace {

constexpr uint32_t kMagic = 0x4e4c5031;
constexpr uint32_t kRest = UINT32_MAX;
constexpr uint32_t kDepthMax = 34;           // planDepthMax of plan.ts, and the outermost value
constexpr size_t kOutputBytesMax = 1 << 20;  // arrays stop growing here
constexpr size_t kPlanWordsMax = 1 << 20;

enum Code : uint32_t {
  kObject = 1,
  kArray,
  kEnd,
  kKey,
  kInt,
  kBits,
  kBool,
  kChars,
  kEnum,
  kFloat,
  kPointer,
  kHex,
};

void append_hex(std::span<const uint8_t> bytes, std::string& out) {
  static constexpr char kDigits[] = "0123456789abcdef";
  out += "\"0x";
  for (const uint8_t byte : bytes) {
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  out += '"';
}

template <typename T>
void append_number(T value, std::string& out, int base = 10) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof(digits), value, base);
  out.append(digits, end.ptr);
}

// Length of the UTF-8 sequence at the front, 0 if it is none.
size_t utf8_length(std::span<const uint8_t> bytes) {
  const uint8_t lead = bytes[0];
  size_t length = 0;
  uint32_t code = 0;
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2;
    code = lead & 0x1f;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3;
    code = lead & 0x0f;
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4;
    code = lead & 0x07;
  }
  if (length == 0 || bytes.size() < length) return 0;
  for (size_t i = 1; i < length; i++) {
    if ((bytes[i] & 0xc0) != 0x80) return 0;
    code = code << 6 | (bytes[i] & 0x3f);
  }
  if (length == 3 && (code < 0x800 || (code >= 0xd800 && code <= 0xdfff))) return 0;
  if (length == 4 && (code < 0x10000 || code > 0x10ffff)) return 0;
  return length;
}

// How many bytes at the front of 16 are printable ASCII and stand for themselves in JSON.
inline size_t plain_bytes(__m128i bytes) {
  const auto is = [bytes](char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); };
  // As signed numbers those from 0x80 on are less than a space, too.
  const __m128i special =
      _mm_or_si128(_mm_or_si128(_mm_cmplt_epi8(bytes, _mm_set1_epi8(' ')), is('"')),
                   _mm_or_si128(is('\\'), is(0x7f)));
  return static_cast<size_t>(
      std::countr_zero(static_cast<uint32_t>(_mm_movemask_epi8(special)) | 1u << 16));
}

// The same of any bytes.
size_t plain_length(std::span<const uint8_t> bytes) {
  size_t i = 0;
  for (; i + 16 <= bytes.size(); i += 16) {
    const size_t plain = plain_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(&bytes[i])));
    if (plain != 16) return i + plain;
  }
  const auto is_plain = [](uint8_t c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; };
  while (i < bytes.size() && is_plain(bytes[i])) i++;
  return i;
}

// The letter behind a backslash that stands for `byte` in JSON, 0 if there is none.
constexpr auto kEscapeLetters = [] {
  std::array<char, 256> letters{};
  letters['"'] = '"';
  letters['\\'] = '\\';
  letters['\n'] = 'n';
  letters['\t'] = 't';
  letters['\r'] = 'r';
  return letters;
}();
char escape_letter(uint8_t byte) { return kEscapeLetters[byte]; }

// Appends `text` as a JSON string; false, and `out` as it was, when it is no text (no UTF-8, or
// with control characters). Most records have texts, so each byte is looked at once.
bool append_text(std::span<const uint8_t> text, std::string& out) {
  const size_t start = out.size();
  char quoted[1024];
  char* to = quoted;
  *to++ = '"';
  for (size_t i = 0; i < text.size();) {
    if (to > quoted + sizeof quoted - 32) {
      out.append(quoted, to);
      to = quoted;
    }
    __m128i bytes = _mm_setzero_si128();  // behind the end zeros, which do not stand for themselves
    if (text.size() - i >= sizeof bytes) {
      bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(&text[i]));
    } else {
      std::memcpy(&bytes, &text[i], text.size() - i);
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    const size_t plain = plain_bytes(bytes);
    if (plain == sizeof bytes) {  // constants, so that the next word does not wait for this one
      to += sizeof bytes;
      i += sizeof bytes;
      continue;
    }
    to += plain;
    i += plain;
    const size_t before = i;
    // Lines often end in two.
    for (char letter = 0; i < text.size() && (letter = escape_letter(text[i])) != 0; i++) {
      if (i - before == 4) break;  // there is room for so many
      *to++ = '\\';
      *to++ = letter;
    }
    if (i == text.size() || i != before) continue;
    const size_t length = text[i] >= 0x80 ? utf8_length(text.subspan(i)) : 0;
    if (length == 0) {
      out.resize(start);
      return false;
    }
    std::memcpy(to, text.data() + i, length);
    to += length;
    i += length;
  }
  *to++ = '"';
  out.append(quoted, to);
  return true;
}

// As JavaScript's Number.prototype.toString: shortest digits that read back the same.
void append_double(double value, std::string& out) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  if (value == 0) {
    out += '0';
    return;
  }
  char text[40];
  const auto end = std::to_chars(text, text + sizeof(text), value, std::chars_format::scientific);
  const std::string_view all(text, static_cast<size_t>(end.ptr - text));
  const size_t e = all.find('e');
  int exponent = 0;
  std::from_chars(all.data() + e + (all[e + 1] == '+' ? 2 : 1), end.ptr, exponent);
  std::string digits;
  for (const char c : all.substr(0, e)) {
    if (c == '-') {
      out += '-';
    } else if (c != '.') {
      digits += c;
    }
  }
  const int count = static_cast<int>(digits.size());
  const int point = exponent + 1;  // digits before the decimal point
  if (point > 21 || point < -5) {
    out += digits[0];
    if (count > 1) out.append(".").append(digits, 1);
    out += exponent < 0 ? "e-" : "e+";
    append_number(std::abs(exponent), out);
  } else if (point <= 0) {
    out.append("0.").append(static_cast<size_t>(-point), '0').append(digits);
  } else if (count <= point) {
    out.append(digits).append(static_cast<size_t>(point - count), '0');
  } else {
    out.append(digits, 0, static_cast<size_t>(point)).append(".");
    out.append(digits, static_cast<size_t>(point));
  }
}

uint64_t read_bits(std::span<const uint8_t> record, uint64_t bit, uint32_t count) {
  uint64_t value = 0;
  if (bit % 8 == 0 && count % 8 == 0) {
    const uint8_t* at = record.data() + bit / 8;
    if (count == 32) {
      std::memcpy(&value, at, 4);  // both little-endian
    } else if (count == 64) {
      std::memcpy(&value, at, 8);
    } else {
      std::memcpy(&value, at, count / 8);
    }
    return value;
  }
  for (uint32_t i = 0; i < count; i++, bit++) {
    value |= static_cast<uint64_t>(record[bit / 8] >> (bit % 8) & 1) << i;
  }
  return value;
}

constexpr size_t kDigitsMax = 24;

// Returns the end of the digits.
char* print_int(uint64_t value, uint32_t bits, bool is_signed, char* to) {
  const auto wide = static_cast<int64_t>(value << (64 - bits)) >> (64 - bits);
  return is_signed ? std::to_chars(to, to + kDigitsMax, wide).ptr
                   : std::to_chars(to, to + kDigitsMax, value).ptr;
}

void append_int(uint64_t value, uint32_t bits, bool is_signed, std::string& out) {
  char digits[kDigitsMax];
  out.append(digits, print_int(value, bits, is_signed, digits));
}

}  // namespace

void append_json_string(std::string_view text, std::string& out) {
  out += '"';
  const std::span bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  for (size_t i = 0; i < bytes.size(); i++) {
    const size_t plain = plain_length(bytes.subspan(i));
    out.append(text, i, plain);
    i += plain;
    if (i == bytes.size()) break;
    const uint8_t byte = bytes[i];
    if (const char letter = escape_letter(byte); letter != 0) {
      out += '\\';
      out += letter;
    } else if (byte < 0x20) {
      out += byte < 0x10 ? "\\u000" : "\\u00";
      append_number(uint32_t{byte}, out, 16);
    } else if (byte < 0x80) {
      out += text[i];
    } else if (const size_t length = utf8_length(bytes.subspan(i)); length != 0) {
      out.append(text, i, length);
      i += length - 1;
    } else {
      out += "\\ufffd";
    }
  }
  out += '"';
}

Result<FormatPlan> FormatPlan::parse(std::span<const uint8_t> bytes) {
  uint32_t header[4];
  if (bytes.size() < sizeof(header)) return fail(EINVAL, "format plan is too short");
  std::memcpy(header, bytes.data(), sizeof(header));
  const auto [magic, op_count, table_words, string_bytes] = header;
  if (magic != kMagic || op_count > kPlanWordsMax / 4 || table_words > kPlanWordsMax) {
    return fail(EINVAL, "not a format plan");
  }
  const size_t ops_bytes = size_t{op_count} * sizeof(Op);
  const size_t tables_bytes = size_t{table_words} * 4;
  if (bytes.size() != sizeof(header) + ops_bytes + tables_bytes + string_bytes) {
    return fail(EINVAL, "format plan of a wrong size");
  }
  FormatPlan plan;
  const uint8_t* at = bytes.data() + sizeof(header);
  plan.ops_.resize(op_count);
  if (op_count != 0) std::memcpy(plan.ops_.data(), at, ops_bytes);
  at += ops_bytes;
  plan.tables_.resize(table_words);
  if (table_words != 0) std::memcpy(plan.tables_.data(), at, tables_bytes);
  at += tables_bytes;
  plan.strings_.assign(reinterpret_cast<const char*>(at), string_bytes);
  if (!plan.check()) return fail(EINVAL, "format plan with an operation out of bounds");
  plan.render_keys();
  return plan;
}

// Keys are the same in every record: their text is made once, with the comma in front of it, and
// they refer to it from then on.
void FormatPlan::render_keys() {
  for (Op& op : ops_) {
    if (op.code != kKey) continue;
    const size_t start = keys_.size();
    keys_ += ',';
    append_json_string(std::string_view(strings_).substr(op.a, op.b), keys_);
    keys_ += ':';
    op.a = static_cast<uint32_t>(start);
    op.b = static_cast<uint32_t>(keys_.size() - start);
  }
}

// Structure: one value; keys only in objects, each followed by a value; names and tables inside.
bool FormatPlan::check() {
  const auto is_string = [this](uint32_t offset, uint32_t length) {
    return offset <= strings_.size() && length <= strings_.size() - offset;
  };
  std::vector<uint32_t> open;
  ends_.assign(ops_.size(), 0);
  bool wants_value = true;
  for (uint32_t i = 0; i < ops_.size(); i++) {
    const Op& op = ops_[i];
    if (op.code == kKey) {
      if (open.empty() || ops_[open.back()].code != kObject || wants_value) return false;
      if (!is_string(op.a, op.b)) return false;
      wants_value = true;
      continue;
    }
    if (op.code == kEnd) {
      if (open.empty() || wants_value) return false;
      ends_[open.back()] = i;
      open.pop_back();
      continue;
    }
    if (!wants_value) return false;
    wants_value = false;
    if (op.code == kObject || op.code == kArray) {
      open.push_back(i);
      if (open.size() > kDepthMax || (op.code == kArray && op.b == 0)) return false;
      wants_value = op.code == kArray;
    } else if (op.code == kEnum) {
      const uint32_t size = op.a & 255;
      if ((size != 1 && size != 2 && size != 4 && size != 8) || op.b >= tables_.size())
        return false;
      const uint64_t names_end = uint64_t{op.b} + 1 + uint64_t{tables_[op.b]} * 4;
      if (names_end > tables_.size()) return false;
      for (uint64_t k = op.b + 1; k < names_end; k += 4) {
        if (!is_string(tables_[k + 2], tables_[k + 3])) return false;
      }
    } else if (op.code == kInt) {
      if (op.a == 0 || op.a > 8) return false;
    } else if (op.code == kBits) {
      if (op.a == 0 || op.a > 64) return false;
    } else if (op.code == kFloat) {
      if (op.a != 4 && op.a != 8) return false;
    } else if (op.code < kInt || op.code > kHex) {
      return false;
    }
  }
  return open.empty() && !wants_value;
}

// One record being printed.
struct FormatPlan::Run {
  const FormatPlan& plan;
  std::span<const uint8_t> record;
  std::string& out;

  // What the record has of `size` bytes at `offset`; `size` kRest: all that is left.
  [[nodiscard]] std::span<const uint8_t> clip(uint64_t offset, uint64_t size) const {
    if (offset >= record.size()) return {};
    const uint64_t left = record.size() - offset;
    return record.subspan(offset, size == kRest ? left : std::min(size, left));
  }
  [[nodiscard]] bool has(uint64_t offset, uint64_t size) const {
    return offset <= record.size() && size <= record.size() - offset;
  }

  void array(uint32_t index, uint64_t offset) const {
    const Op& op = plan.ops_[index];
    const uint64_t left = offset < record.size() ? record.size() - offset : 0;
    const uint64_t count = op.a == kRest ? left / op.b : op.a;
    out += '[';
    for (uint64_t i = 0; i < count && out.size() < kOutputBytesMax; i++) {
      if (i != 0) out += ',';
      value(index + 1, offset + i * op.b);
    }
    out += ']';
  }

  void object(uint32_t index, uint64_t base) const {
    char line[256];  // keys and numbers gather here
    char* to = line;
    const auto flush = [&] {
      out.append(line, to);
      to = line;
    };
    *to++ = '{';
    const uint32_t end = plan.ends_[index];
    for (uint32_t at = index + 1; at < end;) {
      const Op& key = plan.ops_[at];
      const uint32_t comma = at == index + 1 ? 1 : 0;
      const std::string_view name(plan.keys_.data() + key.a + comma, key.b - comma);
      if (name.size() + kDigitsMax > static_cast<size_t>(line + sizeof line - to)) flush();
      if (name.size() + kDigitsMax > sizeof line) {
        out += name;
      } else {
        to = std::copy(name.begin(), name.end(), to);
      }
      const Op& member = plan.ops_[at + 1];
      const uint64_t offset = base + member.offset;
      if (member.code == kInt && has(offset, member.a)) {
        const uint64_t raw = read_bits(record, offset * 8, member.a * 8);
        to = print_int(raw, member.a * 8, member.b != 0, to);
        at += 2;
        continue;
      }
      flush();
      at = value(at + 1, base);
    }
    flush();
    out += '}';
  }

  void enumeration(const Op& op, uint64_t offset) const {
    const uint32_t size = op.a & 255;
    const bool is_signed = (op.a & 256) != 0;
    if (!has(offset, size)) {
      out += "null";
      return;
    }
    uint64_t raw = read_bits(record, offset * 8, size * 8);
    const uint32_t bits = size * 8;
    if (is_signed)
      raw = static_cast<uint64_t>(static_cast<int64_t>(raw << (64 - bits)) >> (64 - bits));
    const uint32_t* entry = &plan.tables_[op.b] + 1;
    for (uint32_t i = 0; i < plan.tables_[op.b]; i++, entry += 4) {
      if ((uint64_t{entry[1]} << 32 | entry[0]) != raw) continue;
      append_json_string(std::string_view(plan.strings_).substr(entry[2], entry[3]), out);
      return;
    }
    append_int(raw, 64, is_signed, out);
  }

  void chars(const Op& op, uint64_t offset) const {
    const auto all = clip(offset, op.a);
    if (all.empty() && op.a != 0 && op.a != kRest) {
      out += "null";
      return;
    }
    const auto* nul = static_cast<const uint8_t*>(std::memchr(all.data(), 0, all.size()));
    const auto text = nul == nullptr ? all : all.first(static_cast<size_t>(nul - all.data()));
    if (!append_text(text, out)) append_hex(all, out);
  }

  void scalar(const Op& op, uint64_t offset) const {
    const uint32_t size = op.code == kPointer ? 8 : op.a;
    if (op.code == kBits) {
      const uint64_t bit = offset * 8 + op.offset;
      if (!has(bit / 8, (bit % 8 + op.a + 7) / 8)) {
        out += "null";
      } else {
        append_int(read_bits(record, bit, op.a), op.a, op.b != 0, out);
      }
      return;
    }
    if (!has(offset, size)) {
      out += "null";
      return;
    }
    if (op.code == kFloat) {
      float narrow = 0;
      double wide = 0;
      if (size == 4) {
        std::memcpy(&narrow, record.data() + offset, 4);
      } else {
        std::memcpy(&wide, record.data() + offset, 8);
      }
      return append_double(size == 4 ? double{narrow} : wide, out);
    }
    if (op.code == kBool) {
      const auto bytes = clip(offset, size);
      out += std::any_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b != 0; }) ? "true"
                                                                                       : "false";
      return;
    }
    const uint64_t raw = read_bits(record, offset * 8, size * 8);
    if (op.code == kInt) return append_int(raw, size * 8, op.b != 0, out);
    out += "\"0x";
    append_number(raw, out, 16);
    out += '"';
  }

  // Prints the value at `index`; returns the index behind it.
  uint32_t value(uint32_t index, uint64_t base) const {
    const Op& op = plan.ops_[index];
    const uint64_t offset = base + (op.code == kBits ? 0 : op.offset);
    switch (op.code) {
      case kObject:
        // Offsets of members count from the array element or record, not from the object.
        object(index, base);
        return plan.ends_[index] + 1;
      case kArray:
        array(index, offset);
        return plan.ends_[index] + 1;
      case kChars:
        chars(op, offset);
        break;
      case kEnum:
        enumeration(op, offset);
        break;
      case kHex:
        append_hex(clip(offset, op.a), out);
        break;
      default:
        scalar(op, offset);
    }
    return index + 1;
  }
};

void FormatPlan::format(std::span<const uint8_t> record, std::string& out) const {
  Run{*this, record, out}.value(0, 0);
}

}  // namespace bpftime
