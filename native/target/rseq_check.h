// SPDX-License-Identifier: MIT
// What this kernel does with the word rseq_cs of a thread that is in no sequence: the promise on
// which native/vm/rt/mask.h rests. No version of the kernel is believed, it is tried.
#pragma once

namespace bpftime::target {

/// True when the word of a thread is cleared whenever the thread sleeps, is preempted or gets a
/// signal, inside a system call or outside, and not by a system call as such. Tried once, by a
/// thread of its own; some milliseconds.
bool kernel_clears_rseq();

}  // namespace bpftime::target
