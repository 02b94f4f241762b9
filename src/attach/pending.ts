// Hooks whose modules come and go. A hook of a module that is not mapped is pending; the loader's
// hook for debuggers tells us when modules were mapped, before their code runs, and the process
// waits (bounded) until we have looked. When a module goes, its hooks are pending again.
//
// All of it runs in the process' turn of the engine. Nothing here throws: nobody asked, so what
// cannot be attached is said in the books and stays pending.
import { type FsError, refusalOf } from '../errors.js';
import { native } from '../native.js';
import { type Module, readModules } from '../process/modules.js';
import { isLibraryName } from '../symbols/awaited.js';
import { parsePlace } from '../symbols/name.js';
import { loaderHooks, matchesModule, type Place } from '../symbols/resolve.js';
import type { Pid } from '../types.js';
import { exitFormOf } from './exits.js';
import { followMasks, loaderWishes } from './masks.js';
import type { HookPlan } from './plan.js';
import { type EnteredProcess, type Hook, hooksOf, type PendingHook, pendingOf } from './state.js';

/** What the engine does for us. */
export interface Follower {
  /** Where a plan's place is; undefined while its module is not mapped. */
  find(pid: Pid, plan: HookPlan): Promise<Place | undefined>;
  change(process: EnteredProcess, added: Hook[], removed: Hook[]): Promise<{ pauseNs: number }>;
  /** Has true return addresses restored before anybody unwinds, in modules that came since. */
  guardUnwinders(process: EnteredProcess): Promise<void>;
  /** Tells what a module's coming or going did to a hook. */
  told(process: EnteredProcess, hook: PendingHook, what: 'attached' | 'pending' | FsError): void;
}

/** Diverts the loader's hook; false when there is none, or it cannot be. */
async function hookLoader(process: EnteredProcess): Promise<boolean> {
  const places = await loaderHooks(process.identity.pid);
  if (places.length === 0) return false;
  const wishes = loaderWishes(process, places);
  if (wishes.length === 0) return true;
  const report = await native.targetApply(process.session, wishes);
  process.pauseTotalNs += report.pauseNs + report.recyclePauseNs;
  for (const wish of wishes) process.sites.set(wish.addr, wish);
  return true;
}

/** Its return address is in our keeping while it runs. */
const isHijacked = (hook: Hook) => hook.exitForm === 'balanced';

/** Hears of modules from now on if a hook needs it, and costs nothing as long as none does. */
export async function followLoads(process: EnteredProcess): Promise<void> {
  const wanted =
    pendingOf(process).length > 0 ||
    hooksOf(process).some(
      (hook) => hook.awaited !== undefined || isHijacked(hook) || hook.program.walksStack,
    );
  if (process.loader === 'none') {
    if (!wanted) return;
    process.loader = (await hookLoader(process).catch(() => false)) ? 'hooked' : 'polled';
  }
  if (process.loader !== 'hooked') return;
  try {
    await native.targetWantLoads(process.session, wanted);
  } catch {
    process.loader = 'polled';
  }
}

const isMapped = (place: Place, modules: Module[]) =>
  modules.some(
    (module) =>
      module.inode === place.module.inode &&
      module.dev === place.module.dev &&
      module.mappings.some((part) => place.addr >= part.start && place.addr < part.end),
  );

/** What a hook of a module that went waits for; undefined when its name cannot lead there again. */
function awaitedBy(hook: Hook): string | undefined {
  const { name, module } = hook.place;
  if (hook.awaited !== undefined) return hook.awaited;
  if (name.module !== undefined) return name.text;
  if (name.symbol === undefined) return undefined;
  return `${isLibraryName(module.name) ? module.name : module.path}:${name.text}`;
}

