// The typed surface of the native addon, and the only file that loads it.
// Text never crosses this boundary except names and paths; failures arrive as NativeError with an
// errno and a static reason, and callers turn them into sentences.
// Addresses of targets are bigint. Buffers are copied in both directions unless said otherwise.
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { NativeAdoption } from './native-adopt.js';
import type { NativeMasks, NativeSymbols } from './native-symbols.js';
import type { NativeVm } from './native-vm.js';

/** What outlives a daemon. */
export type { AdoptedSession, KeptBytes, KeptNote } from './native-adopt.js';

/** What became of a batch; recycling stops once more. `guardArmed`: see targetArmGuard. */
export type ApplyReport = Record<'pauseNs' | 'recyclePauseNs' | 'threadCount', number> & {
  guardArmed?: boolean;
};

/** Thrown (or rejected with) by every native call that fails. */
export interface NativeError extends Error {
  /** Errno name, e.g. `ESRCH`. */
  code: string;
  /** Static reason from the native side. */
  reason: string;
  /** Longer log (libbpf's or the validator's), when there is one. */
  log?: string;
}

// --- fuse ----------------------------------------------------------------------------------------

/** How native threads treat a node, see native/fuse/node_table.h. */
export type NodeKind =
  | 'dir' // children: static ones, published ones, and those of `provider`
  | 'snapshot' // bytes published by TypeScript, served natively
  | 'generated' // content asked from TypeScript at open, fixed for that open; true size unknown
  | 'line' // text control file: reads like generated, each complete line is a write request
  | 'payload' // random-access buffer, committed at the first flush with new bytes
  | 'stream' // endless lines: blocking read, poll, O_NONBLOCK, cursor per open
  | 'log' // append-only regular file with a true, growing size
  | 'symlink'; // target asked natively (self) or published

/** One row of the tree, derived from src/fs/tree.ts; class names are unique. */
export interface NodeClass {
  name: string;
  kind: NodeKind;
  mode: number;
  /** dir: static children, name → class. */
  children?: Record<string, string>;
  /**
   * dir: who supplies further children. `published`: only what TypeScript published.
   * `procs`: numeric names of live processes the caller may ptrace, each a dir of `childClass`.
   * `lookup`: unknown names are asked from TypeScript (request `lookup`); listing shows published.
   */
  provider?: 'published' | 'procs' | 'lookup';
  childClass?: string;
  /** dir: class of files created by users (cp NAME); absent: EACCES. */
  createClass?: string;
  /** dir: class of directories created by mkdir; absent: EPERM. */
  mkdirClass?: string;
  /** payload, line: largest accepted size in bytes (EFBIG beyond). stream, log: bytes retained. */
  maxBytes?: number;
  /** snapshot, generated, line: content of nodes that have none of their own. */
  content?: string;
}

/** What native asks of TypeScript; answered once with `reply`. */
export interface FuseRequest {
  id: number;
  op: 'lookup' | 'read' | 'line' | 'commit' | 'unlink' | 'rename' | 'mkdir' | 'rmdir' | 'cancel';
  /** Path below the mount point, e.g. `/procs/12/uprobe/main`. */
  path: string;
  /** Class of the node (of the directory for lookup). */
  cls: string;
  /** line: the lines of one write (complete ones only); commit: the whole payload. */
  data?: Buffer;
  /** rename: the new path. */
  to?: string;
  /** line: opened with O_TRUNC (`>`), not `>>`. commit: over the class's maxBytes, no data. */
  truncate?: boolean;
  /** The caller, from the FUSE header; pid is a thread group id. */
  uid: number;
  gid: number;
  pid: number;
  /** The calling thread, when it asks for a change of its own process: see NativeSelf. */
  selfTid?: number;
}

/**
 * A process that changes itself waits inside its own system call, where it cannot be stopped.
 * Held, it has left that call but not the kernel; released, it returns with the true result.
 */
export interface NativeSelf {
  /** Rejects when it cannot be held (EPERM, ESRCH, ETIMEDOUT) or no longer waits (ECANCELED). */
  selfHold(tid: number): Promise<void>;
  /** `errno` 0: the call succeeded. A thread that is not held is left alone. */
  selfRelease(tid: number, errno: number): Promise<void>;
}

