// What the next daemon must know of a process beyond what native keeps: which object files are
// where, under which names, and what people see of their hooks. Text in the session's journal.
//
// Reading trusts nothing: whatever is not as written here is left out or refuses the whole.
import { fail } from '../errors.js';
import type { ExitForm, KeptBytes } from '../native.js';
import type { Place } from '../symbols/resolve.js';
import { FOLLOWS, type Follow } from './follow.js';
import type { AttachDir } from './plan.js';
import type { AttachedObject, Hook, PendingHook } from './state.js';

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
  version: number;
  /** What is followed of the process. */
  follow: Follow;
  objects: ObjectNote[];
}

const VERSION = 2;
const DIRS: readonly string[] = ['uprobe', 'uretprobe', 'hooks'];

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

/** Notes on these objects, and on what is followed of their process. */
export function writeNotes(objects: readonly AttachedObject[], follow: Follow): Buffer {
  const notes: Notes = {
    version: VERSION,
    follow,
    objects: objects.map((object) => ({
      path: object.path,
      dir: object.dir,
      name: object.name,
      kept: object.kept,
      programs: object.info.programs.map((program) => program.id),
      maps: object.info.maps.map((map) => map.id),
      hooks: object.hooks.map((hook) => hookNote(object, hook)),
      pending: object.pending.map((hook) => pendingNote(object, hook)),
    })),
  };
  return Buffer.from(JSON.stringify(notes, replacer));
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

/**
 * Reads notes on the process `pid`.
 * @throws {FsError} EINVAL they are of another version, or no notes
 */
export function readNotes(text: Buffer, pid: number): Notes {
  // Nothing was attached yet.
  if (text.length === 0) return { version: VERSION, follow: 'none', objects: [] };
  let notes: unknown;
  try {
    notes = JSON.parse(text.toString(), reviver);
  } catch {
    notes = undefined;
  }
  if (!isRecord(notes) || notes['version'] !== VERSION || !Array.isArray(notes['objects'])) {
    return fail('EINVAL', `${pid}: the notes in its journal are of another version`);
  }
  if (!FOLLOWS.includes(String(notes['follow']))) notes['follow'] = 'none';
  if (!notes['objects'].every((object) => isObject(object, pid))) {
    fail('EINVAL', `${pid}: the notes in its journal make no sense`);
  }
  return notes as unknown as Notes;
}
