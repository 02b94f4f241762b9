// From a place name to an address in a live process. The order of preference is the contract of
// docs: exact name, then a single match that differs only in case, then a Go function by the last
// element of its package; several are ENOTUNIQ.
import { stat } from 'node:fs/promises';
import { DEBUG_ROOT, SYMBOL_TABLES_MAX, SYSCALL_SCAN_MAX_BYTES } from '../config.js';
import { fail, refusalOf } from '../errors.js';
import { native } from '../native.js';
import { loadBias, type Module, modulePathForUs, readModules } from '../process/modules.js';
import type { Addr, Pid } from '../types.js';
import { moduleOfPath, requireAwaitable } from './awaited.js';
import { implementationOf } from './ifunc.js';
import { escapeSymbol, type PlaceName, parsePlace } from './name.js';
import { type LoadedModule, type ModuleSymbol, SymbolTable } from './table.js';

/** Where a probe goes. */
export interface Place {
  name: PlaceName;
  module: Module;
  /** The function around the address. */
  symbol: ModuleSymbol;
  /** Start of the function in the process. */
  functionAddr: Addr;
  functionSize: number;
  /** The address meant. */
  addr: Addr;
  /** All names of the function. */
  names: string[];
  /** Of Go code, what of its runtime a probe needs. */
  go: GoRuntime | undefined;
}

/** Functions of a Go runtime. */
export interface GoRuntime {
  morestack: { addr: Addr; size: number };
  /** Where a preempted goroutine goes on; before Go 1.14 there are none. */
  asyncPreempt: { addr: Addr; size: number } | undefined;
}

const tables = new Map<string, Promise<SymbolTable>>();

async function loadTable(path: string, inode: number): Promise<SymbolTable> {
  // On a worker thread: the path is the target's choice, and may lead anywhere.
  const st = await stat(path, { bigint: true });
  const key = `${st.dev}:${st.ino}:${st.size}:${st.mtimeNs}`;
  // Another file of that name tells nothing about what is mapped.
  if (st.ino !== BigInt(inode)) throw new Error(`${path}: not the file that is mapped`);
  const known = tables.get(key);
  if (known) {
    // In order of use.
    tables.delete(key);
    tables.set(key, known);
    return known;
  }
  const loading = native.symbolsRead(path, DEBUG_ROOT).then((elf) => new SymbolTable(elf));
  tables.set(key, loading);
  loading.catch(() => tables.delete(key));
  // Modules come and go with deployments; the longest unused go first.
  if (tables.size > SYMBOL_TABLES_MAX) {
    const oldest = tables.keys().next().value;
    if (oldest !== undefined) tables.delete(oldest);
  }
  return loading;
}

/**
 * A module's symbols; undefined when its file cannot be read as ELF (a mapped data file, a file of
 * another machine), because then it has no names to offer.
 */
export async function loadModule(pid: Pid, module: Module): Promise<LoadedModule | undefined> {
  try {
    const table = await loadTable(modulePathForUs(pid, module), module.inode);
    return { module, table, bias: loadBias(module, table.elf.segments) };
  } catch {
    return undefined;
  }
}

/** All modules of a process with their symbols, in address order; the executable is first. */
export async function loadModules(pid: Pid): Promise<LoadedModule[]> {
  const loaded = await Promise.all(readModules(pid).map((module) => loadModule(pid, module)));
  return loaded.filter((one) => one !== undefined);
}

type Candidate = { loaded: LoadedModule; symbol: ModuleSymbol };

/** Whether a name means this module. */
export function matchesModule(module: Module, wanted: string): boolean {
  if (wanted.includes('/')) return module.path === wanted;
  // libssl.so.3, libssl.so and libssl all name libssl.so.3.
  return module.name === wanted || module.name.startsWith(`${wanted}.`);
}

/** One candidate per address: aliases name the same function. */
function distinct(candidates: Candidate[]): Candidate[] {
  const seen = new Map<string, Candidate>();
  for (const candidate of candidates) {
    const key = String(candidate.loaded.bias + candidate.symbol.vaddr);
    if (!seen.has(key)) seen.set(key, candidate);
  }
  return [...seen.values()];
}

function collect(modules: LoadedModule[], find: (table: SymbolTable) => ModuleSymbol[]) {
  return distinct(
    modules.flatMap((loaded) =>
      find(loaded.table)
        .filter((symbol) => symbol.kind !== 'object')
        .map((symbol) => ({ loaded, symbol })),
    ),
  );
}

