// What the next daemon must know of a process beyond what native keeps: which object files are
// where, under which names, and what people see of their hooks. Text in the session's journal, a
// note for each object and one for the process.
//
// Reading trusts nothing: whatever is not as written here is left out or refuses the whole.
import { fail } from '../errors.js';
import { type ExitForm, type KeptBytes, type KeptNote, native } from '../native.js';
import type { Place } from '../symbols/resolve.js';
import { FOLLOWS, type Follow } from './follow.js';
import type { AttachDir } from './plan.js';
import type { AttachedObject, EnteredProcess, Hook, PendingHook } from './state.js';

/** A hook as notes keep it; the rest of it is found in the process. */
export interface HookNote {
  id: number;
  /** Index in the object. */
  program: number;
  place: Place;
  onReturn: boolean;
  exitForm?: ExitForm;
  awaited?: string;
  attachedAtMs: number;
  pauseNs: number;
}

/** A hook that waits for its module. */
export interface PendingNote {
  id: number;
  program: number;
  place: string;
  onReturn: boolean;
  enabled: boolean;
  cookie: bigint;
}

/** An object file. */
export interface ObjectNote {
  path: string;
  dir: AttachDir;
  name: string;
  kept: KeptBytes;
  /** Ids in the daemon that wrote this, in the object's order. */
  programs: number[];
  maps: number[];
  hooks: HookNote[];
  pending: PendingNote[];
}

/** Everything. */
export interface Notes {
  /** What is followed of the process. */
  follow: Follow;
  objects: ObjectNote[];
}

const VERSION = 3;
/** Of the note on the process; an object's is the place of its file's bytes. */
const PROCESS_KEY = 0;
const NOTHING = Buffer.alloc(0);
const DIRS: readonly string[] = ['uprobe', 'uretprobe', 'replace', 'hooks'];

/** JSON knows no bigint: `{"$n":"123"}` stands for one. */
const replacer = (_key: string, value: unknown) =>
  typeof value === 'bigint' ? { $n: value.toString() } : value;

function reviver(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('$n' in value)) return value;
  const { $n } = value;
  return typeof $n === 'string' && /^-?\d{1,20}$/.test($n) ? BigInt($n) : undefined;
}

function hookNote(object: AttachedObject, hook: Hook): HookNote {
  const { id, place, onReturn, attachedAtMs, pauseNs } = hook;
  return {
    id,
    program: object.info.programs.indexOf(hook.program),
    place,
    onReturn,
    ...(hook.exitForm === undefined ? {} : { exitForm: hook.exitForm }),
    ...(hook.awaited === undefined ? {} : { awaited: hook.awaited }),
    attachedAtMs,
    pauseNs,
  };
}

function pendingNote(object: AttachedObject, hook: PendingHook): PendingNote {
  const { id, place, onReturn, enabled, cookie } = hook;
  const program = object.info.programs.indexOf(hook.program);
  return { id, program, place, onReturn, enabled, cookie };
}

const textOf = (note: unknown) => Buffer.from(JSON.stringify(note, replacer));

/** On the process itself. */
export const processNote = (follow: Follow): KeptNote => ({
  key: PROCESS_KEY,
  text: textOf({ version: VERSION, follow }),
});

/** On an object. */
export const objectNote = (note: ObjectNote): KeptNote => ({
  key: note.kept.at,
  text: textOf(note),
});

const noteOf = (object: AttachedObject): ObjectNote => ({
  path: object.path,
  dir: object.dir,
  name: object.name,
  kept: object.kept,
  programs: object.info.programs.map((program) => program.id),
  maps: object.info.maps.map((map) => map.id),
  hooks: object.hooks.map((hook) => hookNote(object, hook)),
  pending: object.pending.map((hook) => pendingNote(object, hook)),
});

