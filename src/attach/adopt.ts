// Processes that a killed daemon left with hooks in them: native finds the session in the process
// and puts right what was under way (native/target/session_adopt.cc); here our memory of it is made
// again.
import { readdirSync, readFileSync } from 'node:fs';
import { ADOPT_ATTEMPTS, ADOPT_RETRY_MS, OWNER_ENDS_ATTEMPTS } from '../config.js';
import { fail } from '../errors.js';
import {
  type AdoptedSession,
  type HookWish,
  type NativeError,
  native,
  type SiteWish,
} from '../native.js';
import { readFacts } from '../process/identity.js';
import { asPid, type Pid } from '../types.js';
import type { Follow } from './follow.js';
import { reloadObject } from './load.js';
import { type Notes, type ObjectNote, objectNote, processNote, readNotes } from './notes.js';
import { settleSites } from './sites.js';
import type { AttachedObject, EnteredProcess, SiteState } from './state.js';

/** How a journal, or an agent that is alone as yet, shows in /proc/<pid>/maps. */
const TRACE = / \/memfd:bpftime-state| r-xp 00000000 00:00 0 *$/m;

/** A session that goes on, and what became of it. */
export interface Adoption {
  process: EnteredProcess;
  /** The bytes of each object's file. */
  files: Map<AttachedObject, Buffer>;
  /** What was followed of the process. */
  follow: Follow;
  /** Why its hooks were taken out instead; undefined when they go on. */
  refusal: string | undefined;
}

/** Processes in which somebody's session may be, as far as we may look. */
export function processesWithSessions(): Pid[] {
  const pids: Pid[] = [];
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const isTraced = TRACE.test(readFileSync(`/proc/${name}/maps`, 'latin1'));
      if (isTraced && Number(name) !== process.pid) pids.push(asPid(Number(name)));
    } catch {
      // Not ours to see, or gone.
    }
  }
  return pids;
}

const isAlive = (pid: number): boolean => {
  try {
    return !readFacts(asPid(pid)).isZombie;
  } catch {
    return false;
  }
};

/** Whose session is in a process. A killed daemon's tracer is waited for: it ends its last job. */
async function ownerOf(pid: Pid) {
  for (let attempt = 1; ; attempt++) {
    const owner = await native.targetOwner(pid);
    if (!owner?.alive || isAlive(owner.daemon) || attempt >= OWNER_ENDS_ATTEMPTS) return owner;
    await new Promise((done) => setTimeout(done, ADOPT_RETRY_MS));
  }
}

/**
 * Whether a session was left in a process by a daemon that is no more.
 * @throws {FsError} EBUSY its daemon lives, or it is a copy that fork made of such a process
 */
export async function isLeft(pid: Pid): Promise<boolean> {
  const owner = await ownerOf(pid).catch((error: NativeError) => {
    // What we cannot read we cannot adopt; entering will say what is wrong.
    if (error.code === 'EIO') throw error;
    return undefined;
  });
  if (!owner) return false;
  // A child of a probed process: the fork is heard of in a moment.
  if (owner.daemon === process.pid) return false;
  if (owner.home !== pid) {
    fail('EBUSY', `${pid}: its hooks are those of process ${owner.home}, from which it was forked`);
  }
  if (!owner.alive) return true;
  return fail(
    'EBUSY',
    `${pid}: another bpftimefs, process ${owner.daemon}, is in it (detach there, or end that one)`,
  );
}

/** Children, and theirs, that were forked from a process while nobody could see it. */
export async function copiesOf(home: Pid): Promise<Pid[]> {
  const copies: Pid[] = [];
  for (const pid of processesWithSessions()) {
    const owner = await native.targetOwner(pid).catch(() => undefined);
    if (owner?.home === home && pid !== home) copies.push(pid);
  }
  return copies;
}

/** A killed daemon's tracer ends the job that it is at: until then it is another tracer. */
async function adoptSession(pid: Pid): Promise<AdoptedSession> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await native.targetAdopt(pid);
    } catch (error) {
      if ((error as NativeError).code !== 'EBUSY' || attempt >= ADOPT_ATTEMPTS) throw error;
    }
    await new Promise((done) => setTimeout(done, ADOPT_RETRY_MS));
  }
}

interface Loaded {
  note: ObjectNote;
  object: AttachedObject;
  bytes: Buffer;
}

async function loadNoted(session: AdoptedSession, note: ObjectNote): Promise<Loaded> {
  const bytes = await native.targetKeptBytes(session.session, note.kept);
  const adopts = session.maps.filter((map) => note.maps.includes(map.former)).map((map) => map.id);
  const info = await reloadObject(note.name, bytes, note.dir, adopts);
  const { path, dir, name, kept } = note;
  return { note, bytes, object: { path, dir, name, kept, info, hooks: [], pending: [] } };
}

/** Hooks that are really there come back. */
function rememberHooks({ note, object }: Loaded, wishes: Map<number, HookWish>): void {
  for (const hook of note.hooks) {
    const wish = wishes.get(hook.id);
    const program = object.info.programs[hook.program];
    if (!wish || !program) continue;
    const { enabled, cookie } = wish;
    object.hooks.push({ ...hook, object, program, awaited: hook.awaited, enabled, cookie });
    wishes.delete(hook.id);
  }
  for (const hook of note.pending) {
    const program = object.info.programs[hook.program];
    if (!program) continue;
    object.pending.push({ ...hook, object, program, refusal: undefined });
  }
}

