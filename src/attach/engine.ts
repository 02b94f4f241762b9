// Attaches and detaches: resolves, enters, applies, remembers. One operation at a time per process;
// a failure at any step leaves the process and our memory of it as they were.
import { DETACH_ALL_ATTEMPTS, LEAVE_RETRY_MS } from '../config.js';
import { fail, refusalOf } from '../errors.js';
import {
  type ApplyReport,
  type BpfObjectInfo,
  type NativeError,
  native,
  type SiteWish,
} from '../native.js';
import { readFacts } from '../process/identity.js';
import { findPlace, type Place } from '../symbols/resolve.js';
import { asPid, type Caller, type Pid } from '../types.js';
import { adopt, isLeft, processesWithSessions } from './adopt.js';
import { exitFormOf } from './exits.js';
import { childrenOf } from './follow.js';
import { applySites, goRefusal } from './go.js';
import { armGuard, disarmGuard, guardWishes, settleGuard, untilNextLeave } from './guard.js';
import { Lineage } from './lineage.js';
import { loadObject } from './load.js';
import { followSoon, yieldMasks } from './masks.js';
import { saveNotes } from './notes.js';
import type { AttachObserver, AttachRequest } from './observer.js';
import { catchUp, type Follower, followLoads, settleModules } from './pending.js';
import { type HookPlan, planObject } from './plan.js';
import { isGone, refusePart, refuseProcess } from './refuse.js';
import { draftSites, dropUnwinderGuards, guardUnwinders, settleSites } from './sites.js';
import {
  type AttachedObject,
  allIds,
  type EnteredProcess,
  type Hook,
  hooksOf,
  newHook,
  newPending,
  newProcess,
  pendingOf,
} from './state.js';
import { Stops } from './stops.js';
import { Turns } from './turns.js';

/** The attach engine of one daemon. */
export class AttachEngine {
  readonly #processes = new Map<Pid, EnteredProcess>();
  readonly #turns = new Turns();
  readonly #observer: AttachObserver;
  readonly #follower: Follower;
  /** Children and executed programs. */
  readonly lineage: Lineage;
  readonly stops = new Stops();
  /** Forks and execs are heard of when they happen, else within a second. */
  readonly hearsOfForks: boolean;
  #nextHookId = 1;

  constructor(observer: AttachObserver) {
    this.#observer = observer;
    this.#follower = {
      find: (pid, plan) => this.#resolve(pid, plan),
      change: (process, added, removed) => this.#change(process, added, removed),
      guardUnwinders: async (process) => void (await this.#change(process, [], [], true)),
      told: (process, hook, what) => observer.followed(process, hook, what),
    };
    this.lineage = new Lineage(observer, {
      knows: (pid) => this.#processes.has(pid),
      welcome: (process) => this.#welcome(process),
      note: (pid) => this.#serially(pid, async () => {}),
      settle: async (process) => {
        await this.#saveNotes(process.identity.pid);
        await this.#leaveIfIdle(process);
      },
      attach: (request) => this.attach(request),
    });
    this.hearsOfForks = native.targetOnForks((pid, child) => void this.#heard(asPid(pid), child));
    native.targetOnLoads((session, event) => void this.#modulesChanged(session, event));
  }

  /** The process if we are in it. */
  process(pid: Pid): EnteredProcess | undefined {
    return this.#processes.get(pid);
  }

  /** All processes that we are in. */
  processes(): EnteredProcess[] {
    return [...this.#processes.values()];
  }

  /** Runs `job` after everything that was asked for this process before. */
  async #serially<T>(pid: Pid, job: () => Promise<T>): Promise<T> {
    return await this.#turns.take(pid, async () => {
      try {
        return await job();
      } finally {
        await this.#saveNotes(pid);
      }
    });
  }

