// SPDX-License-Identifier: MIT
#include "padding.h"

#include <Zydis/Zydis.h>

#include <algorithm>

namespace bpftime::rewrite {

uint32_t padding_behind(const FunctionView& function) {
  uint32_t off = function.size;
  const auto& bytes = function.bytes;
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  while (off < bytes.size()) {
    if (bytes[off] == 0xcc) {
      ++off;
      continue;
    }
    ZydisDecodedInstruction insn;
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, nullptr, bytes.data() + off,
                                                    bytes.size() - off, &insn)) ||
        insn.mnemonic != ZYDIS_MNEMONIC_NOP) {
      break;
    }
    off += insn.length;
  }
  const uint64_t end = function.addr + function.size;
  const uint64_t boundary = (end + 15) & ~uint64_t{15};
  const uint32_t limit = static_cast<uint32_t>(boundary - function.addr);
  return std::min(off, limit) - function.size;
}

}  // namespace bpftime::rewrite