/** Serving the mount: nodes, requests, streams. */
export interface NativeFuse {
  /**
   * Mounts and starts the serving threads. `onRequest` runs on the JavaScript thread.
   * @throws EACCES, EBUSY, ENOENT, ... from mount(2) or fusermount3
   */
  fuseMount(
    options: {
      mountpoint: string;
      allowOther: boolean;
      root: string;
      classes: NodeClass[];
      /** Milliseconds after which an unanswered request fails with ETIMEDOUT. */
      deadlineMs: number;
    },
    onRequest: (request: FuseRequest) => void,
  ): number;
  /** Answers a request: errno 0 is success; data is the content for `read`. */
  fuseReply(mount: number, reply: { id: number; errno: number; data?: Buffer }): void;
  /** Creates or updates a node. Parents must exist (procs/<pid> is created on demand). */
  fusePublish(
    mount: number,
    node: { path: string; cls: string; content?: Buffer; symlink?: string },
  ): void;
  /** Removes a published node and everything below it; the kernel's caches are invalidated. */
  fuseUnpublish(mount: number, path: string): void;
  /** Appends whole lines to a `stream` or `log` node (created when absent). */
  fuseAppend(mount: number, path: string, text: Buffer): void;
  /** Serving counters, for `status`. */
  fuseStats(mount: number): { requests: bigint; openFiles: number; pendingRequests: number };
  /** Unmounts; resolves when all threads are gone. */
  fuseUnmount(mount: number): Promise<void>;
  /** Calls back when the mount ended from outside (umount) — the daemon should exit. */
  fuseOnEnd(mount: number, callback: () => void): void;
}

// --- bpf -----------------------------------------------------------------------------------------

/** What a map is. */
export interface BpfMapInfo {
  id: number;
  name: string;
  /** BPF_MAP_TYPE_*. */
  type: number;
  keySize: number;
  valueSize: number;
  maxEntries: number;
  flags: number;
  cpuCount: number;
  btfKeyType: number;
  btfValueType: number;
  storageBytes: number;
}

/** What a program is. */
export interface BpfProgInfo {
  id: number;
  name: string;
  /** The SEC() string. */
  section: string;
  type: number;
  insnCount: number;
  jitBytes: number;
  /** It was loaded to give a function's result in its place. */
  replaces: boolean;
  /** It lies in a program array of its object. */
  isTailCalled?: boolean;
  /** It, or one that it tail-calls, calls a helper that reads the process' memory by address. */
  readsMemory: boolean;
  /** It asks for stacks, which takes unwind tables of all modules. */
  walksStack: boolean;
}

/** What came out of loading one object. */
export interface BpfObjectInfo {
  id: number;
  maps: BpfMapInfo[];
  programs: BpfProgInfo[];
  /** The object's raw .BTF after loading (empty when it has none). */
  btf: Buffer;
}

/** Loading and running eBPF objects, reading and writing maps. */
export interface NativeBpf extends NativeVm {
  /** Opens, relocates, verifies and compiles on a worker thread. Rejects with ENOEXEC and a log. */
  bpfLoad(request: {
    name: string;
    bytes: Buffer;
    /** An object whose maps it goes on with, where they are of one make (native/bpf/loader.h). */
    replaces?: number;
    /** Maps that were made for these very bytes: all that fit are its own. */
    adopts?: number[];
    /** All its programs are to give a function's result, whatever their sections say. */
    asReplacement?: boolean;
  }): Promise<BpfObjectInfo>;
  /** Drops the daemon's references; maps and programs live on while a hook uses them. */
  bpfShare(objectId: number): number;
  bpfUnload(objectId: number): void;
  bpfMapInfo(mapId: number): BpfMapInfo;
  /** Value bytes (per-CPU: all CPUs, each rounded up to 8 bytes), or undefined. */
  bpfMapLookup(mapId: number, key: Buffer): Buffer | undefined;
  /** flags: BPF_ANY 0, BPF_NOEXIST 1, BPF_EXIST 2. */
  bpfMapUpdate(mapId: number, key: Buffer, value: Buffer, flags: number): void;
  bpfMapDelete(mapId: number, key: Buffer): void;
  /** All entries, key then value bytes concatenated, at most `limit` of them. */
  bpfMapDump(mapId: number, limit: number): { count: number; entries: Buffer };
  /** One record as JSON, as `events` show it; `plan` is from encodePlan() of src/bpf/plan.ts. */
  bpfFormatRecord(plan: Buffer, record: Buffer): string;
}