/** Programs' hooks that are in the process, by id. */
const programHooks = (sites: readonly SiteWish[]) =>
  new Map(
    sites
      .flatMap((site) => site.hooks)
      .filter((wish) => wish.progId !== 0)
      .map((wish) => [wish.hookId, wish]),
  );

/**
 * The objects that are in force. One whose hooks are not there did not get that far, or was on its
 * way out; of two under one path, one of which replaces the other, that one is it whose hooks are.
 */
function inForce(notes: ObjectNote[], hooks: ReadonlyMap<number, HookWish>): ObjectNote[] {
  const has = (note: ObjectNote) => note.hooks.some((hook) => hooks.has(hook.id));
  const alive = new Map<string, ObjectNote>();
  for (const note of notes) {
    const rival = alive.get(note.path);
    if (note.hooks.length > 0 ? !has(note) : note.pending.length === 0) continue;
    if (!rival || !has(rival)) alive.set(note.path, note);
  }
  return [...alive.values()];
}

/** What the daemon knows of a process into which it has just come. */
function processOf(pid: Pid, startTime: bigint, session: AdoptedSession): EnteredProcess {
  const sites = new Map(session.sites.map((site) => [site.addr, site as SiteState]));
  const kinds = session.sites.flatMap((site) => site.hooks.map((hook) => ({ site, hook })));
  const masks = kinds.filter(({ hook }) => hook.seesMasks);
  const guards = [...kinds.filter(({ hook }) => hook.answersSigaction), ...masks];
  return {
    identity: { pid, startTime },
    session: session.session,
    logMapId: session.logMapId,
    enterNs: session.enterNs,
    pauseTotalNs: 0,
    reads: session.guardArmed ? 'guarded' : 'none',
    noStop: session.noStop,
    loader: kinds.some(({ hook }) => hook.followsLoader) ? 'hooked' : 'none',
    guardSites: new Set(guards.map(({ site }) => site.addr)),
    maskSites: new Set(masks.map(({ site }) => site.addr)),
    masksFailed: { events: -1, failures: 0, until: 0 },
    sites,
    objects: new Map(),
    maps: new Map(),
    children: new Set(),
    unnoted: new Set(),
    notedFollow: undefined,
  };
}

/** Takes programs' hooks out, those that nobody knows, or all. */
export async function dropHooks(process: EnteredProcess, isDropped: (wish: HookWish) => boolean) {
  const wishes = [...process.sites.values()]
    .filter((site) => site.hooks.some(isDropped))
    .map((site) => ({ ...site, hooks: site.hooks.filter((wish) => !isDropped(wish)) }));
  if (wishes.length === 0) return;
  await native.targetApply(process.session, wishes);
  settleSites(process, wishes);
}

async function remember(
  process: EnteredProcess,
  session: AdoptedSession,
  notes: Notes,
): Promise<Loaded[]> {
  const present = programHooks(session.sites);
  const alive = inForce(notes.objects, present);
  const loaded: Loaded[] = [];
  try {
    for (const note of alive) loaded.push(await loadNoted(session, note));
    const programs = loaded.flatMap(({ note, object }) =>
      object.info.programs.map((program, i) => ({ former: note.programs[i] ?? 0, id: program.id })),
    );
    const bound = loaded.map(({ note, object: { info } }) => ({
      ...note,
      programs: info.programs.map((program) => program.id),
      maps: info.maps.map((map) => map.id),
    }));
    await native.targetBind(session.session, {
      programs,
      notes: [processNote(notes.follow), ...bound.map(objectNote)],
    });
    const now = new Map(programs.map(({ former, id }) => [former, id]));
    for (const site of process.sites.values()) {
      for (const wish of site.hooks) wish.progId = now.get(wish.progId) ?? wish.progId;
    }
    return loaded;
  } catch (error) {
    for (const { object } of loaded) native.bpfUnload(object.info.id);
    throw error;
  }
}

/**
 * Goes on with the session that is in a process, or, where that cannot be, takes its hooks out.
 * @throws {NativeError} nothing could be done: ESRCH, EBUSY, EINVAL, ...
 */
export async function adopt(pid: Pid, startTime: bigint): Promise<Adoption> {
  const session = await adoptSession(pid);
  const process = processOf(pid, startTime, session);
  const files = new Map<AttachedObject, Buffer>();
  let follow: Follow = 'none';
  // An agent that came in and did nothing yet: it goes.
  if (session.sites.length === 0 && !session.canKeep) {
    return { process, files, follow, refusal: undefined };
  }
  try {
    if (!session.canKeep) fail('EPERM', 'its maps cannot be opened by this daemon');
    const notes = readNotes(session.notes, pid);
    follow = notes.follow;
    const loaded = await remember(process, session, notes);
    const wishes = programHooks([...process.sites.values()]);
    for (const one of loaded) {
      const { object, bytes } = one;
      rememberHooks(one, wishes);
      process.objects.set(object.path, object);
      process.unnoted.add(object);
      files.set(object, bytes);
      const reads = object.info.programs.some((program) => program.readsMemory);
      if (reads && process.reads === 'none') process.reads = 'kernel';
    }
    await dropHooks(process, (wish) => wishes.has(wish.hookId) && wish.progId !== 0);
    return { process, files, follow, refusal: undefined };
  } catch (error) {
    await dropHooks(process, (wish) => wish.progId !== 0);
    const { reason } = error as { reason?: string };
    return { process, files, follow, refusal: reason ?? String(error) };
  }
}
