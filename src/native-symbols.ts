// Parts of the native surface (src/native.ts): reading symbol tables of files, following the signal
// masks of processes.

/** Flat arrays, one element per symbol, sorted by address. */
export interface ElfSymbols {
  /** Address as linked. */
  addrs: BigUint64Array;
  /** Bytes. */
  sizes: Uint32Array;
  /** Offset of the NUL-terminated name in `names`. */
  nameOffsets: Uint32Array;
  /** 0 function, 1 ifunc, 2 object; +8 when local, +16 when compiled by Go. */
  kinds: Uint8Array;
  names: Buffer;
  segments: { vaddr: bigint; fileOff: bigint; fileSize: bigint; exec: boolean }[];
  /** Lower-case hex, empty when the file has none. */
  buildId: string;
  /** PT_INTERP; empty for static programs. */
  interpreter: string;
  positionIndependent: boolean;
  /** Words that the dynamic linker fills with addresses of functions, as linked. */
  slotAddrs: BigUint64Array;
  /** Of an ifunc's own slot, its resolver as linked; 0 where a name is bound. */
  slotResolvers: BigUint64Array;
  /** What the file has in the slot. */
  slotInitials: BigUint64Array;
  /** Offset in `names` of the name that is bound; 0xffffffff for an ifunc's own slot. */
  slotNames: Uint32Array;
  /** Functions that only unwind tables know, as linked; sorted. */
  extentAddrs: BigUint64Array;
  /** Bytes. */
  extentSizes: Uint32Array;
}

/** Which functions of a module take a probe at their entry. */
export interface ModuleCoverage {
  functions: number;
  /** By form of the jump, see docs/adr/0014. */
  jmp: number;
  short: number;
  punned: number;
  /** Functions with a `ret`, and those of them whose exits all take a jump. */
  returning: number;
  returningByRet: number;
  refused: { name: string; reason: string }[];
}

/** Reading symbol tables. */
export interface NativeSymbols {
  /** Plans a probe for each function of a module's file, on a worker thread. */
  coverageRead(path: string, debugRoot: string): Promise<ModuleCoverage>;
  /** Reads a module's file and its separate debug file, on a worker thread. */
  symbolsRead(path: string, debugRoot: string): Promise<ElfSymbols>;
}

/** A place in front of a system call through which a signal mask may change. */
export interface MaskSite {
  addr: bigint;
  functionAddr: bigint;
  /** Bytes. */
  functionSize: number;
  keeps: number;
  behind: boolean;
  /** Of the system call; 0: known only when it is made. rt_sigaction: a site of the guard's. */
  number: number;
}

/** Following signal masks, so that reads need no system call (docs/adr/0017). */
export interface NativeMasks {
  /** Addresses in a range at which the bytes of a `syscall` instruction stand. */
  targetSyscallBytes(session: number, start: bigint, end: bigint): Promise<BigUint64Array>;
  /**
   * The sites in some functions through which masks may change. Rejects with EOPNOTSUPP when one
   * of them makes a system call that cannot be told, or not be diverted.
   */
  targetMaskSites(session: number, addrs: BigUint64Array, sizes: Uint32Array): Promise<MaskSite[]>;
  /** `lost`: they cannot be followed as long as the guard is armed. */
  targetMasks(session: number): Promise<{ followed: boolean; lost: boolean; events: number }>;
  /**
   * All sites of the modules that were there at `events` are diverted, some of them since the last
   * time if `withdraws`. Rejects with EBUSY (a thread is inside our code), EOPNOTSUPP, ESTALE (see
   * targetVanishedMaskSites). Nanoseconds of the stop.
   */
  targetFollowMasks(session: number, events: number, withdraws: boolean): Promise<number>;
  /** Diverted sites whose module went and came again, so that they are not diverted any more. */
  targetVanishedMaskSites(session: number): Promise<BigUint64Array>;
  /** Back to one system call for each read. */
  targetLoseMasks(session: number): Promise<void>;
}
