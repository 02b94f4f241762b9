// SPDX-License-Identifier: MIT
#include "asm.h"

#include <cctype>
#include <cstdlib>
#include <map>

#include "isa.h"

namespace bpftime {
namespace {

using namespace isa;

struct Operand {
  uint8_t reg = 0;
  bool wide = true;
};

struct Place {  // (u32 *)(r1 + 4)
  uint8_t size = 0;
  bool is_signed = false;
  uint8_t base = 0;
  int16_t off = 0;
};

/// Reads one line from left to right. A failed accept() leaves the position alone.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}

  bool accept(std::string_view word) {
    skip_space();
    if (text_.substr(at_, word.size()) != word) return false;
    const bool is_word = std::isalnum(static_cast<unsigned char>(word.back())) != 0;
    if (is_word && at_ + word.size() < text_.size() && is_name_char(text_[at_ + word.size()])) {
      return false;
    }
    at_ += word.size();
    return true;
  }
  bool reg(Operand* out) {
    skip_space();
    if (at_ + 1 >= text_.size() || (text_[at_] != 'r' && text_[at_] != 'w')) return false;
    size_t end = at_ + 1;
    while (end < text_.size() && std::isdigit(static_cast<unsigned char>(text_[end])) != 0) ++end;
    if (end == at_ + 1 || end > at_ + 3 || (end < text_.size() && is_name_char(text_[end]))) {
      return false;
    }
    const int number = std::atoi(std::string(text_.substr(at_ + 1, end - at_ - 1)).c_str());
    if (number > 15) return false;  // above 10: for tests of the validator
    *out = {static_cast<uint8_t>(number), text_[at_] == 'r'};
    at_ = end;
    return true;
  }
  bool number(int64_t* out) {
    skip_space();
    const std::string rest(text_.substr(at_));
    const char* begin = rest.c_str();
    const bool negative = *begin == '-';
    const char* digits = begin + (negative || *begin == '+' ? 1 : 0);
    if (std::isdigit(static_cast<unsigned char>(*digits)) == 0) return false;
    char* end = nullptr;
    const uint64_t value = std::strtoull(digits, &end, 0);
    *out = static_cast<int64_t>(negative ? uint64_t{0} - value : value);
    at_ += static_cast<size_t>(end - begin);
    return true;
  }
  bool name(std::string* out) {
    skip_space();
    size_t end = at_;
    while (end < text_.size() && is_name_char(text_[end])) ++end;
    if (end == at_ || std::isdigit(static_cast<unsigned char>(text_[at_])) != 0) return false;
    *out = std::string(text_.substr(at_, end - at_));
    at_ = end;
    return true;
  }
  bool at_end() {
    skip_space();
    return at_ == text_.size();
  }
  [[nodiscard]] size_t mark() const { return at_; }
  void rewind(size_t mark) { at_ = mark; }

 private:
  static bool is_name_char(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
  }
  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) ++at_;
  }
  std::string_view text_;
  size_t at_ = 0;
};

struct AluName {
  const char* text;
  uint8_t op;
  int16_t off;
};
// Longer operators first: "s>>=" must not be taken for ">>=", nor "<=" for "<".
constexpr AluName kAluNames[] = {
    {"s>>=", kArsh, 0}, {"<<=", kLsh, 0}, {">>=", kRsh, 0}, {"s/=", kDiv, 1}, {"s%=", kMod, 1},
    {"+=", kAdd, 0},    {"-=", kSub, 0},  {"*=", kMul, 0},  {"/=", kDiv, 0},  {"%=", kMod, 0},
    {"|=", kOr, 0},     {"&=", kAnd, 0},  {"^=", kXor, 0},
};
struct JmpName {
  const char* text;
  uint8_t op;
};
constexpr JmpName kJmpNames[] = {
    {"s>=", kJsge}, {"s<=", kJsle}, {"s>", kJsgt}, {"s<", kJslt}, {"==", kJeq}, {"!=", kJne},
    {">=", kJge},   {"<=", kJle},   {">", kJgt},   {"<", kJlt},   {"&", kJset},
};
struct AtomicName {
  const char* text;
  int32_t imm;
};
constexpr AtomicName kFetchNames[] = {{"atomic_fetch_add", kAdd | kAtomicFetch},
                                      {"atomic_fetch_or", kOr | kAtomicFetch},
                                      {"atomic_fetch_and", kAnd | kAtomicFetch},
                                      {"atomic_fetch_xor", kXor | kAtomicFetch},
                                      {"xchg", kAtomicXchg}};

