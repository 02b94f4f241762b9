// SPDX-License-Identifier: MIT
// Parts of a function that its compiler put elsewhere, among other cold code. A jump to one of them
// is no way out of the function. Pure, like function_view.h.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "../unwind/eh_frame.h"
#include "function_view.h"

namespace bpftime::rewrite {

/// The piece of code around an address, as unwind tables tell pieces apart; nothing where they know
/// of none.
using PieceFinder = std::function<std::optional<unwind::CodePiece>(uint64_t addr)>;

/// Where every jump out of `function` leads to a part of it, and every jump of those back or to
/// another one, and none of them returns: the function leaves by its own `ret`s, so has_tail_jump
/// becomes false, and the places that the parts come back to are branch targets. Else nothing
/// changes.
void join_parts(FunctionView* function, const PieceFinder& piece_at, const MemoryReader& read);

}  // namespace bpftime::rewrite