/** Brings the journal up to date; `coming` is about to be attached. */
export async function saveNotes(
  process: EnteredProcess,
  follow: Follow,
  coming?: AttachedObject,
): Promise<void> {
  const notes = process.notedFollow === follow ? [] : [processNote(follow)];
  for (const object of process.unnoted) {
    const isThere = object === coming || process.objects.get(object.path) === object;
    notes.push(isThere ? objectNote(noteOf(object)) : { key: object.kept.at, text: NOTHING });
  }
  process.unnoted.clear();
  process.notedFollow = follow;
  if (notes.length > 0) await native.targetSetNotes(process.session, notes).catch(() => {});
}

const isCount = (value: unknown): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
const isCounts = (value: unknown) => Array.isArray(value) && value.every(isCount);
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;

function isPlace(place: unknown): boolean {
  if (!isRecord(place)) return false;
  const { name, module, symbol } = place;
  return (
    typeof place['addr'] === 'bigint' &&
    typeof place['functionAddr'] === 'bigint' &&
    isCount(place['functionSize']) &&
    Array.isArray(place['names']) &&
    isRecord(name) &&
    typeof name['text'] === 'string' &&
    isRecord(symbol) &&
    typeof symbol['name'] === 'string' &&
    isRecord(module) &&
    typeof module['name'] === 'string' &&
    typeof module['path'] === 'string' &&
    Array.isArray(module['mappings'])
  );
}

function isHook(hook: unknown): boolean {
  return (
    isRecord(hook) &&
    isCount(hook['id']) &&
    isCount(hook['program']) &&
    typeof hook['onReturn'] === 'boolean' &&
    isPlace(hook['place']) &&
    [undefined, 'ret', 'balanced'].includes(hook['exitForm'] as undefined) &&
    ['undefined', 'string'].includes(typeof hook['awaited']) &&
    typeof hook['attachedAtMs'] === 'number' &&
    typeof hook['pauseNs'] === 'number'
  );
}

function isPending(hook: unknown): boolean {
  return (
    isRecord(hook) &&
    isCount(hook['id']) &&
    isCount(hook['program']) &&
    typeof hook['place'] === 'string' &&
    typeof hook['onReturn'] === 'boolean' &&
    typeof hook['enabled'] === 'boolean' &&
    typeof hook['cookie'] === 'bigint'
  );
}

function isObject(object: unknown, pid: number): boolean {
  if (!isRecord(object)) return false;
  const { kept, dir, name, path } = object;
  return (
    typeof name === 'string' &&
    name !== '' &&
    !/[/\0]/.test(name) &&
    DIRS.includes(String(dir)) &&
    path === `/procs/${pid}/${dir}/${name}` &&
    isRecord(kept) &&
    isCount(kept['at']) &&
    isCount(kept['size']) &&
    isCounts(object['programs']) &&
    isCounts(object['maps']) &&
    Array.isArray(object['hooks']) &&
    object['hooks'].every(isHook) &&
    Array.isArray(object['pending']) &&
    object['pending'].every(isPending)
  );
}

function parse({ text }: KeptNote): unknown {
  try {
    return JSON.parse(text.toString(), reviver);
  } catch {
    return undefined;
  }
}

/**
 * Reads notes on the process `pid`.
 * @throws {FsError} EINVAL they are of another version, or no notes
 */
export function readNotes(notes: readonly KeptNote[], pid: number): Notes {
  // Nothing was attached yet.
  if (notes.length === 0) return { follow: 'none', objects: [] };
  const about = notes.find((note) => note.key === PROCESS_KEY);
  const own = about && parse(about);
  if (!isRecord(own) || own['version'] !== VERSION) {
    return fail('EINVAL', `${pid}: the notes in its journal are of another version`);
  }
  const follow = FOLLOWS.includes(String(own['follow'])) ? (own['follow'] as Follow) : 'none';
  const objects = notes.filter((note) => note !== about).map(parse);
  if (!objects.every((object) => isObject(object, pid))) {
    fail('EINVAL', `${pid}: the notes in its journal make no sense`);
  }
  return { follow, objects: objects as ObjectNote[] };
}