class Assembler {
 public:
  Assembly run(std::string_view text) {
    uint32_t line_number = 0;
    while (!text.empty()) {
      const size_t end = text.find('\n');
      std::string_view line = text.substr(0, end);
      text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
      line = line.substr(0, line.find_first_of(";#"));
      line_ = ++line_number;
      Cursor cursor(line);
      if (!statements(&cursor)) return failed(line_, "not an instruction: " + std::string(line));
    }
    if (!resolve()) return failed(fixup_line_, "unknown label");
    return std::move(out_);
  }

 private:
  struct Fixup {
    uint32_t slot;
    std::string label;
    bool in_imm;
    uint32_t line;
  };

  Assembly failed(uint32_t line, std::string reason) {
    Assembly assembly;
    assembly.error_line = line;
    assembly.error = std::move(reason);
    return assembly;
  }

  bool statements(Cursor* c) {
    while (!c->at_end()) {
      const size_t mark = c->mark();
      std::string label;
      if (c->name(&label) && c->accept(":")) {
        labels_[label] = static_cast<uint32_t>(out_.slots.size());
        continue;
      }
      c->rewind(mark);
      return statement(c) && c->at_end();
    }
    return true;
  }

  void put(uint8_t opcode, uint8_t dst, uint8_t src, int64_t off, int64_t imm) {
    out_.slots.push_back(
        encode(Insn{opcode, dst, src, static_cast<int16_t>(off), static_cast<int32_t>(imm)}));
  }

  bool statement(Cursor* c) {
    int64_t value = 0;
    Operand r;
    if (c->accept(".raw")) {
      if (!c->number(&value)) return false;
      out_.slots.push_back(static_cast<uint64_t>(value));
      return true;
    }
    if (c->accept("exit")) return put(kOpExit, 0, 0, 0, 0), true;
    if (c->accept("goto")) return jump(c, Insn{kOpJa, 0, 0, 0, 0});
    if (c->accept("gotol")) return jump(c, Insn{kOpJa32, 0, 0, 0, 0}, true);
    if (c->accept("callx")) return c->reg(&r) && (put(kOpCallx, r.reg, 0, 0, 0), true);
    if (c->accept("call")) {
      if (c->accept("pc")) return c->number(&value) && (put(kOpCall, 0, 1, 0, value), true);
      if (c->number(&value)) return put(kOpCall, 0, 0, 0, value), true;
      return jump(c, Insn{kOpCall, 0, kCallLocal, 0, 0}, true);
    }
    if (c->accept("if")) return branch(c);
    if (c->accept("lock")) return locked(c);
    if (c->accept("store_release")) return store_release(c);
    if (c->accept("*")) return store(c);
    return c->reg(&r) && assignment(c, r);
  }

  bool jump(Cursor* c, Insn insn, bool in_imm = false) {
    int64_t off = 0;
    std::string label;
    if (!c->number(&off)) {
      if (!c->name(&label)) return false;
      fixups_.push_back({static_cast<uint32_t>(out_.slots.size()), label, in_imm, line_});
    }
    put(insn.opcode, insn.dst, insn.src, in_imm ? 0 : off, in_imm ? off : insn.imm);
    return true;
  }

  bool branch(Cursor* c) {
    Operand left;
    Operand right;
    int64_t imm = 0;
    if (!c->reg(&left)) return false;
    for (const JmpName& name : kJmpNames) {
      if (!c->accept(name.text)) continue;
      const bool is_reg = c->reg(&right);
      if (!is_reg && !c->number(&imm)) return false;
      if (!c->accept("goto")) return false;
      const auto opcode =
          static_cast<uint8_t>(name.op | (is_reg ? kSrcReg : 0) | (left.wide ? kJmp : kJmp32));
      return jump(c, Insn{opcode, left.reg, right.reg, 0, static_cast<int32_t>(imm)});
    }
    return false;
  }

