// Guarded reads: the agent owns SIGSEGV and SIGBUS so that probe_read is a plain load that may
// fault. The program keeps believing that its own handlers are installed, because the places where
// it makes the rt_sigaction call are diverted first. Where that is not possible, programs read
// through the kernel instead: slower, and right everywhere.
import {
  GUARD_ATTEMPTS,
  GUARD_RETRY_MS,
  LEAVE_LOOK_MS,
  LEAVE_RETRY_MAX_MS,
  LEAVE_RETRY_MS,
} from '../config.js';
import { type NativeError, native, type SiteWish } from '../native.js';
import { sigactionSites } from '../symbols/resolve.js';
import { goPartOf } from './go-part.js';
import type { EnteredProcess } from './state.js';

const codeOf = (error: unknown) => (error as NativeError).code;

/**
 * What arms guarded reads: every rt_sigaction site diverted, in one batch, in whose stop the
 * signals change hands. Nothing when they are armed, or no site can be found.
 */
export async function guardWishes(process: EnteredProcess): Promise<SiteWish[]> {
  if (process.reads !== 'none') return [];
  // The signals change hands while everybody stands still.
  if (process.noStop) process.reads = 'kernel';
  if (process.noStop) return [];
  const places = await sigactionSites(process.identity.pid).catch(() => []);
  if (places.length === 0) process.reads = 'kernel';
  return places.map((place) => ({
    addr: place.addr,
    functionAddr: place.functionAddr,
    functionSize: place.functionSize,
    ...goPartOf(place),
    hooks: [
      { hookId: 0, progId: 0, answersSigaction: true, onReturn: false, enabled: true, cookie: 0n },
    ],
  }));
}

/** After a batch with those wishes. If somebody was in the way the signals change hands later. */
export async function settleGuard(
  process: EnteredProcess,
  wishes: readonly SiteWish[],
  isArmed: boolean | undefined,
): Promise<void> {
  if (wishes.length === 0) return;
  process.reads = isArmed ? 'guarded' : 'kernel';
  for (const wish of wishes) {
    process.sites.set(wish.addr, wish);
    process.guardSites.add(wish.addr);
  }
  for (let attempt = 0; attempt < GUARD_ATTEMPTS && process.reads === 'kernel'; attempt++) {
    try {
      process.pauseTotalNs += await native.targetArmGuard(process.session);
      process.reads = 'guarded';
    } catch (error) {
      if (codeOf(error) !== 'EBUSY') return;
      await new Promise((done) => setTimeout(done, GUARD_RETRY_MS));
    }
  }
}

/** Once more, where somebody was in the way each time when the sites were diverted. */
export async function armLate(process: EnteredProcess): Promise<void> {
  if (process.reads !== 'kernel' || process.guardSites.size === 0) return;
  try {
    process.pauseTotalNs += await native.targetArmGuard(process.session);
    process.reads = 'guarded';
  } catch {
    // Another time.
  }
}

/** Arms guarded reads once per process; never fails: reads through the kernel are the fallback. */
export async function armGuard(process: EnteredProcess): Promise<void> {
  const wishes = await guardWishes(process);
  if (wishes.length === 0) return;
  process.reads = 'kernel';
  try {
    const report = await native.targetApply(process.session, wishes);
    process.pauseTotalNs += report.pauseNs + report.recyclePauseNs;
    await settleGuard(process, wishes, report.guardArmed);
  } catch {
    // A site that cannot be diverted: the kernel reads.
  }
}

/**
 * Gives the signals back and the rt_sigaction sites their bytes.
 * @throws {NativeError} EBUSY while a thread is inside our code: ask again
 */
export async function disarmGuard(process: EnteredProcess): Promise<void> {
  if (process.guardSites.size === 0) return;
  await native.targetDisarmGuard(process.session);
  const wishes = [...process.guardSites].map((addr) => ({
    ...process.sites.get(addr)!,
    hooks: [],
  }));
  await native.targetApply(process.session, wishes);
  for (const wish of wishes) process.sites.delete(wish.addr);
  process.guardSites.clear();
  process.maskSites.clear();
  process.reads = 'none';
}

/**
 * When to try again to take the agent out. While the threads that sleep inside have not run
 * (EALREADY) nobody is stopped to look at them: a stop lets some of their waits begin anew.
 */
export function untilNextLeave(
  error: unknown,
  attempts: number,
): { delayMs: number; attempts: number } {
  if (codeOf(error) === 'EALREADY') return { delayMs: LEAVE_LOOK_MS, attempts };
  const delayMs = Math.min(LEAVE_RETRY_MS * 2 ** attempts, LEAVE_RETRY_MAX_MS);
  return { delayMs, attempts: attempts + 1 };
}
