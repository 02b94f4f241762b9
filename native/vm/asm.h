// SPDX-License-Identifier: MIT
// Assembler for tests and golden files, in the C-like syntax that LLVM prints for eBPF. What
// isa::disasm() prints, this reads. One instruction per line; `;` and `#` begin comments.
//
//   r1 = 5            w1 = w2             r1 = (s8)r2          r1 = 0x123456789 ll
//   r1 += r2          w1 s>>= 3           r1 s/= r2            r1 = -r1
//   r1 = be16 r1      r1 = bswap64 r1     r1 = *(s16 *)(r2 + 4)
//   *(u32 *)(r10 - 4) = r1                *(u8 *)(r1 + 0) = 7
//   lock *(u64 *)(r1 + 0) += r2           r2 = atomic_fetch_or((u64 *)(r1 + 0), r2)
//   r2 = xchg((u64 *)(r1 + 0), r2)        w0 = cmpxchg((u32 *)(r1 + 0), w0, w2)
//   r1 = load_acquire((u64 *)(r2 + 0))    store_release((u32 *)(r1 + 0), w2)
//   if r1 s> 5 goto out   goto +3   gotol out   out:   call 5   call func   callx r2   exit
//   r1 = map(3) ll    r1 = map_value(3, 16) ll    r1 = func(callback) ll    .raw 0x95
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bpftime {

struct Assembly {
  std::vector<uint64_t> slots;
  uint32_t error_line = 0;  // from 1; 0: no error
  std::string error;
  explicit operator bool() const { return error_line == 0; }
};

[[nodiscard]] Assembly assemble(std::string_view text);

}  // namespace bpftime