/** Hooks whose module is gone are pending. */
async function release(
  follower: Follower,
  process: EnteredProcess,
  modules: Module[],
): Promise<void> {
  const gone = hooksOf(process).filter(
    (hook) => !isMapped(hook.place, modules) && awaitedBy(hook) !== undefined,
  );
  if (gone.length === 0) return;
  await follower.change(process, [], gone);
  for (const hook of gone) {
    const { id, object, program, onReturn, enabled, cookie } = hook;
    const place = awaitedBy(hook)!;
    object.hooks = object.hooks.filter((one) => one !== hook);
    const refusal = undefined;
    const pending = { id, object, program, place, onReturn, enabled, cookie, refusal };
    object.pending.push(pending);
    process.unnoted.add(object);
    follower.told(process, pending, 'pending');
  }
}

function refuse(follower: Follower, process: EnteredProcess, hook: PendingHook, error: unknown) {
  const refusal = refusalOf(error, hook.place);
  if (!refusal) throw error;
  if (refusal.reason !== hook.refusal?.reason) follower.told(process, hook, refusal);
  hook.refusal = refusal;
}

/** A pending hook whose module is there, as it will be when it is attached. */
export function awakened(pending: PendingHook, place: Place): Hook {
  const { id, object, program, onReturn, enabled, cookie } = pending;
  const awaited = pending.place;
  const attachedAtMs = Date.now();
  return {
    id,
    object,
    program,
    place,
    onReturn,
    awaited,
    enabled,
    cookie,
    attachedAtMs,
    pauseNs: 0,
  };
}

async function attachThese(
  follower: Follower,
  process: EnteredProcess,
  ready: { pending: PendingHook; hook: Hook }[],
): Promise<void> {
  try {
    const hooks = ready.map((one) => one.hook);
    const report = await follower.change(process, hooks, []);
    for (const { pending, hook } of ready) {
      hook.pauseNs = report.pauseNs;
      const { object } = hook;
      object.pending = object.pending.filter((one) => one !== pending);
      object.hooks.push(hook);
      process.unnoted.add(object);
      follower.told(process, pending, 'attached');
    }
  } catch (error) {
    if (ready.length === 1) return refuse(follower, process, ready[0]!.pending, error);
    // One that cannot be must not keep the others out.
    for (const one of ready) await attachThese(follower, process, [one]);
  }
}

/** A quick look, because the process waits: paths may be links, and are looked at in full. */
function mayBeThere(pending: PendingHook, modules: Module[]): boolean {
  const wanted = parsePlace(pending.place).module ?? '';
  return wanted.startsWith('/') || modules.some((module) => matchesModule(module, wanted));
}

/** Attaches what can be attached now. */
async function attachPending(
  follower: Follower,
  process: EnteredProcess,
  modules: Module[],
): Promise<void> {
  const ready: { pending: PendingHook; hook: Hook }[] = [];
  for (const pending of pendingOf(process)) {
    try {
      const isThere = mayBeThere(pending, modules);
      const place = isThere && (await follower.find(process.identity.pid, pending));
      if (place) {
        const hook = awakened(pending, place);
        if (hook.onReturn) hook.exitForm = await exitFormOf(process, place);
        ready.push({ pending, hook });
      } else pending.refusal = undefined;
    } catch (error) {
      refuse(follower, process, pending, error);
    }
  }
  if (ready.length > 0) await attachThese(follower, process, ready);
}

/** Brings the hooks of a process in line with its modules. */
export async function settleModules(follower: Follower, process: EnteredProcess): Promise<void> {
  const modules = readModules(process.identity.pid);
  await release(follower, process, modules);
  await attachPending(follower, process, modules);
  if (hooksOf(process).some((hook) => hook.program.walksStack)) {
    await native.targetFollowModules(process.session);
  }
  // C programs load the unwinder when a thread is cancelled for the first time.
  if (hooksOf(process).some(isHijacked)) await follower.guardUnwinders(process);
}

/** What nobody tells us of. */
export async function catchUp(follower: Follower, process: EnteredProcess): Promise<void> {
  // Programs that map code without the loader, or whose loader cannot be hooked.
  if (process.loader !== 'none') await settleModules(follower, process);
  await followMasks(process);
}
