// Where a process changes signal masks: found once for each file, because modules that are mapped
// from it have their code at the same places.
import { MASK_SCAN_MAX_BYTES } from '../config.js';
import { native } from '../native.js';
import type { MaskSite } from '../native-symbols.js';
import type { Pid } from '../types.js';
import { loadModules } from './resolve.js';
import type { LoadedModule, SymbolTable } from './table.js';

/** A place in front of a system call through which a mask may change. */
export type { MaskSite };

/** Of each file; undefined: it changes masks in a way that cannot be seen. */
const known = new WeakMap<SymbolTable, Promise<MaskSite[] | undefined>>();

/** `mov $14, %reg` or `push $14` in front of a call that no function is known around. */
const loadsNumber = (bytes: Buffer) =>
  bytes.some(
    (byte, i) =>
      (byte >= 0xb8 && byte <= 0xbf && i + 5 <= bytes.length && bytes.readUInt32LE(i + 1) === 14) ||
      (byte === 0x6a && bytes[i + 1] === 14),
  );
const LOOK_BACK_BYTES = 64;

/** The functions around some addresses; undefined when one of them may change masks unseen. */
function functionsAround(pid: Pid, loaded: LoadedModule, calls: Iterable<bigint>) {
  const found = new Map<bigint, number>();
  for (const call of calls) {
    const vaddr = call - loaded.bias;
    const symbol = loaded.table.containing(vaddr);
    // Go has signal handlers, stacks and masks of its own.
    if (symbol?.isGo) return undefined;
    const around = symbol ?? loaded.table.extentAround(vaddr);
    if (around) {
      found.set(loaded.bias + around.vaddr, around.size);
      continue;
    }
    const start = call - BigInt(LOOK_BACK_BYTES);
    if (loadsNumber(native.targetReadMemory(pid, start, LOOK_BACK_BYTES))) return undefined;
  }
  return found;
}

async function findSites(
  pid: Pid,
  session: number,
  loaded: LoadedModule,
): Promise<MaskSite[] | undefined> {
  const sites: MaskSite[] = [];
  for (const { start, end, perms } of loaded.module.mappings) {
    if (perms[2] !== 'x') continue;
    if (end - start > BigInt(MASK_SCAN_MAX_BYTES)) return undefined;
    const calls = await native.targetSyscallBytes(session, start, end);
    const functions = functionsAround(pid, loaded, calls);
    if (!functions) return undefined;
    const addrs = BigUint64Array.from(functions.keys());
    const sizes = Uint32Array.from(functions.values());
    try {
      sites.push(...(await native.targetMaskSites(session, addrs, sizes)));
    } catch {
      return undefined;
    }
  }
  // As linked: the next process has the module elsewhere.
  return sites.map((site) => ({
    ...site,
    addr: site.addr - loaded.bias,
    functionAddr: site.functionAddr - loaded.bias,
  }));
}

/** A process' sites, and which modules they are of; no sites: masks cannot be followed. */
export async function maskSites(
  pid: Pid,
  session: number,
): Promise<{ modules: string; sites: MaskSite[] | undefined }> {
  const loaded = await loadModules(pid);
  const modules = loaded.map(({ module, bias }) => `${module.path} ${bias}`).join('\n');
  const all: MaskSite[] = [];
  for (const one of loaded) {
    const sites = known.get(one.table) ?? findSites(pid, session, one);
    known.set(one.table, sites);
    const found = await sites.catch(() => undefined);
    if (!found) return { modules, sites: undefined };
    const { bias } = one;
    for (const site of found) {
      all.push({ ...site, addr: site.addr + bias, functionAddr: site.functionAddr + bias });
    }
  }
  return { modules, sites: all };
}