function choose(name: PlaceName, modules: LoadedModule[], pid: Pid): Candidate {
  const wanted = name.symbol!;
  let found = collect(modules, (table) => table.find(wanted));
  if (found.length === 0) found = collect(modules, (table) => table.findIgnoringCase(wanted));
  if (found.length === 0) found = collect(modules, (table) => table.findGoName(wanted));
  // Go's assembler functions carry their calling convention in the symbol table.
  if (found.length === 0) found = collect(modules, (table) => table.find(`${wanted}.abi0`));
  // A public function wins over static ones of the same name elsewhere.
  const global = found.filter((one) => !one.symbol.local);
  if (found.length > 1 && global.length === 1) found = global;
  if (found.length === 1) return found[0]!;
  if (found.length > 1) {
    const list = found
      .slice(0, 8)
      .map(
        (one) =>
          `${one.loaded.module.name}:${escapeSymbol(one.symbol.name)}@0x${one.symbol.vaddr.toString(16)}`,
      );
    fail(
      'ENOTUNIQ',
      `${name.text}: ${found.length} candidates: ${list.join(' ')} (write module:symbol)`,
    );
  }
  const near = [...new Set(modules.flatMap((loaded) => loaded.table.near(wanted)))]
    .slice(0, 3)
    .map(escapeSymbol);
  const hint =
    near.length > 0 ? `did you mean ${near.join(', ')}` : `see symbols/ of process ${pid}`;
  return fail('ENOENT', `${name.text}: no such function in ${whereOf(modules)} (${hint})`);
}

function whereOf(modules: LoadedModule[]): string {
  const names = modules.slice(0, 3).map((one) => one.module.name);
  return modules.length > 3
    ? `${names.join(', ')} and ${modules.length - 3} more`
    : names.join(', ');
}

function goRuntimeOf({ table, bias }: LoadedModule): GoRuntime | undefined {
  const find = (name: string) => {
    const symbol = table.find(name)[0] ?? table.find(`${name}.abi0`)[0];
    return symbol && { addr: (bias + symbol.vaddr) as Addr, size: symbol.size };
  };
  const morestack = find('runtime.morestack');
  return morestack && { morestack, asyncPreempt: find('runtime.asyncPreempt') };
}

function placeOfSymbol(name: PlaceName, { loaded, symbol }: Candidate): Place {
  if (name.offset >= BigInt(Math.max(symbol.size, 1))) {
    fail(
      'EINVAL',
      `${name.text}: offset ${name.offset} is outside of ${symbol.name}, ${symbol.size} bytes`,
    );
  }
  const functionAddr = (loaded.bias + symbol.vaddr) as Addr;
  return {
    name,
    module: loaded.module,
    symbol,
    functionAddr,
    functionSize: symbol.size,
    addr: (functionAddr + name.offset) as Addr,
    names: loaded.table.namesAt(symbol.vaddr),
    go: symbol.isGo ? goRuntimeOf(loaded) : undefined,
  };
}

function placeOfAddress(name: PlaceName, modules: LoadedModule[]): Place {
  for (const loaded of modules) {
    // module:0xOFF is an offset in the file, as uprobe_events and bpftrace have it.
    const segment = loaded.table.elf.segments.find(
      (s) => s.exec && name.offset >= s.fileOff && name.offset < s.fileOff + s.fileSize,
    );
    const inFile = name.module !== undefined;
    if (inFile && !segment) continue;
    const vaddr = inFile
      ? name.offset - segment!.fileOff + segment!.vaddr
      : name.offset - loaded.bias;
    const covered = loaded.module.mappings.some(
      (m) => loaded.bias + vaddr >= m.start && loaded.bias + vaddr < m.end && m.perms[2] === 'x',
    );
    if (!covered) continue;
    const symbol = loaded.table.containing(vaddr);
    if (!symbol) {
      fail(
        'EOPNOTSUPP',
        `${name.text}: no symbol covers it in ${loaded.module.name}, so its function's extent is unknown`,
      );
    }
    const functionAddr = (loaded.bias + symbol.vaddr) as Addr;
    const addr = (loaded.bias + vaddr) as Addr;
    return {
      name,
      module: loaded.module,
      symbol,
      functionAddr,
      functionSize: symbol.size,
      addr,
      names: loaded.table.namesAt(symbol.vaddr),
      go: symbol.isGo ? goRuntimeOf(loaded) : undefined,
    };
  }
  return fail('ENOENT', `${name.text}: no executable code there`);
}

