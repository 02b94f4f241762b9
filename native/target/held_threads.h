// SPDX-License-Identifier: MIT
// Threads that stay stopped from one operation to the next: those that wait in a request to us
// about their own process. Such a thread cannot stop while it waits, so it is interrupted, its
// request answered, and it stops on its way out of the system call; when all is done the true
// result is put into its register, and it never knows.
//
// The rest of native/target needs not know either: a held thread is stopped when it is asked to
// stop, and let go when release_held says so. Tracer thread only.
#pragma once

#include <sys/types.h>

#include <functional>

#include "../base/result.h"

namespace bpftime::target {

/// Answers what `tid` waits for, if it waits in a request about its own process. Set once, before
/// the first thread is stopped; called by the tracer thread.
void set_let_out(std::function<bool(pid_t tid)> let_out);

/// For the thread that serves requests: true when `tid` has been interrupted by the tracer thread
/// and must be let out of its request so that it can stop. It will be held.
bool claim_interrupted(pid_t tid);

// Tracer thread only.
bool is_held(pid_t tid);
/// A held thread runs our code and does not stop: it is nobody's to hold any more.
void lose_held(pid_t tid);
/// A thread has been interrupted: if it waits for us it is let out.
void interrupted(pid_t tid);
/// It has stopped (or will not): it is held when it was let out.
void settled(pid_t tid, bool stopped);

/// Stops `tid`, which waits in a request about its own process, and holds it; one that was stopped
/// meanwhile by another operation is held already. EPERM, ESRCH, ETIMEDOUT; ECANCELED when it no
/// longer waits.
Result<void> hold_thread(pid_t tid);

/// Lets a held thread return from its system call: with what the kernel gave it, or -errnum. Calls
/// that never report such a failure (dup2, exec, exit) keep their result.
void release_held(pid_t tid, int errnum);

}  // namespace bpftime::target
