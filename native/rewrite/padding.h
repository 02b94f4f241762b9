// SPDX-License-Identifier: MIT
// Bytes behind a function that nothing executes, which a window may take.
#pragma once

#include "function_view.h"

namespace bpftime::rewrite {

/// Bytes of alignment padding (nops, int3) behind the function's end, at most up to the next
/// 16-byte boundary: what follows may be a function that no symbol names.
uint32_t padding_behind(const FunctionView& function);

}  // namespace bpftime::rewrite
