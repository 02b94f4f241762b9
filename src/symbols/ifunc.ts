// Where an ifunc went in a live process. Its resolver is never run: what it chose stands in the
// slots that the dynamic linker filled, the module's own (R_X86_64_IRELATIVE) and those of modules
// that bind to it by name. A slot that nobody has filled yet holds what its file says.
import { fail, refusalOf } from '../errors.js';
import { native } from '../native.js';
import { readMappings } from '../process/modules.js';
import type { Addr, Pid } from '../types.js';
import type { LoadedModule, ModuleSymbol } from './table.js';

/** An ifunc and the module that defines it. */
export interface Ifunc {
  loaded: LoadedModule;
  symbol: ModuleSymbol;
}

const SLOT_BYTES = 8;

function readSlot(pid: Pid, addr: bigint): bigint | undefined {
  try {
    return native.targetReadMemory(pid, addr as Addr, SLOT_BYTES).readBigUInt64LE();
  } catch (error) {
    // Unmapped by the process itself; others may tell.
    if (error instanceof Error && 'code' in error && error.code === 'EFAULT') return undefined;
    throw refusalOf(error, 'a slot of the dynamic linker') ?? error;
  }
}

/** Indexes of a module's slots that an ifunc's address goes into. */
function slotsOf(module: LoadedModule, { loaded, symbol }: Ifunc): number[] {
  const { slotResolvers, slotNames, names } = module.table.elf;
  const wanted = Buffer.from(`${symbol.name}\0`);
  const found: number[] = [];
  for (let i = 0; i < slotNames.length; i++) {
    const resolver = slotResolvers[i]!;
    const at = slotNames[i]!;
    const isIt =
      resolver === 0n
        ? at + wanted.length <= names.length &&
          names.compare(wanted, 0, wanted.length, at, at + wanted.length) === 0
        : module === loaded && resolver === symbol.vaddr;
    if (isIt) found.push(i);
  }
  return found;
}

/** What a module's slots for an ifunc hold, without those that are not filled yet. */
function boundIn(pid: Pid, module: LoadedModule, ifunc: Ifunc): bigint[] {
  const { bias } = module;
  const { slotAddrs, slotInitials } = module.table.elf;
  const resolver = ifunc.loaded.bias + ifunc.symbol.vaddr;
  return slotsOf(module, ifunc).flatMap((i) => {
    const value = readSlot(pid, bias + slotAddrs[i]!);
    const initial = slotInitials[i]!;
    // Before the first call a slot leads back into the module's own stub.
    const isUnbound = value === initial || value === initial + bias || value === resolver;
    return value === undefined || isUnbound ? [] : [value];
  });
}

const isCodeOf = ({ module }: LoadedModule, addr: bigint) =>
  module.mappings.some((m) => addr >= m.start && addr < m.end && m.perms[2] === 'x');

const isInVdso = (pid: Pid, addr: bigint) =>
  readMappings(pid).some((m) => m.path === '[vdso]' && addr >= m.start && addr < m.end);

function nameOf({ module, table, bias }: LoadedModule, addr: bigint): string {
  const name = table.startingAt(addr - bias)?.name;
  return `${module.name}:${name || `0x${(addr - bias).toString(16)}`}`;
}

/**
 * The function that an ifunc's callers get in a live process.
 * @throws {FsError} EOPNOTSUPP (not chosen yet, in the vDSO, no extent), ENOTUNIQ
 */
export function implementationOf(
  pid: Pid,
  text: string,
  ifunc: Ifunc,
  modules: readonly LoadedModule[],
): ModuleSymbol {
  const { loaded, symbol } = ifunc;
  const bound = modules.flatMap((module) => boundIn(pid, module, ifunc));
  // Others are another library's function of that name, or a table that somebody has patched.
  const chosen = [...new Set(bound.filter((addr) => isCodeOf(loaded, addr)))];
  if (chosen.length > 1) {
    const list = chosen.map((addr) => nameOf(loaded, addr)).join(' ');
    fail('ENOTUNIQ', `${text}: an ifunc with ${chosen.length} implementations in use: ${list}`);
  }
  const [addr] = chosen;
  if (addr === undefined) {
    if (bound.some((one) => isInVdso(pid, one))) {
      fail(
        'EOPNOTSUPP',
        `${text}: an ifunc whose implementation is the kernel's, in the vDSO (probe its callers)`,
      );
    }
    return fail(
      'EOPNOTSUPP',
      `${text}: an ifunc whose implementation has not been chosen yet: nothing in process ${pid} has called it by that name (name an implementation, see symbols/${loaded.module.name})`,
    );
  }
  const found = loaded.table.startingAt(addr - loaded.bias);
  if (found?.kind !== 'function') {
    return fail(
      'EOPNOTSUPP',
      `${text}: an ifunc whose implementation, ${nameOf(loaded, addr)}, has no symbol and no unwind entry, so its extent is unknown (install the debug symbols of ${loaded.module.name})`,
    );
  }
  return found.name === '' ? { ...found, name: symbol.name } : found;
}