  /// (TYPE *)(BASE + OFF), TYPE with its signedness.
  bool place(Cursor* c, Place* out) {
    constexpr struct {
      const char* text;
      uint8_t size;
      bool is_signed;
    } kTypes[] = {{"u8", kB, false}, {"u16", kH, false}, {"u32", kW, false}, {"u64", kDw, false},
                  {"s8", kB, true},  {"s16", kH, true},  {"s32", kW, true},  {"s64", kDw, true}};
    if (!c->accept("(")) return false;
    bool found = false;
    for (const auto& type : kTypes) {
      if (!c->accept(type.text)) continue;
      out->size = type.size;
      out->is_signed = type.is_signed;
      found = true;
      break;
    }
    Operand base;
    int64_t off = 0;
    if (!found || !c->accept("*") || !c->accept(")") || !c->accept("(")) return false;
    if (!c->reg(&base)) return false;
    const bool negative = c->accept("-");
    if (negative || c->accept("+")) {
      if (!c->number(&off)) return false;
    }
    out->base = base.reg;
    out->off = static_cast<int16_t>(negative ? -off : off);
    return c->accept(")");
  }

  static uint8_t alu_opcode(uint8_t op, uint8_t cls) { return op | cls; }
  static uint8_t memory_opcode(Class cls, uint8_t mode, uint8_t size) {
    return static_cast<uint8_t>(cls | mode | size);
  }

  bool store(Cursor* c) {
    Place to;
    Operand src;
    int64_t imm = 0;
    if (!place(c, &to) || !c->accept("=")) return false;
    if (c->reg(&src)) {
      put(memory_opcode(kStx, kModeMem, to.size), to.base, src.reg, to.off, 0);
      return true;
    }
    if (!c->number(&imm)) return false;
    put(memory_opcode(kSt, kModeMem, to.size), to.base, 0, to.off, imm);
    return true;
  }

  bool locked(Cursor* c) {
    Place to;
    Operand src;
    if (!c->accept("*") || !place(c, &to)) return false;
    for (const AluName& name : kAluNames) {
      if (!c->accept(name.text)) continue;
      if (!c->reg(&src)) return false;
      put(memory_opcode(kStx, kModeAtomic, to.size), to.base, src.reg, to.off, name.op);
      return true;
    }
    return false;
  }

  bool store_release(Cursor* c) {
    Place to;
    Operand src;
    if (!c->accept("(") || !place(c, &to) || !c->accept(",") || !c->reg(&src)) return false;
    put(memory_opcode(kStx, kModeAtomic, to.size), to.base, src.reg, to.off, kAtomicStoreRel);
    return c->accept(")");
  }

  bool assignment(Cursor* c, Operand dst) {
    const Class cls = dst.wide ? kAlu64 : kAlu;
    Operand src;
    int64_t imm = 0;
    for (const AluName& name : kAluNames) {
      if (!c->accept(name.text)) continue;
      const bool is_reg = c->reg(&src);
      if (!is_reg && !c->number(&imm)) return false;
      const auto opcode = static_cast<uint8_t>(name.op | (is_reg ? kSrcReg : 0) | cls);
      put(opcode, dst.reg, src.reg, name.off, imm);
      return true;
    }
    if (!c->accept("=")) return false;
    if (c->reg(&src)) {
      put(static_cast<uint8_t>(kMov | kSrcReg | cls), dst.reg, src.reg, 0, 0);
      return true;
    }
    if (c->number(&imm)) {
      if (c->accept("ll")) return wide_imm(dst.reg, 0, imm, imm >> 32), true;
      put(alu_opcode(kMov, cls), dst.reg, 0, 0, imm);
      return true;
    }
    return special(c, dst, cls) || atomic(c, dst);
  }

  void wide_imm(uint8_t dst, uint8_t kind, int64_t low, int64_t high) {
    put(kOpLddw, dst, kind, 0, low);
    put(0, 0, 0, 0, high);
  }

