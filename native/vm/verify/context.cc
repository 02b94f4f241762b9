// SPDX-License-Identifier: MIT
#include "context.h"

#include <linux/bpf.h>

#include <cstddef>

#include "../../abi/frame.h"

namespace bpftime::verify {
namespace {

constexpr ContextField kRegisters[] = {{0, sizeof(probe_regs)}};
// struct bpf_perf_event_data: the registers, sample period and address.
constexpr ContextField kPerfEvent[] = {{0, sizeof(probe_regs) + 16}};
// The first word of a tracepoint's record is the kernel's (PERF_MAX_TRACE_SIZE is 8192).
constexpr ContextField kTracepoint[] = {{8, 8192 - 8}};
constexpr ContextField kRawArguments[] = {{0, 12 * 8}};

constexpr Context kContexts[] = {
    {BPF_PROG_TYPE_KPROBE, "struct pt_regs", true, kRegisters},
    {BPF_PROG_TYPE_PERF_EVENT, "struct bpf_perf_event_data", false, kPerfEvent},
    {BPF_PROG_TYPE_TRACEPOINT, "the tracepoint's record", false, kTracepoint},
    {BPF_PROG_TYPE_RAW_TRACEPOINT, "struct bpf_raw_tracepoint_args", false, kRawArguments},
    {BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE, "struct bpf_raw_tracepoint_args", false, kRawArguments},
};
// The six arguments, rdx also half of a result of 16 bytes; al counts vector arguments.
constexpr ContextField kReplaceRegisters[] = {
    {0, offsetof(probe_regs, r9)},
    {offsetof(probe_regs, r9), 7 * 8, ContextField::kReadWrite},  // r9 r8 ax cx dx si di
    {offsetof(probe_regs, orig_ax), sizeof(probe_regs) - offsetof(probe_regs, orig_ax)},
};
constexpr Context kReplace{BPF_PROG_TYPE_KPROBE, "struct pt_regs", true, kReplaceRegisters};
constexpr Context kNoContext{0, "this kind of program's context", false, {}};

}  // namespace

const Context& context_of(uint32_t prog_type) {
  for (const Context& context : kContexts) {
    if (context.prog_type == prog_type) return context;
  }
  return kNoContext;
}

const Context& replace_context() { return kReplace; }

}  // namespace bpftime::verify
