// Processes that are never touched, whoever asks, and those that are no more.
import { fail } from '../errors.js';
import type { NativeError } from '../native.js';
import { readFacts } from '../process/identity.js';
import type { Pid } from '../types.js';

/** @throws {FsError} EOPNOTSUPP, EPERM, ESRCH, EBUSY when the process is one of them */
export function refuseProcess(pid: Pid, callerPid: number): void {
  if (pid === callerPid) {
    fail(
      'EOPNOTSUPP',
      `${pid}: it is the process that writes, and waits for us (copy from another process)`,
    );
  }
  if (pid === process.pid) fail('EPERM', `${pid}: it is this daemon (attach to another process)`);
  if (pid === 1)
    fail('EPERM', '1: the init process is not touched (a fault there ends the machine)');
  const facts = readFacts(pid);
  if (facts.isZombie) fail('ESRCH', `${pid}: it has ended and waits for its parent`);
  if (facts.isKernelThread)
    fail('EOPNOTSUPP', `${pid}: it is a kernel thread, it has no user code`);
  if (facts.tracer !== 0) {
    fail('EBUSY', `${pid}: process ${facts.tracer} traces it, e.g. a debugger (detach that first)`);
  }
}

/** The process ended, or runs another program. */
export function isGone(error: unknown): boolean {
  const { code } = error as NativeError;
  return code === 'ESRCH' || code === 'ESTALE';
}