  /// Right-hand sides that are neither a plain register, a number nor an atomic operation.
  bool special(Cursor* c, Operand dst, Class cls) {
    Operand src;
    const size_t mark = c->mark();
    if (c->accept("-")) return c->reg(&src) && (put(alu_opcode(kNeg, cls), dst.reg, 0, 0, 0), true);
    if (c->accept("*")) {
      Place from;
      if (!place(c, &from)) return false;
      const uint8_t mode = from.is_signed ? kModeMemsx : kModeMem;
      put(memory_opcode(kLdx, mode, from.size), dst.reg, from.base, from.off, 0);
      return true;
    }
    constexpr int kWidths[] = {8, 16, 32, 64};
    for (const int width : kWidths) {
      const std::string bits = std::to_string(width);
      if (c->accept("(s" + bits + ")")) {
        if (!c->reg(&src)) return false;
        put(static_cast<uint8_t>(kMov | kSrcReg | cls), dst.reg, src.reg, width, 0);
        return true;
      }
      constexpr struct {
        const char* name;
        uint8_t opcode;
      } kSwaps[] = {{"be", kOpBe}, {"le", kOpLe}, {"bswap", kOpBswap}};
      for (const auto& swap : kSwaps) {
        if (!c->accept(swap.name + bits)) continue;
        return c->reg(&src) && (put(swap.opcode, dst.reg, 0, 0, width), true);
      }
    }
    c->rewind(mark);
    return reference(c, dst.reg);
  }

  bool reference(Cursor* c, uint8_t dst) {
    int64_t first = 0;
    int64_t second = 0;
    if (c->accept("map")) {
      if (!c->accept("(") || !c->number(&first)) return false;
      wide_imm(dst, kPseudoMapFd, first, 0);
    } else if (c->accept("map_value")) {
      if (!c->accept("(") || !c->number(&first)) return false;
      if (!c->accept(",") || !c->number(&second)) return false;
      wide_imm(dst, kPseudoMapValue, first, second);
    } else if (c->accept("func")) {
      std::string label;
      const auto slot = static_cast<uint32_t>(out_.slots.size());
      if (!c->accept("(")) return false;
      if (c->number(&first)) {
        first -= slot + 1;
      } else {
        if (!c->name(&label)) return false;
        fixups_.push_back({slot, label, true, line_});
      }
      wide_imm(dst, kPseudoFunc, first, 0);
    } else {
      return false;
    }
    return c->accept(")") && c->accept("ll");
  }

  bool atomic(Cursor* c, Operand dst) {
    Place at;
    Operand src;
    if (c->accept("load_acquire")) {
      if (!c->accept("(") || !place(c, &at) || !c->accept(")")) return false;
      put(memory_opcode(kStx, kModeAtomic, at.size), dst.reg, at.base, at.off, kAtomicLoadAcq);
      return true;
    }
    if (c->accept("cmpxchg")) {
      Operand expected;
      if (!c->accept("(") || !place(c, &at) || !c->accept(",") || !c->reg(&expected)) return false;
      if (!c->accept(",") || !c->reg(&src) || !c->accept(")")) return false;
      put(memory_opcode(kStx, kModeAtomic, at.size), at.base, src.reg, at.off, kAtomicCmpxchg);
      return dst.reg == 0 && expected.reg == 0;
    }
    for (const AtomicName& name : kFetchNames) {
      if (!c->accept(name.text)) continue;
      if (!c->accept("(") || !place(c, &at) || !c->accept(",") || !c->reg(&src)) return false;
      put(memory_opcode(kStx, kModeAtomic, at.size), at.base, src.reg, at.off, name.imm);
      return c->accept(")") && dst.reg == src.reg;
    }
    return false;
  }

  bool resolve() {
    for (const Fixup& fixup : fixups_) {
      const auto found = labels_.find(fixup.label);
      fixup_line_ = fixup.line;
      if (found == labels_.end()) return false;
      Insn insn = decode(out_.slots[fixup.slot]);
      const int32_t distance =
          static_cast<int32_t>(found->second) - static_cast<int32_t>(fixup.slot) - 1;
      if (fixup.in_imm) {
        insn.imm = distance;
      } else {
        insn.off = static_cast<int16_t>(distance);
      }
      out_.slots[fixup.slot] = encode(insn);
    }
    return true;
  }

  Assembly out_;
  std::map<std::string, uint32_t> labels_;
  std::vector<Fixup> fixups_;
  uint32_t line_ = 0;
  uint32_t fixup_line_ = 0;
};

}  // namespace

Assembly assemble(std::string_view text) { return Assembler().run(text); }

}  // namespace bpftime
