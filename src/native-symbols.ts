// The part of the native surface (src/native.ts) that reads symbol tables of files.

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
  /** Functions that only unwind tables know, as linked; in files that define ifuncs. */
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
