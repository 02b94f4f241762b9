// Names and addresses of one module's file. Pure over the flat arrays that the native reader made;
// indexes are built on first use because most modules are never asked.
import type { ElfSymbols } from '../native-symbols.js';
import type { Module } from '../process/modules.js';
import type { Addr } from '../types.js';

/** A function or object of a module, at its link-time address. */
export interface ModuleSymbol {
  name: string;
  vaddr: bigint;
  /** Bytes. */
  size: number;
  kind: 'function' | 'ifunc' | 'object';
  local: boolean;
  /** Go code, with small stacks and registers of its own. */
  isGo: boolean;
}

/** A module with its symbols and where it lies. */
export interface LoadedModule {
  module: Module;
  table: SymbolTable;
  bias: Addr;
}

const KINDS = ['function', 'ifunc', 'object'] as const;
const NEAR_MAX = 3;

/** All symbols of one file. */
export class SymbolTable {
  readonly elf: ElfSymbols;
  #byName: Map<string, number[]> | undefined;
  #byLower: Map<string, number[]> | undefined;
  #byGoName: Map<string, number[]> | undefined;

  constructor(elf: ElfSymbols) {
    this.elf = elf;
  }

  /** Number of symbols. */
  get count(): number {
    return this.elf.addrs.length;
  }

  #name(index: number): string {
    const start = this.elf.nameOffsets[index]!;
    return this.elf.names.toString('utf8', start, this.elf.names.indexOf(0, start));
  }

  /** The symbol at an index, in address order. */
  at(index: number): ModuleSymbol {
    const kind = this.elf.kinds[index]!;
    return {
      name: this.#name(index),
      vaddr: this.elf.addrs[index]!,
      size: this.elf.sizes[index]!,
      kind: KINDS[kind & 7] ?? 'function',
      local: (kind & 8) !== 0,
      isGo: (kind & 16) !== 0,
    };
  }

  #index(): Map<string, number[]> {
    if (this.#byName) return this.#byName;
    const byName = new Map<string, number[]>();
    for (let i = 0; i < this.count; i++) {
      const name = this.#name(i);
      const known = byName.get(name);
      if (known) known.push(i);
      else byName.set(name, [i]);
    }
    this.#byName = byName;
    return byName;
  }

  /** Symbols of exactly this name. */
  find(name: string): ModuleSymbol[] {
    return (this.#index().get(name) ?? []).map((i) => this.at(i));
  }

  /** Symbols whose name differs at most in case. */
  findIgnoringCase(name: string): ModuleSymbol[] {
    if (!this.#byLower) {
      this.#byLower = new Map();
      for (const [known, indexes] of this.#index()) {
        const lower = known.toLowerCase();
        this.#byLower.set(lower, [...(this.#byLower.get(lower) ?? []), ...indexes]);
      }
    }
    return (this.#byLower.get(name.toLowerCase()) ?? []).map((i) => this.at(i));
  }

  /**
   * Go functions by the name that Go source has for them: the last element of the package's
   * path: `http.Get` is `net/http.Get`.
   */
  findGoName(name: string): ModuleSymbol[] {
    if (!this.#byGoName) {
      this.#byGoName = new Map();
      for (let i = 0; i < this.count; i++) {
        if ((this.elf.kinds[i]! & 16) === 0) continue;
        const full = this.#name(i);
        // Type arguments and receivers may hold paths of their own.
        const slash = full.slice(0, full.search(/[[(]|$/)).lastIndexOf('/');
        if (slash < 0) continue;
        const short = full.slice(slash + 1);
        this.#byGoName.set(short, [...(this.#byGoName.get(short) ?? []), i]);
      }
    }
    return (this.#byGoName.get(name) ?? []).map((i) => this.at(i));
  }

  /** The function that contains a link-time address. */
  containing(vaddr: bigint): ModuleSymbol | undefined {
    const low = this.#firstAfter(vaddr);
    // Aliases and nested labels: the nearest start at or below whose extent covers the address.
    for (let i = low - 1; i >= 0 && i >= low - 64; i--) {
      if ((this.elf.kinds[i]! & 7) === 2) continue;
      if (vaddr < this.elf.addrs[i]! + BigInt(this.elf.sizes[i]!)) return this.at(i);
    }
    return undefined;
  }

  /** Start and size of the function around a link-time address, if only unwind tables know it. */
  extentAround(vaddr: bigint): Pick<ModuleSymbol, 'vaddr' | 'size'> | undefined {
    const { extentAddrs, extentSizes } = this.elf;
    let low = 0;
    let high = extentAddrs.length;
    while (low < high) {
      const mid = (low + high) >>> 1;
      if (extentAddrs[mid]! <= vaddr) low = mid + 1;
      else high = mid;
    }
    const start = extentAddrs[low - 1];
    const size = extentSizes[low - 1];
    if (start === undefined || size === undefined || vaddr >= start + BigInt(size))
      return undefined;
    return { vaddr: start, size };
  }

  /** The function that begins at a link-time address: of a symbol, or one without a name. */
  startingAt(vaddr: bigint): ModuleSymbol | undefined {
    const named = this.containing(vaddr);
    if (named?.vaddr === vaddr) return named;
    const index = this.elf.extentAddrs.indexOf(vaddr);
    const size = this.elf.extentSizes[index];
    if (size === undefined) return undefined;
    return { name: '', vaddr, size, kind: 'function', local: true, isGo: false };
  }

  /** All names of one link-time address. */
  namesAt(vaddr: bigint): string[] {
    const names: string[] = [];
    for (let i = this.#firstAfter(vaddr) - 1; i >= 0 && this.elf.addrs[i] === vaddr; i--) {
      names.push(this.#name(i));
    }
    return names;
  }

  /** Index of the first symbol above an address. */
  #firstAfter(vaddr: bigint): number {
    let low = 0;
    let high = this.count;
    while (low < high) {
      const mid = (low + high) >>> 1;
      if (this.elf.addrs[mid]! <= vaddr) low = mid + 1;
      else high = mid;
    }
    return low;
  }

  /** Function names that look like a misspelt one, best first. */
  near(name: string): string[] {
    const lower = name.toLowerCase();
    const scored: [number, string][] = [];
    for (const [known, indexes] of this.#index()) {
      if ((this.elf.kinds[indexes[0]!]! & 7) === 2) continue;
      if (Math.abs(known.length - name.length) > 3 && !known.toLowerCase().includes(lower))
        continue;
      const score = distance(lower, known.toLowerCase());
      if (score <= Math.max(2, name.length / 4)) scored.push([score, known]);
      else if (lower.length >= 4 && known.toLowerCase().includes(lower))
        scored.push([score, known]);
    }
    scored.sort((a, b) => a[0] - b[0] || (a[1] < b[1] ? -1 : 1));
    return scored.slice(0, NEAR_MAX).map(([, known]) => known);
  }
}

/** Edit distance with adjacent transpositions counted once; bounded to short names. */
function distance(a: string, b: string): number {
  if (a.length > 64 || b.length > 64) return 99;
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min(row[j - 1]! + 1, previous[j]! + 1, previous[j - 1]! + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, before[j - 2]! + 1);
      }
      row.push(best);
    }
    before = previous;
    previous = row;
  }
  return previous[b.length]!;
}
