// SPDX-License-Identifier: MIT
// Where a function that the Go compiler made can be diverted, and what must not be moved.
//
// Go preempts a goroutine at almost any instruction and keeps its program counter on its stack
// until it goes on, perhaps on another thread and much later; only the stack check at the start of
// a function is never interrupted so. That check also calls the function again after the stack
// grew. Hence: the window of a function that checks its stack is the check itself, and programs run
// behind the moved check, once per call. docs/adr/0010-go.md has the whole reasoning.
#pragma once

#include "site_plan.h"

namespace bpftime::rewrite {

/// Why Go code is refused of which may_fault() is true.
constexpr const char* kReasonMayFault =
    "a nil dereference among the bytes that would move could not become a panic";

/// Bytes of the stack check that a function begins with; 0 when it has none (`nosplit`, or written
/// in assembler).
uint32_t go_stack_check(const FunctionView& function);

/// As plan_site, for code made by Go.
Result<SitePlan> plan_go_site(const FunctionView& function, uint64_t addr);

/// True when an instruction of the window may fault by design of the language: a nil dereference
/// that becomes a panic. Moved elsewhere the runtime could not attribute it, and would end the
/// program. Reads and writes of the stack and of globals do not fault.
bool may_fault(const FunctionView& function, const SitePlan& plan);

/// Finds where a Go program keeps the current goroutine (`g`): the offset from the thread pointer,
/// as runtime.morestack reads it. `read` serves the global offset table. EOPNOTSUPP when it does so
/// in a way that is not known.
Result<int32_t> go_tls_offset(const FunctionView& morestack, const MemoryReader& read);

}  // namespace bpftime::rewrite