// --- target --------------------------------------------------------------------------------------

/**
 * One program at one site. `progId` 0 is the agent's own: it restores return addresses, or, with
 * `answersSigaction`, stands in for a system call of rt_sigaction, or, with `followsLoader`, tells
 * when modules come and go, or, with `resumesGo`, sees to goroutines that were preempted where code
 * has changed since.
 */
export interface HookWish {
  answersSigaction?: boolean;
  followsLoader?: boolean;
  resumesGo?: boolean;
  seesMasks?: boolean; // `cookie`: the number of the system call that follows, 0: it is in rax
  hookId: number;
  progId: number;
  onReturn: boolean;
  enabled: boolean;
  cookie: bigint; // bpf_get_attach_cookie
}

/** How returns are caught: where the `ret`s stand, or by a replaced return address. */
export type ExitForm = 'ret' | 'balanced';

/** The wanted state of one site; no hooks: it goes away. */
export interface SiteWish {
  addr: bigint;
  functionAddr: bigint;
  functionSize: number; // bytes
  exitForm?: ExitForm; // with hooks on return
  letsFinish?: boolean; // calls that are under way end with the programs that they began with
  /** Of Go code: the extent of its runtime.morestack, which shows where the runtime keeps `g`. */
  goMorestack?: bigint;
  goMorestackSize?: number;
  keeps?: number; // bytes from `addr` on that no other site may take, at least
  behind?: boolean; // hooks run behind the instructions that the jump displaces
  hooks: HookWish[];
}

/** One diverted place, a site's entry or one of its exits, for people to look at. */
export interface PatchInfo {
  /** What was asked for. */
  addr: bigint;
  isExit: boolean;
  /** The jump is there now; not while all hooks are disabled. */
  on: boolean;
  /** Where the jump is: behind a leading endbr64, or in front of a `ret`. */
  site: bigint;
  copy: bigint;
  body: bigint;
  bodyBytes: number;
  oldBytes: Buffer;
  newBytes: Buffer;
  copyBytes: Buffer;
  /** See docs/adr/0014. */
  form: 'jmp' | 'short' | 'punned';
}

/** What a hook counted since it was attached. */
export interface HookCounters {
  hookId: number;
  tier: 'inline' | 'lite' | 'full'; // docs/adr/0018
  hits: bigint;
  missed: bigint;
  samples: bigint;
  /** TSC ticks over all samples. */
  sampledTicks: bigint;
}

/** See struct shadow_stack in native/abi/agent.h. Sizes and offsets in bytes. */
export interface ShadowPlace {
  /** Address of the word that has the address of the first stack; 0 in it: there is none yet. */
  pointer: bigint;
  threads: number;
  depth: number;
  stackBytes: number;
  entriesOffset: number;
  entryBytes: number;
  hash: bigint;
}

/** Returns that exceptions, forced unwinds and longjmp cut short. */
export interface UnwoundReturns {
  total: bigint;
  hooks: { hookId: number; count: bigint }[];
}

