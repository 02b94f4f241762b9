// SPDX-License-Identifier: MIT
#include "inline_code.h"

#include <Zydis/Zydis.h>

#include <cstring>

namespace bpftime::rewrite {

namespace {

constexpr uint8_t kJumpAlways = 16;
constexpr uint32_t kEnd = UINT32_MAX;  // a branch to behind the program

// One instruction of the program and what becomes of it.
struct Piece {
  uint32_t off = 0;            // in the text
  std::vector<uint8_t> bytes;  // empty: left out, or a branch
  bool is_branch = false;
  uint8_t condition = kJumpAlways;
  uint32_t target = 0;    // offset in the text, or kEnd
  bool is_near = false;   // needs four bytes of displacement
  uint32_t at = 0;        // in the result
  bool sets_rax = false;  // and does nothing else
  bool is_return = false;

  [[nodiscard]] uint32_t size() const {
    if (!is_branch) return static_cast<uint32_t>(bytes.size());
    if (!is_near) return 2;
    return condition == kJumpAlways ? 5 : 6;
  }
};

class Inliner {
 public:
  Inliner(std::span<const uint8_t> text, uint64_t got_off, std::span<const uint64_t> got)
      : text_(text), got_off_(got_off), got_(got) {}

  std::optional<InlineCode> run() {
    if (!decode()) return std::nullopt;
    drop_results();
    if (!place()) return std::nullopt;
    emit();
    return std::move(out_);
  }