/** The modules that a name asks for: none when it names one that is not mapped. */
async function modulesNamed(pid: Pid, name: PlaceName, modules: LoadedModule[]) {
  const wanted = name.module;
  if (wanted === undefined) return modules;
  const named = modules.filter((loaded) => matchesModule(loaded.module, wanted));
  if (named.length > 0 || !wanted.startsWith('/')) return named;
  const same = await moduleOfPath(pid, wanted, modules);
  return same ? [same] : [];
}

async function tableOfFile(path: string): Promise<SymbolTable | undefined> {
  try {
    return new SymbolTable(await native.symbolsRead(path, DEBUG_ROOT));
  } catch {
    return undefined;
  }
}

/**
 * Resolves a place in a live process; undefined when its module is not mapped, but may come.
 * @throws {FsError} EINVAL, ENOENT, ENOTUNIQ, EOPNOTSUPP (ifunc, no extent), ESRCH
 */
export async function findPlace(pid: Pid, text: string): Promise<Place | undefined> {
  const name = parsePlace(text);
  let modules: LoadedModule[];
  try {
    modules = await loadModules(pid);
  } catch (error) {
    throw refusalOf(error, text) ?? error;
  }
  const named = await modulesNamed(pid, name, modules);
  if (named.length === 0) {
    await requireAwaitable(pid, name, whereOf(modules), tableOfFile);
    return undefined;
  }
  if (name.symbol === undefined) return placeOfAddress(name, named);
  const { loaded, symbol } = choose(name, named, pid);
  if (symbol.kind !== 'ifunc') return placeOfSymbol(name, { loaded, symbol });
  const chosen = implementationOf(pid, name.text, { loaded, symbol }, modules);
  const place = placeOfSymbol(name, { loaded, symbol: chosen });
  return { ...place, names: [...place.names, symbol.name] };
}

/**
 * Resolves a place in a live process.
 * @throws {FsError} EINVAL, ENOENT, ENOTUNIQ, EOPNOTSUPP (ifunc, no extent), ESRCH
 */
export async function resolvePlace(pid: Pid, text: string): Promise<Place> {
  return (
    (await findPlace(pid, text)) ??
    fail('ENOENT', `${text}: no such module in process ${pid} (see modules)`)
  );
}

/** Functions of exactly this name, of all modules. */
function plainPlaces(modules: LoadedModule[], name: string): Place[] {
  return collect(modules, (table) => table.find(name))
    .filter(({ symbol }) => symbol.kind === 'function')
    .map((candidate) => placeOfSymbol(parsePlace(name), candidate));
}

/** The loader's hooks for debuggers: called when modules were mapped, before their code runs. */
export async function loaderHooks(pid: Pid): Promise<Place[]> {
  return plainPlaces(await loadModules(pid), '_dl_debug_state');
}

/**
 * Entry points of the C++ and C unwinder in a process: where return addresses are put right before
 * anybody walks the stack.
 */
export async function unwinderEntries(pid: Pid): Promise<Place[]> {
  const names = [
    '_Unwind_RaiseException',
    '_Unwind_Resume',
    '_Unwind_Resume_or_Rethrow',
    '_Unwind_ForcedUnwind',
    '_Unwind_Backtrace',
  ];
  const modules = await loadModules(pid);
  return names.flatMap((name) => plainPlaces(modules, name));
}

/** Instruction bytes of `mov $13, %eax; syscall`: rt_sigaction. */
const RT_SIGACTION = Buffer.from([0xb8, 0x0d, 0, 0, 0, 0x0f, 0x05]);

/**
 * The places where a process makes the rt_sigaction system call, as far as they look like libc's.
 * A match in the middle of another instruction is refused later, when the function is decoded.
 */
export async function sigactionSites(pid: Pid): Promise<Place[]> {
  const places: Place[] = [];
  for (const loaded of await loadModules(pid)) {
    for (const mapping of loaded.module.mappings) {
      if (mapping.perms[2] !== 'x') continue;
      const size = Number(mapping.end - mapping.start);
      // Programs that large take system calls through libc.
      if (size > SYSCALL_SCAN_MAX_BYTES) continue;
      const bytes = native.targetReadMemory(pid, mapping.start, size);
      for (
        let at = bytes.indexOf(RT_SIGACTION);
        at >= 0;
        at = bytes.indexOf(RT_SIGACTION, at + 1)
      ) {
        const name = parsePlace(`0x${(mapping.start + BigInt(at)).toString(16)}`);
        places.push(placeOfAddress(name, [loaded]));
      }
    }
  }
  return places;
}
