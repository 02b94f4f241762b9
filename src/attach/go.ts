// What Go code needs of a site: where its runtime keeps the current goroutine, and that goroutines
// which were preempted inside of displaced bytes find their copy (docs/adr/0010-go.md).
import { FsError } from '../errors.js';
import { type ApplyReport, type NativeError, native, type SiteWish } from '../native.js';
import type { GoRuntime } from '../symbols/resolve.js';
import { armGuard } from './guard.js';
import type { EnteredProcess } from './state.js';

/** The agent's site at the end of runtime.asyncPreempt; undefined for runtimes without it. */
export function resumeWish(go: GoRuntime): SiteWish | undefined {
  if (!go.asyncPreempt) return undefined;
  const { addr, size } = go.asyncPreempt;
  const hook = { hookId: 0, progId: 0, resumesGo: true, onReturn: true, enabled: true, cookie: 0n };
  return { addr, functionAddr: addr, functionSize: size, exitForm: 'ret', hooks: [hook] };
}

const REFUSED: Record<string, string> = {
  'runtime.goexit': 'each goroutine returns to its second byte in the end',
  'runtime.asyncPreempt': 'preempted goroutines go on there, and we see to it that they can',
};

/** Why a function of Go's runtime takes no probe, or undefined when it does. */
export function goRefusal(names: readonly string[]): string | undefined {
  return names
    .map((name) => name.replace(/\.abi0$/, ''))
    .map((name) => (Object.hasOwn(REFUSED, name) ? REFUSED[name] : undefined))
    .find((reason) => reason !== undefined);
}

/**
 * Applies wishes; once more with the signals ours when moved bytes may fault: the agent then tells
 * the program's handler the original place.
 * @throws {FsError} EOPNOTSUPP when the signals cannot be taken over
 */
export async function applySites(
  process: EnteredProcess,
  wishes: SiteWish[],
): Promise<ApplyReport> {
  try {
    return await native.targetApply(process.session, wishes);
  } catch (error) {
    const { code, reason } = error as NativeError;
    if (code !== 'ENOTRECOVERABLE') throw error;
    await armGuard(process);
    const refusal = `${reason} (its rt_sigaction calls cannot be diverted)`;
    if (!['guarded', 'followed'].includes(process.reads))
      throw new FsError('EOPNOTSUPP', refusal, { cause: error });
    return await native.targetApply(process.session, wishes);
  }
}
