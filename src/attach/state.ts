// What is attached where: the daemon's memory of objects, hooks and entered processes.
// Data only; src/attach/engine.ts changes it after the native side has done the same.
import type { FsError } from '../errors.js';
import type {
  BpfMapInfo,
  BpfObjectInfo,
  BpfProgInfo,
  ExitForm,
  HookWish,
  KeptBytes,
} from '../native.js';
import type { Identity } from '../process/identity.js';
import type { Place } from '../symbols/resolve.js';
import type { AttachDir, HookPlan } from './plan.js';

/** One program attached at one place. */
export interface Hook {
  id: number;
  object: AttachedObject;
  program: BpfProgInfo;
  place: Place;
  onReturn: boolean;
  /** With onReturn. */
  exitForm?: ExitForm;
  /** The place that it waited for: when its module goes, it waits again. */
  awaited: string | undefined;
  enabled: boolean;
  cookie: bigint;
  /** Wall clock, milliseconds. */
  attachedAtMs: number;
  /** Nanoseconds that all threads stood still for it. */
  pauseNs: number;
}

/** One program that waits for its module. */
export interface PendingHook {
  /** The hook's, when it is attached. */
  id: number;
  object: AttachedObject;
  program: BpfProgInfo;
  /** With its module, as a user would write it. */
  place: string;
  onReturn: boolean;
  enabled: boolean;
  cookie: bigint;
  /** Why it is not attached although the module is there; undefined while it is not. */
  refusal: FsError | undefined;
}

/** A payload file and what came of it. */
export interface AttachedObject {
  /** Path below the mount point. */
  path: string;
  dir: AttachDir;
  /** File name. */
  name: string;
  info: BpfObjectInfo;
  /** Where the file's bytes lie in the session's journal. */
  kept: KeptBytes;
  hooks: Hook[];
  /** Programs whose modules are not loaded; they move to `hooks` and back. */
  pending: PendingHook[];
}

/** A site as it should be, including the agent's own hooks. */
export interface SiteState {
  addr: bigint;
  functionAddr: bigint;
  functionSize: number;
  /** How returns are caught there, once that was decided. */
  exitForm?: ExitForm;
  /** Of Go code, see SiteWish. */
  goMorestack?: bigint;
  goMorestackSize?: number;
  hooks: HookWish[];
}

/** A map under the name that `maps/` shows. */
export interface NamedMap {
  name: string;
  info: BpfMapInfo;
  object: AttachedObject;
}

/** A process that we are in. */
export interface EnteredProcess {
  identity: Identity;
  session: number;
  logMapId: number;
  enterNs: number;
  pauseTotalNs: number;
  /**
   * How programs read memory: `guarded` loads (we own SIGSEGV and SIGBUS) behind one system call,
   * without it where signal masks are `followed`, by the `kernel` (process_vm_readv), or not asked
   * for yet.
   */
  reads: 'followed' | 'guarded' | 'kernel' | 'none';
  /** Its threads are never stopped all at once. */
  noStop: boolean;
  /** How we hear of modules that come: the loader is `hooked`, or `polled` each second, or not yet. */
  loader: 'hooked' | 'polled' | 'none';
  /** Addresses of the diverted sites that go with the guard. */
  guardSites: Set<bigint>;
  /** Those among them that see changes of signal masks. */
  maskSites: Set<bigint>;
  /** When following masks failed: not again before modules change, or before a time (ms). */
  masksFailed: { events: number; failures: number; until: number };
  sites: Map<bigint, SiteState>;
  /** By path. */
  objects: Map<string, AttachedObject>;
  maps: Map<string, NamedMap>;
  /** Children that were looked at. */
  children: Set<number>;
  /** Objects that came, changed or went since the journal was told, see notes.ts. */
  unnoted: Set<AttachedObject>;
  /** What the journal says of the process itself. */
  notedFollow: string | undefined;
}

/** All hooks of a process, in order of id. */
export function hooksOf(process: EnteredProcess): Hook[] {
  return [...process.objects.values()]
    .flatMap((object) => object.hooks)
    .sort((a, b) => a.id - b.id);
}

/** All hooks of a process that wait for their modules, in order of id. */
export function pendingOf(process: EnteredProcess): PendingHook[] {
  return [...process.objects.values()]
    .flatMap((object) => object.pending)
    .sort((a, b) => a.id - b.id);
}

/** A hook that is about to be attached. */
export function newHook(id: number, object: AttachedObject, plan: HookPlan, place: Place): Hook {
  const { program, onReturn } = plan;
  const attachedAtMs = Date.now();
  const fresh = { awaited: undefined, enabled: true, cookie: 0n, attachedAtMs, pauseNs: 0 };
  return { id, object, program, place, onReturn, ...fresh };
}

/** A hook that waits for its module. */
export function newPending(id: number, object: AttachedObject, plan: HookPlan): PendingHook {
  return { ...plan, id, object, enabled: true, cookie: 0n, refusal: undefined };
}

/** A process that we have just come into. */
export function newProcess(
  identity: Identity,
  entered: Pick<EnteredProcess, 'session' | 'logMapId' | 'enterNs'>,
): EnteredProcess {
  return {
    identity,
    ...entered,
    pauseTotalNs: 0,
    reads: 'none',
    noStop: false,
    loader: 'none',
    guardSites: new Set(),
    maskSites: new Set(),
    masksFailed: { events: -1, failures: 0, until: 0 },
    sites: new Map(),
    objects: new Map(),
    maps: new Map(),
    children: new Set(),
    unnoted: new Set(),
    notedFollow: undefined,
  };
}

/** Ids of all hooks, attached or not. */
export const allIds = (process: EnteredProcess) =>
  [...hooksOf(process), ...pendingOf(process)].map((hook) => hook.id);
