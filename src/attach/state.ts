// What is attached where: the daemon's memory of objects, hooks and entered processes.
// Data only; src/attach/engine.ts changes it after the native side has done the same.
import type { BpfMapInfo, BpfObjectInfo, BpfProgInfo, ExitForm, HookWish } from '../native.js';
import type { Identity } from '../process/identity.js';
import type { Place } from '../symbols/resolve.js';
import type { AttachDir } from './plan.js';

/** One program attached at one place. */
export interface Hook {
  id: number;
  object: AttachedObject;
  program: BpfProgInfo;
  place: Place;
  onReturn: boolean;
  /** With onReturn. */
  exitForm?: ExitForm;
  enabled: boolean;
  cookie: bigint;
  /** Wall clock, milliseconds. */
  attachedAtMs: number;
  /** Nanoseconds that all threads stood still for it. */
  pauseNs: number;
}

/** A payload file and what came of it. */
export interface AttachedObject {
  /** Path below the mount point. */
  path: string;
  dir: AttachDir;
  /** File name. */
  name: string;
  info: BpfObjectInfo;
  hooks: Hook[];
}

/** A site as it should be, including the agent's own hooks. */
export interface SiteState {
  addr: bigint;
  functionAddr: bigint;
  functionSize: number;
  /** How returns are caught there, once that was decided. */
  exitForm?: ExitForm;
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
   * How programs read memory: `guarded` loads (we own SIGSEGV and SIGBUS), by the `kernel`
   * (process_vm_readv), or not asked for yet.
   */
  reads: 'guarded' | 'kernel' | 'none';
  /** Addresses of the diverted rt_sigaction sites. */
  guardSites: Set<bigint>;
  sites: Map<bigint, SiteState>;
  /** By path. */
  objects: Map<string, AttachedObject>;
  maps: Map<string, NamedMap>;
}

/** All hooks of a process, in order of id. */
export function hooksOf(process: EnteredProcess): Hook[] {
  return [...process.objects.values()]
    .flatMap((object) => object.hooks)
    .sort((a, b) => a.id - b.id);
}