  /**
   * Attaches an object, replacing what was attached under the same path.
   * @throws {FsError} every errno of the vocabulary; nothing has changed then
   */
  async attach(request: AttachRequest): Promise<AttachedObject> {
    return await this.#serially(request.pid, async () => {
      refuseProcess(request.pid, request.caller);
      const known = await this.#known(request.pid);
      const former = known?.objects.get(request.path);
      const info = await loadObject(request.name, request.bytes, request.dir, former);
      try {
        return await this.#attachLoaded(request, info);
      } catch (error) {
        native.bpfUnload(info.id);
        throw refusalOf(error, request.name) ?? error;
      }
    });
  }

  async #attachLoaded(request: AttachRequest, info: BpfObjectInfo): Promise<AttachedObject> {
    const place = request.dir === 'hooks' ? '' : request.name;
    const plans = planObject(info.programs, request.dir, place);
    const places = await Promise.all(plans.map((plan) => this.#resolve(request.pid, plan)));
    const process = await this.#enter(request.pid, request.caller);
    const former = process.objects.get(request.path);
    const object: AttachedObject = {
      path: request.path,
      dir: request.dir,
      name: request.name,
      info,
      kept: await native.targetKeepBytes(process.session, request.bytes),
      hooks: [],
      pending: [],
    };
    process.unnoted.add(object);
    for (const [i, plan] of plans.entries()) {
      const place = places[i];
      if (place) object.hooks.push(newHook(this.#nextHookId++, object, plan, place));
      else object.pending.push(newPending(this.#nextHookId++, object, plan));
    }
    // What is to come later must not have to be armed while a loader waits for it.
    if (object.pending.some((hook) => hook.program.readsMemory)) await armGuard(process);
    try {
      for (const hook of object.hooks) {
        if (hook.onReturn) hook.exitForm = await exitFormOf(process, hook.place);
      }
      // Whoever finds its hooks must know what they are.
      await this.#saveNotes(request.pid, object);
      const report = await this.#change(process, object.hooks, former?.hooks ?? []);
      process.unnoted.add(object);
      for (const hook of object.hooks) hook.pauseNs = report.pauseNs;
    } catch (error) {
      await this.#dropBytes(process, object);
      await this.#leaveIfIdle(process);
      throw error;
    }
    await this.#show(process, object, former);
    if (former) {
      native.bpfUnload(former.info.id);
      await this.#dropBytes(process, former);
    }
    await followLoads(process);
    // A module may have come between our look and the loader's hook.
    if (object.pending.length > 0) await settleModules(this.#follower, process);
    followSoon(process, (job) => this.#serially(request.pid, job));
    return object;
  }

  /** Tells the observer; when that fails everything is as before. */
  async #show(
    process: EnteredProcess,
    object: AttachedObject,
    former: AttachedObject | undefined,
  ): Promise<void> {
    process.objects.set(object.path, object);
    try {
      if (former) this.#observer.replaced(process, former, object);
      else this.#observer.attached(process, object);
    } catch (error) {
      // The hooks are live, but nobody could see or remove them: take them out again.
      await this.#change(process, former?.hooks ?? [], object.hooks);
      process.objects.delete(object.path);
      process.unnoted.add(object);
      this.#observer.detached(process, object);
      if (former) {
        process.objects.set(former.path, former);
        this.#observer.attached(process, former);
      }
      await this.#leaveIfIdle(process);
      throw error;
    }
  }

  async #resolve(pid: Pid, plan: HookPlan): Promise<Place | undefined> {
    const place = await findPlace(pid, plan.place);
    if (place === undefined) return undefined;
    const refusal = place.go && goRefusal(place.names);
    if (refusal) fail('EOPNOTSUPP', `${plan.place}: it takes no probe: ${refusal}`);
    refusePart(plan, place);
    return place;
  }

  /** The loader of a process changed its list of modules, and waits for us. */
  async #modulesChanged(session: number, event: number): Promise<void> {
    const process = this.processes().find((one) => one.session === session);
    if (!process) return;
    await this.#serially(process.identity.pid, () => settleModules(this.#follower, process)).catch(
      () => {},
    );
    await native.targetSettleLoads(session, event);
  }

  /** The process if we are in it, or if a killed daemon was. @throws {FsError} EBUSY one is */
  async #known(pid: Pid): Promise<EnteredProcess | undefined> {
    const known = this.#processes.get(pid);
    if (known && (await this.#stillSame(known))) return known;
    if (await isLeft(pid)) await this.#adopt(pid);
    return this.#processes.get(pid);
  }

  /** Goes on with what killed daemons left in processes. */
  async adoptAll(): Promise<void> {
    for (const pid of processesWithSessions()) {
      await this.#serially(pid, () => this.#known(pid)).catch((error) => {
        // Another daemon at work in its own process is no news.
        if (refusalOf(error, '')?.errno !== 'EBUSY') this.#observer.notAdopted(pid, String(error));
      });
    }
  }

  async #adopt(pid: Pid): Promise<void> {
    const { process, files, follow, refusal } = await adopt(pid, readFacts(pid).startTime);
    const ids = [...process.sites.values()].flatMap((site) => site.hooks.map((one) => one.hookId));
    this.#nextHookId = Math.max(this.#nextHookId - 1, ...ids, ...allIds(process)) + 1;
    this.#welcome(process);
    for (const [object, bytes] of files) this.#observer.adopted(process, object, bytes);
    if (refusal !== undefined) this.#observer.notAdopted(pid, refusal);
    await this.lineage.adopted(process, follow);
    await followLoads(process);
    await catchUp(this.#follower, process);
    await this.#leaveIfIdle(process);
  }

  /** Brings the journal up to date; `coming` is about to be attached. */
  async #saveNotes(pid: Pid, coming?: AttachedObject): Promise<void> {
    const process = this.#processes.get(pid);
    if (process) await saveNotes(process, this.lineage.settingOf(process.identity), coming);
  }

  /** The notes go first: what they speak of must be there. */
  async #dropBytes(process: EnteredProcess, object: AttachedObject): Promise<void> {
    process.unnoted.add(object);
    await this.#saveNotes(process.identity.pid);
    await native.targetDropBytes(process.session, object.kept);
  }

  async #enter(pid: Pid, caller: Caller): Promise<EnteredProcess> {
    const known = this.#processes.get(pid);
    if (known && (await this.#stillSame(known))) return known;
    const { startTime } = readFacts(pid);
    const process = newProcess({ pid, startTime }, await native.targetEnter(pid, caller));
    await this.stops.remembered(process);
    for (const child of childrenOf(pid)) process.children.add(child);
    this.#welcome(process);
    return process;
  }

  async #stillSame(process: EnteredProcess): Promise<boolean> {
    try {
      await native.targetCheck(process.session);
      return true;
    } catch (error) {
      // Anything else is our own trouble, e.g. no descriptor left to look with.
      if (!isGone(error)) throw error;
      await this.#drop(process);
      return false;
    }
  }

  #welcome(process: EnteredProcess): void {
    const { pid } = process.identity;
    this.#processes.set(pid, process);
    native.targetCare(pid, true);
    this.#observer.entered(process);
  }

  /** The kernel's news, in the process' turn; `child` 0: it executes another program. */
  async #heard(pid: Pid, child: number): Promise<void> {
    await this.#serially(pid, async () => {
      const process = this.#processes.get(pid);
      if (!process) return;
      if (child === 0) await this.#stillSame(process);
      else await this.lineage.forked(process, asPid(child));
    }).catch(() => {});
  }

  /** Forgets a process that ended or became another program. */
  async #drop(process: EnteredProcess): Promise<void> {
    const files = await this.lineage.filesAfterExec(process);
    for (const object of [...process.objects.values()]) {
      this.#forget(process, object);
      this.#observer.lost(process, object);
    }
    this.#processes.delete(process.identity.pid);
    await native.targetForget(process.session);
    this.#observer.left(process, true);
    if (files.length > 0) void this.lineage.attachAgain(process.identity.pid, files);
    else native.targetCare(process.identity.pid, false);
  }

  #forget(process: EnteredProcess, object: AttachedObject): void {
    process.objects.delete(object.path);
    this.#observer.detached(process, object);
    native.bpfUnload(object.info.id);
  }

  /** Brings the process' sites to a state with `added` and without `removed`. */
  async #change(process: EnteredProcess, added: Hook[], removed: Hook[], guards = false) {
    const draft = draftSites(process.sites, added, removed);
    if (guards || added.some((hook) => hook.exitForm === 'balanced')) {
      await guardUnwinders(process, draft, () => this.#nextHookId++);
    }
    const letsFinish = added.length > 0 && removed.length > 0;
    const wishes = [...draft.values()]
      .filter((site) => site.hooks.length > 0 || process.sites.has(site.addr))
      .map((site) => ({ ...site, letsFinish }));
    if (wishes.length === 0) return { pauseNs: 0, recyclePauseNs: 0, threadCount: 0 };
    const isReader = added.some((hook) => hook.program.readsMemory);
    const guard = isReader ? await guardWishes(process) : [];
    const report = await this.#apply(process, wishes, added, guard);
    settleSites(process, draft.values());
    process.pauseTotalNs += report.pauseNs + report.recyclePauseNs;
    return report;
  }

  async #apply(
    process: EnteredProcess,
    wishes: SiteWish[],
    added: Hook[],
    guard: readonly SiteWish[],
  ): Promise<ApplyReport> {
    try {
      const report = await applySites(process, [...wishes, ...guard]);
      await settleGuard(process, guard, report.guardArmed);
      return report;
    } catch (error) {
      const { site } = error as NativeError & { site?: bigint };
      if (guard.some((one) => one.addr === site)) {
        // It cannot be diverted: reads go through the kernel.
        process.reads = 'kernel';
        return await this.#apply(process, wishes, added, []);
      }
      const hook = added.find((one) => one.place.addr === site);
      const isFree = hook && (await yieldMasks(process, error));
      if (isFree) return await this.#apply(process, wishes, added, guard);
      const what = hook ? hook.place.name.text : `process ${process.identity.pid}`;
      throw refusalOf(error, what) ?? error;
    }
  }

  /**
   * Detaches what is attached under a path.
   * @throws {FsError} ENOENT nothing is; EBUSY, ETIMEDOUT the code could not be restored yet
   */
  async detach(pid: Pid, path: string): Promise<void> {
    await this.#serially(pid, async () => {
      const process = this.#processes.get(pid);
      const object = process?.objects.get(path);
      if (!process || !object) return fail('ENOENT', `${path}: nothing is attached there`);
      if (!(await this.#stillSame(process))) return;
      await this.#change(process, [], object.hooks);
      this.#forget(process, object);
      await this.#dropBytes(process, object);
      await followLoads(process);
      await this.#leaveIfIdle(process);
    });
  }

  /** Enables or disables one hook. @throws {FsError} ENOENT, ETIMEDOUT, ESRCH */
  async setEnabled(pid: Pid, hookId: number, enabled: boolean): Promise<void> {
    await this.#serially(pid, async () => {
      const process = this.#processes.get(pid);
      const pending = process && pendingOf(process).find((one) => one.id === hookId);
      if (pending) process.unnoted.add(pending.object);
      if (pending) return void Object.assign(pending, { enabled });
      const hook = process && hooksOf(process).find((one) => one.id === hookId);
      if (!process || !hook) return fail('ENOENT', `${hookId}: no such hook`);
      if (hook.enabled === enabled) return;
      await this.#change(process, [{ ...hook, enabled }], []);
      hook.enabled = enabled;
    });
  }

  /**
   * Takes the agent out after the last hook. While a thread still sleeps in a probed function
   * (whose code is restored already; the unwinder's sites and our mappings stay) this tries again
   * later, behind other operations.
   */
  async #leaveIfIdle(process: EnteredProcess, attempt = 0): Promise<void> {
    const { pid } = process.identity;
    if (process.objects.size > 0 || this.#processes.get(pid) !== process) return;
    try {
      await dropUnwinderGuards(process);
      process.loader = 'none';
      await disarmGuard(process);
      await native.targetLeave(process.session);
      this.#processes.delete(pid);
      native.targetCare(pid, false);
      this.#observer.left(process, false);
    } catch (error) {
      if (isGone(error)) return await this.#drop(process);
      const { delayMs, attempts } = untilNextLeave(error, attempt);
      setTimeout(() => {
        void this.#serially(pid, () => this.#leaveIfIdle(process, attempts)).catch(() => {});
      }, delayMs).unref();
    }
  }

  /** Detaches everything everywhere, for a daemon that ends. */
  async detachAll(): Promise<void> {
    for (let attempt = 0; attempt < DETACH_ALL_ATTEMPTS; attempt++) {
      for (const process of this.processes()) {
        for (const path of [...process.objects.keys()]) {
          // One process that cannot be restored now must not keep the others from it.
          await this.detach(process.identity.pid, path).catch(() => {});
        }
      }
      if (this.processes().length === 0) return;
      await new Promise((done) => setTimeout(done, LEAVE_RETRY_MS));
    }
  }

  /** Notices processes that ended; called from time to time and when the kernel says so. */
  async sweep(): Promise<void> {
    for (const process of this.processes()) {
      const { pid } = process.identity;
      await this.#serially(pid, async () => {
        if (this.#processes.get(pid) !== process || !(await this.#stillSame(process))) return;
        // Where the kernel does not tell us, or could not keep up.
        for (const child of childrenOf(pid)) await this.lineage.forked(process, child);
        await catchUp(this.#follower, process);
      }).catch(() => {});
    }
  }
}
