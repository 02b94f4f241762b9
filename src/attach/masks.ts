// Following signal masks: where every change of a mask is seen, a guarded read needs no system call
// to know that its fault would reach our handler. docs/adr/0017-signal-masks.md.
//
// Behind an attach, never in its way: until it is done, and where it cannot be, each read asks the
// kernel. In the process' turn.
import { MASK_ATTEMPTS, MASK_DELAY_MS, MASK_RETRY_MAX_MS, MASK_RETRY_MS } from '../config.js';
import { type NativeError, native, type SiteWish } from '../native.js';
import { type MaskSite, maskSites } from '../symbols/masks.js';
import { loaderHooks, type Place } from '../symbols/resolve.js';
import { armLate } from './guard.js';
import type { EnteredProcess } from './state.js';

const RT_SIGACTION = 13;

const OURS = { hookId: 0, progId: 0, onReturn: false, enabled: true };

/** The sites to divert and to leave, so that exactly these are. */
function wishesFor(process: EnteredProcess, sites: readonly MaskSite[]): SiteWish[] {
  const wanted = new Set(sites.map((site) => site.addr));
  const gone = [...process.maskSites].filter((addr) => !wanted.has(addr));
  const fresh = sites.filter((site) => !process.maskSites.has(site.addr));
  return [
    ...gone.map((addr) => withoutMaskHook(process, addr)),
    ...fresh.map(({ number, addr, ...site }) => ({
      ...site,
      addr,
      hooks: [
        { ...OURS, seesMasks: true, cookie: BigInt(number) },
        ...(process.sites.get(addr)?.hooks ?? []),
      ],
    })),
  ];
}

function withoutMaskHook(process: EnteredProcess, addr: bigint): SiteWish {
  const site = process.sites.get(addr)!;
  return { ...site, hooks: site.hooks.filter((hook) => !hook.seesMasks) };
}

/** The same of a site of the guard's, where rt_sigaction was seen. */
function withoutOurs(process: EnteredProcess, addr: bigint): SiteWish {
  const site = process.sites.get(addr)!;
  const isOurs = process.guardSites.has(addr) && !process.maskSites.has(addr);
  return isOurs ? { ...site, hooks: [] } : withoutMaskHook(process, addr);
}

/** The loader tells the agent of modules that come; nothing where it does already. */
export function loaderWishes(process: EnteredProcess, places: readonly Place[]): SiteWish[] {
  return places.flatMap(({ addr, functionAddr, functionSize }) => {
    const hooks = process.sites.get(addr)?.hooks ?? [];
    if (hooks.some((hook) => hook.followsLoader)) return [];
    const ours = { ...OURS, followsLoader: true, cookie: 0n };
    return [{ addr, functionAddr, functionSize, hooks: [ours, ...hooks] }];
  });
}

async function divert(process: EnteredProcess, wishes: SiteWish[]): Promise<void> {
  if (wishes.length === 0) return;
  const report = await native.targetApply(process.session, wishes);
  process.pauseTotalNs += report.pauseNs + report.recyclePauseNs;
  for (const wish of wishes) {
    const isOurs = wish.hooks.some((hook) => hook.seesMasks);
    if (wish.hooks.length > 0) process.sites.set(wish.addr, wish);
    else process.sites.delete(wish.addr);
    for (const sites of [process.maskSites, process.guardSites]) {
      if (isOurs) sites.add(wish.addr);
      else sites.delete(wish.addr);
    }
  }
}

/**
 * A user's probe comes first: leaves the sites when one of them was in its way, and reads ask the
 * kernel again. False: none was.
 */
export async function yieldMasks(process: EnteredProcess, error: unknown): Promise<boolean> {
  if (process.maskSites.size === 0 || (error as NativeError).code !== 'EBUSY') return false;
  await native.targetLoseMasks(process.session);
  if (process.reads === 'followed') process.reads = 'guarded';
  await divert(
    process,
    [...process.maskSites].map((addr) => withoutMaskHook(process, addr)),
  );
  return true;
}

/** A module that went and came again took its sites along: they are diverted anew. */
async function dropVanished(process: EnteredProcess): Promise<void> {
  const addrs = await native.targetVanishedMaskSites(process.session);
  await divert(
    process,
    [...addrs].filter((addr) => process.sites.has(addr)).map((addr) => withoutOurs(process, addr)),
  );
}

/** One attempt; false when modules came meanwhile. */
async function tryToFollow(process: EnteredProcess): Promise<boolean> {
  // Before the look at the modules: whoever comes behind it is heard of.
  await divert(process, loaderWishes(process, await loaderHooks(process.identity.pid)));
  const now = await native.targetMasks(process.session);
  await dropVanished(process);
  const { pid } = process.identity;
  const { modules, sites } = await maskSites(pid, process.session);
  const isSeen = ({ number, addr }: MaskSite) =>
    number !== RT_SIGACTION || process.guardSites.has(addr);
  if (!sites?.every(isSeen)) {
    process.masksFailed = { events: now.events, failures: 0, until: 0 };
    return true;
  }
  const masks = sites.filter((site) => site.number !== RT_SIGACTION);
  const wishes = wishesFor(process, masks);
  await divert(process, wishes);
  const isSame = (await maskSites(pid, process.session)).modules === modules;
  if (!isSame) return false;
  const isFresh = wishes.length > 0;
  process.pauseTotalNs += await native.targetFollowMasks(process.session, now.events, isFresh);
  process.reads = 'followed';
  return true;
}

/** Follows the masks of a process whose reads are guarded, as far as they can be; never fails. */
export async function followMasks(process: EnteredProcess): Promise<void> {
  if (process.objects.size === 0 || process.noStop) return;
  await armLate(process);
  if (!['guarded', 'followed'].includes(process.reads)) return;
  const { masksFailed: failed } = process;
  let events = -1;
  try {
    const state = await native.targetMasks(process.session);
    process.reads = state.followed ? 'followed' : 'guarded';
    events = state.events;
    if (state.followed || state.lost || failed.events === events) return;
    if (Date.now() < failed.until) return;
    for (let attempt = 0; attempt < MASK_ATTEMPTS; attempt++) {
      if (!(await tryToFollow(process))) continue;
      if (process.reads === 'followed') process.masksFailed = { events: -1, failures: 0, until: 0 };
      return;
    }
  } catch (error) {
    // A thread that is in the way is not there for ever; a site that cannot be diverted is.
    const passes = ['EBUSY', 'ESTALE', 'ETIMEDOUT'].includes((error as NativeError).code);
    const failures = failed.failures + 1;
    const delayMs = Math.min(MASK_RETRY_MS * 2 ** failures, MASK_RETRY_MAX_MS);
    const until = Date.now() + delayMs;
    process.masksFailed = { events: passes ? -1 : events, failures, until };
  }
}

/** The same in a moment, in the process' turn: probes that come and go at once need none of it. */
export function followSoon(
  process: EnteredProcess,
  inTurn: (job: () => Promise<void>) => Promise<void>,
): void {
  if (process.reads !== 'guarded') return;
  const follow = () => void inTurn(() => followMasks(process)).catch(() => {});
  setTimeout(follow, MASK_DELAY_MS).unref();
}
