// SPDX-License-Identifier: MIT
#include "clobbers.h"

#include <Zydis/Zydis.h>

#include "trampoline.h"

namespace bpftime::rewrite {

namespace {

// Words of the registers that a call may clobber, by hardware number; 0: callee-saved.
uint32_t word_of(ZydisRegister reg) {
  static constexpr uint8_t kWord[16] = {10, 11, 12, 0, 0, 0, 13, 14, 9, 8, 7, 6, 0, 0, 0, 0};
  const ZydisRegister wide = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg);
  if (ZydisRegisterGetClass(wide) != ZYDIS_REGCLASS_GPR64) return 0;
  const uint8_t word = kWord[ZydisRegisterGetId(wide) & 15];
  return word == 0 ? 0 : 1u << word;
}

}  // namespace

uint32_t clobbered_words(std::span<const uint8_t> code) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  uint32_t words = 0;
  for (size_t off = 0; off < code.size();) {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code.data() + off, code.size() - off, &insn,
                                             operands))) {
      return kCallClobbers;
    }
    // A tail call is a jump that leads away.
    const bool is_call =
        insn.meta.category == ZYDIS_CATEGORY_CALL || insn.meta.category == ZYDIS_CATEGORY_UNCOND_BR;
    if (is_call && operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE) return kCallClobbers;
    for (uint8_t i = 0; i < insn.operand_count; ++i) {
      const ZydisDecodedOperand& op = operands[i];
      if (op.type == ZYDIS_OPERAND_TYPE_REGISTER &&
          (op.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0) {
        words |= word_of(op.reg.value);
      }
    }
    off += insn.length;
  }
  return words;
}

}  // namespace bpftime::rewrite
