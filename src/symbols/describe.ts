// What stands at an address of a live process, in the words of profilers:
// `0x7f52c0a1e5f4 write+0x14 (libc.so.6+0xf75f4)`; the offset of a module counts as its file is
// linked, as addr2line(1) wants it. What nothing is known of stays a number.
import { readModules } from '../process/modules.js';
import type { DescribeAddress, Pid } from '../types.js';
import { loadModule } from './resolve.js';
import type { LoadedModule } from './table.js';

const hex = (value: bigint) => `0x${value.toString(16)}`;

/** The modules that some addresses are in. */
async function modulesAt(pid: Pid, addrs: ReadonlySet<bigint>): Promise<LoadedModule[]> {
  const holds = (start: bigint, end: bigint) =>
    [...addrs].some((addr) => addr >= start && addr < end);
  const wanted = readModules(pid).filter(({ mappings }) =>
    mappings.some(({ start, end, perms }) => perms[2] === 'x' && holds(start, end)),
  );
  const loaded = await Promise.all(wanted.map((module) => loadModule(pid, module)));
  return loaded.filter((module) => module !== undefined);
}

/**
 * Words for addresses as they are now; a process that is gone has none.
 * @param addrs all that will be asked for
 */
export async function describeAddresses(
  pid: Pid,
  addrs: ReadonlySet<bigint>,
): Promise<DescribeAddress> {
  const modules = addrs.size === 0 ? [] : await modulesAt(pid, addrs).catch(() => []);
  return (addr, isReturn) => {
    const at = modules.find(({ module }) =>
      module.mappings.some(({ start, end }) => addr >= start && addr < end),
    );
    if (!at) return hex(addr);
    const vaddr = addr - at.bias;
    // A call that never returns may end its function.
    const around = at.table.containing(isReturn ? vaddr - 1n : vaddr);
    const name = around ? ` ${around.name}+${hex(vaddr - around.vaddr)}` : '';
    return `${hex(addr)}${name} (${at.module.name}+${hex(vaddr)})`;
  };
}