 private:
  bool decode() {
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (uint32_t off = 0; off < text_.size();) {
      ZydisDecodedInstruction insn;
      ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
      if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, text_.data() + off, text_.size() - off,
                                               &insn, operands))) {
        return false;
      }
      Piece piece;
      piece.off = off;
      if (!convert(insn, operands, &piece)) return false;
      pieces_.push_back(std::move(piece));
      off += insn.length;
    }
    // Behind the last instruction there is nothing of the program.
    return pieces_.back().is_return ||
           (pieces_.back().is_branch && pieces_.back().condition == kJumpAlways);
  }

  bool convert(const ZydisDecodedInstruction& insn, const ZydisDecodedOperand* operands,
               Piece* piece) {
    switch (insn.meta.category) {
      case ZYDIS_CATEGORY_CALL:
      case ZYDIS_CATEGORY_INTERRUPT:
      case ZYDIS_CATEGORY_SYSCALL:
        return false;
      case ZYDIS_CATEGORY_RET:
        if (insn.length != 1) return false;
        piece->is_branch = piece->is_return = true;
        piece->target = kEnd;
        return true;
      case ZYDIS_CATEGORY_UNCOND_BR:
      case ZYDIS_CATEGORY_COND_BR:
        return convert_branch(insn, operands, piece);
      default:
        break;
    }
    if (insn.mnemonic == ZYDIS_MNEMONIC_ENDBR64) return true;
    const uint8_t* from = text_.data() + piece->off;
    piece->bytes.assign(from, from + insn.length);
    for (uint8_t i = 0; i < insn.operand_count; ++i) {
      const ZydisDecodedOperand& op = operands[i];
      if (is_stack(op)) out_.uses_stack = true;
      if (op.type != ZYDIS_OPERAND_TYPE_MEMORY || op.mem.base != ZYDIS_REGISTER_RIP) continue;
      if (!load_constant(insn, operands, piece)) return false;
    }
    const bool is_zeroing = insn.mnemonic == ZYDIS_MNEMONIC_XOR &&
                            operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                            operands[0].reg.value == operands[1].reg.value;
    const bool is_constant =
        insn.mnemonic == ZYDIS_MNEMONIC_MOV && operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    piece->sets_rax =
        (is_zeroing || is_constant) && operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
        ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, operands[0].reg.value) ==
            ZYDIS_REGISTER_RAX;
    return true;
  }

  // The stack pointer, or the frame pointer by which programs reach their stack.
  static bool is_stack(const ZydisDecodedOperand& op) {
    const auto is_it = [](ZydisRegister reg) {
      const ZydisRegister wide = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
      return wide == ZYDIS_REGISTER_RSP || wide == ZYDIS_REGISTER_RBP;
    };
    if (op.type == ZYDIS_OPERAND_TYPE_REGISTER) return is_it(op.reg.value);
    return op.type == ZYDIS_OPERAND_TYPE_MEMORY && (is_it(op.mem.base) || is_it(op.mem.index));
  }

  bool convert_branch(const ZydisDecodedInstruction& insn, const ZydisDecodedOperand* operands,
                      Piece* piece) const {
    if (operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !operands[0].imm.is_relative) {
      return false;
    }
    const uint8_t* op = text_.data() + piece->off;
    if (op[0] == 0xeb || op[0] == 0xe9) {
      piece->condition = kJumpAlways;
    } else if ((op[0] & 0xf0) == 0x70) {
      piece->condition = op[0] & 15;
    } else if (op[0] == 0x0f && (op[1] & 0xf0) == 0x80) {
      piece->condition = op[1] & 15;
    } else {
      return false;
    }
    const int64_t target = int64_t{piece->off} + insn.length + operands[0].imm.value.s;
    if (target < 0 || target >= static_cast<int64_t>(text_.size())) return false;
    piece->is_branch = true;
    piece->target = static_cast<uint32_t>(target);
    return true;
  }

  // mov reg, [rip + slot]  →  mov reg, what the slot holds
  bool load_constant(const ZydisDecodedInstruction& insn, const ZydisDecodedOperand* operands,
                     Piece* piece) const {
    if (insn.mnemonic != ZYDIS_MNEMONIC_MOV || operands[0].type != ZYDIS_OPERAND_TYPE_REGISTER ||
        operands[0].size != 64) {
      return false;
    }
    const int64_t slot = int64_t{piece->off} + insn.length + operands[1].mem.disp.value -
                         static_cast<int64_t>(got_off_);
    if (slot < 0 || slot % 8 != 0 || slot / 8 >= static_cast<int64_t>(got_.size())) return false;
    const uint64_t value = got_[static_cast<size_t>(slot / 8)];
    const auto reg = static_cast<uint8_t>(ZydisRegisterGetId(operands[0].reg.value));
    const bool is_narrow = value <= UINT32_MAX;
    const uint8_t rex = static_cast<uint8_t>(0x40 | (is_narrow ? 0 : 8) | (reg >= 8 ? 1 : 0));
    piece->bytes.clear();
    if (rex != 0x40) piece->bytes.push_back(rex);
    piece->bytes.push_back(static_cast<uint8_t>(0xb8 | (reg & 7)));
    const auto* from = reinterpret_cast<const uint8_t*>(&value);
    piece->bytes.insert(piece->bytes.end(), from, from + (is_narrow ? 4 : 8));
    return true;
  }

  // Nobody reads the result of the program.
  void drop_results() {
    for (size_t i = 0; i + 1 < pieces_.size(); ++i) {
      if (pieces_[i].sets_rax && pieces_[i + 1].is_return) pieces_[i].bytes.clear();
    }
    pieces_.back().is_branch = !pieces_.back().is_return;
  }

  [[nodiscard]] const Piece* piece_at(uint32_t off) const {
    for (const Piece& piece : pieces_) {
      if (piece.off == off) return &piece;
    }
    return nullptr;
  }

  // Where each piece lies; branches grow until their displacements fit.
  bool place() {
    for (bool changed = true; changed;) {
      end_ = 0;
      for (Piece& piece : pieces_) {
        piece.at = end_;
        end_ += piece.size();
      }
      changed = false;
      for (Piece& piece : pieces_) {
        if (!piece.is_branch) continue;
        const Piece* to = piece.target == kEnd ? nullptr : piece_at(piece.target);
        if (piece.target != kEnd && to == nullptr) return false;
        const int64_t distance = int64_t{to != nullptr ? to->at : end_} - piece.at - piece.size();
        const bool fits = distance >= INT8_MIN && distance <= INT8_MAX;
        if (fits || piece.is_near) continue;
        piece.is_near = changed = true;
      }
    }
    return true;
  }

  void emit() {
    for (const Piece& piece : pieces_) {
      out_.bytes.insert(out_.bytes.end(), piece.bytes.begin(), piece.bytes.end());
      if (!piece.is_branch) continue;
      const uint32_t to = piece.target == kEnd ? end_ : piece_at(piece.target)->at;
      const auto distance = static_cast<int32_t>(to - piece.at - piece.size());
      const bool is_jump = piece.condition == kJumpAlways;
      if (!piece.is_near) {
        out_.bytes.push_back(is_jump ? 0xeb : static_cast<uint8_t>(0x70 | piece.condition));
        out_.bytes.push_back(static_cast<uint8_t>(distance));
        continue;
      }
      if (!is_jump) out_.bytes.push_back(0x0f);
      out_.bytes.push_back(is_jump ? 0xe9 : static_cast<uint8_t>(0x80 | piece.condition));
      const auto* from = reinterpret_cast<const uint8_t*>(&distance);
      out_.bytes.insert(out_.bytes.end(), from, from + 4);
    }
  }

  std::span<const uint8_t> text_;
  uint64_t got_off_;
  std::span<const uint64_t> got_;
  std::vector<Piece> pieces_;
  uint32_t end_ = 0;
  InlineCode out_;
};

}  // namespace

std::optional<InlineCode> inline_code(std::span<const uint8_t> text, uint64_t got_off,
                                      std::span<const uint64_t> got, size_t bytes_max) {
  if (text.empty() || text.size() > bytes_max) return std::nullopt;
  return Inliner(text, got_off, got).run();
}

}  // namespace bpftime::rewrite
