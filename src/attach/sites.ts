// From hooks to the sites that carry them: what a change makes of each site, and the sites of the
// unwinder, which return probes need.

import { native } from '../native.js';
import { unwinderEntries } from '../symbols/resolve.js';
import { resumeWish } from './go.js';
import { goPartOf } from './go-part.js';
import type { EnteredProcess, Hook, SiteState } from './state.js';

/** Sites that a change is about, by address, as they shall be. */
export type SiteDraft = Map<bigint, SiteState>;

type SitePlace = Pick<SiteState, 'addr' | 'functionAddr' | 'functionSize'>;

/** The site in the draft, begun from what it is now. */
function siteIn(draft: SiteDraft, sites: ReadonlyMap<bigint, SiteState>, place: SitePlace) {
  const { addr, functionAddr, functionSize } = place;
  const drafted = draft.get(addr);
  if (drafted) return drafted;
  const known = sites.get(addr);
  const site = known
    ? { ...known, hooks: [...known.hooks] }
    : { addr, functionAddr, functionSize, hooks: [] };
  draft.set(addr, site);
  return site;
}

/** What becomes of the sites of some hooks. Pure. */
export function draftSites(
  sites: ReadonlyMap<bigint, SiteState>,
  added: readonly Hook[],
  removed: readonly Hook[],
): SiteDraft {
  const draft: SiteDraft = new Map();
  for (const hook of removed) {
    const site = siteIn(draft, sites, hook.place);
    site.hooks = site.hooks.filter((wish) => wish.hookId !== hook.id);
  }
  for (const hook of added) {
    const site = siteIn(draft, sites, hook.place);
    if (hook.exitForm) site.exitForm = hook.exitForm;
    Object.assign(site, goPartOf(hook.place));
    const resume = hook.place.go && resumeWish(hook.place.go);
    if (resume && !sites.has(resume.addr)) draft.set(resume.addr, resume);
    const wish = {
      hookId: hook.id,
      progId: hook.program.id,
      onReturn: hook.onReturn,
      enabled: hook.enabled,
      cookie: hook.cookie,
    };
    const at = site.hooks.findIndex((one) => one.hookId === hook.id);
    if (at >= 0) site.hooks[at] = wish;
    else site.hooks.push(wish);
  }
  return draft;
}

/** The sites are now as they were drafted. */
export function settleSites(process: EnteredProcess, sites: Iterable<SiteState>): void {
  for (const site of sites) {
    if (site.hooks.length > 0) process.sites.set(site.addr, site);
    else process.sites.delete(site.addr);
  }
}

/** Replaced return addresses must be back before anybody unwinds the stack. */
export async function guardUnwinders(
  process: EnteredProcess,
  draft: SiteDraft,
  newId: () => number,
): Promise<void> {
  for (const entry of await unwinderEntries(process.identity.pid)) {
    const known = draft.get(entry.addr) ?? process.sites.get(entry.addr);
    if (known?.hooks.some((wish) => wish.progId === 0)) continue;
    siteIn(draft, process.sites, entry).hooks.unshift({
      hookId: newId(),
      progId: 0,
      onReturn: false,
      enabled: true,
      cookie: 0n,
    });
  }
}

/**
 * The unwinder's sites go last.
 * @throws {NativeError} EBUSY while a probed function has not returned: its caller's address is
 * in our keeping, and an exception that passes through it must still find it
 */
export async function dropUnwinderGuards(process: EnteredProcess): Promise<void> {
  // The rt_sigaction sites stay until the signals have been given back.
  const wishes = [...process.sites.values()]
    .filter((site) => !process.guardSites.has(site.addr))
    .map((site) => ({ ...site, hooks: [] }));
  if (wishes.length === 0) return;
  const report = await native.targetApply(process.session, wishes);
  process.pauseTotalNs += report.pauseNs + report.recyclePauseNs;
  settleSites(process, wishes);
}