/** Entering processes and changing their code. */
export interface NativeTarget {
  /**
   * Enters a process: maps the agent. Rejects with ESRCH, EPERM, EBUSY (traced), EOPNOTSUPP.
   * `enterNs`: wall time of it all; the target had one thread stopped for less than that.
   */
  targetEnter(
    pid: number,
    caller: { uid: number; gid: number; pid: number },
  ): Promise<{ session: number; enterNs: number; logMapId: number }>;
  /**
   * Brings sites to the wanted state in one stop, all or nothing. A rejection may carry `site`,
   * the address that caused it.
   */
  targetApply(session: number, sites: SiteWish[]): Promise<ApplyReport>;
  /** From now on changes that would stop all threads are refused, and others made by one byte. */
  targetSetNoStop(session: number, on: boolean): Promise<void>;
  /** How many `ret`s of a function can be caught where they stand; EOPNOTSUPP says why not. */
  targetCheckExits(
    session: number,
    functionAddr: bigint,
    functionSize: number,
    isGo: boolean,
  ): Promise<number>;
  /**
   * Takes SIGSEGV and SIGBUS over so that programs read memory by guarded loads. All sites of
   * rt_sigaction must be diverted, in one batch, which does this itself in the same stop unless a
   * thread is in the way. Rejects with EBUSY when one still is: ask again. Nanoseconds of the stop.
   */
  targetArmGuard(session: number): Promise<number>;
  /** Gives the signals back. Rejects with EBUSY while a thread is inside our code. */
  targetDisarmGuard(session: number): Promise<void>;
  /**
   * Who hears of modules that come and go, for all sessions. The target waits, for a while, until
   * `event` is settled.
   */
  targetOnLoads(listener: (session: number, event: number) => void): void;
  /** Whether anything waits for modules: while nothing does nobody is told. */
  targetWantLoads(session: number, wanted: boolean): Promise<void>;
  targetSettleLoads(session: number, event: number): Promise<void>;
  /** Modules came or went: programs that ask for stacks find callers in the new ones, too. */
  targetFollowModules(session: number): Promise<void>;
  /** Takes everything of ours out. Rejects with EBUSY while a thread is inside: ask again. */
  targetLeave(session: number): Promise<void>;
  /** Drops a session whose process is gone. */
  targetForget(session: number): Promise<void>;
  /** Rejects with ESRCH or ESTALE when the process is no longer the one that was entered. */
  targetCheck(session: number): Promise<void>;
  targetCounters(session: number): Promise<HookCounters[]>;
  /** Returns cut short, where return addresses are replaced: `hooks` has those that can tell. */
  targetUnwound(session: number): Promise<UnwoundReturns>;
  /** Where and in what shape the process keeps the return addresses that probes replaced. */
  targetShadows(session: number): Promise<ShadowPlace>;
  targetPatches(session: number): Promise<PatchInfo[]>;
  /** TSC ticks per nanosecond, measured since the addon was loaded. */
  targetTicksPerNs(): number;
  /** @throws EFAULT, ESRCH, EPERM */
  targetReadMemory(pid: number, addr: bigint, size: number): Buffer;
}

// --- events --------------------------------------------------------------------------------------

/** Following rings. */
export interface NativeEvents {
  /**
   * Reads a ring on the collector thread and appends a JSON line per record to streams.
   * `log`: printk records; `ring`, `perf`: records formatted by `plan` (src/bpf), else as hex.
   */
  eventsAdd(source: {
    mount: number;
    mapId: number;
    kind: 'log' | 'ring' | 'perf';
    /** Paths of stream nodes; one that ends in `/stream` gets the record alone. */
    streams: string[];
    pid: number;
    mapName: string;
    plan?: Buffer;
  }): number;
  /** From here on records are formatted by `plan`, or as hex. @throws ENOENT */
  eventsReplan(source: number, plan: Buffer | undefined): void;
  /** Delivers what is there, then stops reading. */
  eventsRemove(source: number): void;
}

/** Everything that the addon exports. */
export interface Native
  extends NativeFuse,
    NativeSelf,
    NativeBpf,
    NativeTarget,
    NativeAdoption,
    NativeSymbols,
    NativeMasks,
    NativeEvents {}

const addonPath = fileURLToPath(new URL('../../build/bpftimefs.node', import.meta.url));
const module = { exports: {} as Native };
// RTLD_DEEPBIND: libbpf must bind `syscall` to the addon's own, not to libc's (docs/adr/0004).
process.dlopen(module, addonPath, constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_DEEPBIND);

/** The addon. */
export const native: Native = module.exports;
