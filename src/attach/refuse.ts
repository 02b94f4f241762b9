// Processes that are never touched, whoever asks, and those that are no more.
import { readFileSync } from 'node:fs';
import { fail } from '../errors.js';
import type { NativeError } from '../native.js';
import { readFacts } from '../process/identity.js';
import type { Place } from '../symbols/resolve.js';
import type { Caller, Pid } from '../types.js';
import type { HookPlan } from './plan.js';

/** Our own tracer, a child of ours, holds the process: it is the caller. */
function isOurs(tracer: number): boolean {
  try {
    const stat = readFileSync(`/proc/${tracer}/stat`, 'utf8');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === process.pid;
  } catch {
    return false;
  }
}

/** @throws {FsError} EOPNOTSUPP, EPERM, ESRCH, EBUSY when the process is one of them */
export function refuseProcess(pid: Pid, caller: Caller): void {
  if (pid === process.pid) fail('EPERM', `${pid}: it is this daemon (attach to another process)`);
  if (pid === 1)
    fail('EPERM', '1: the init process is not touched (a fault there ends the machine)');
  const facts = readFacts(pid);
  if (facts.isZombie) fail('ESRCH', `${pid}: it has ended and waits for its parent`);
  if (facts.isKernelThread)
    fail('EOPNOTSUPP', `${pid}: it is a kernel thread, it has no user code`);
  if (facts.tracer !== 0 && !isOurs(facts.tracer)) {
    fail('EBUSY', `${pid}: process ${facts.tracer} traces it, e.g. a debugger (detach that first)`);
  }
  if (pid === caller.pid && caller.stuck !== undefined) {
    fail('EOPNOTSUPP', `${pid}: it waits for us and cannot be stopped: ${caller.stuck}`);
  }
}

/**
 * What is about a whole function is not about a part of it.
 * @throws {FsError} EINVAL an offset; EOPNOTSUPP a result of Go's, which is not where C has it
 */
export function refusePart(plan: HookPlan, place: Place): void {
  const { replaces } = plan.program;
  if (replaces && place.go) {
    fail('EOPNOTSUPP', `${plan.place}: it cannot be replaced: Go returns results in its own way`);
  }
  if (place.addr === place.functionAddr || (!plan.onReturn && !replaces)) return;
  const what = replaces ? 'a replacement' : 'a return probe';
  fail('EINVAL', `${plan.place}: ${what} belongs to a whole function (leave the offset out)`);
}

/** The process ended, or runs another program. */
export function isGone(error: unknown): boolean {
  const { code } = error as NativeError;
  return code === 'ESRCH' || code === 'ESTALE';
}
