// Modules that are named but not mapped: which of them may come, so that one waits for them, and
// which are mistakes. A name that can only be a typing error is refused while somebody listens.
import { stat } from 'node:fs/promises';
import { fail } from '../errors.js';
import { procOf } from '../process/identity.js';
import type { Module } from '../process/modules.js';
import type { Pid } from '../types.js';
import type { PlaceName } from './name.js';
import type { SymbolTable } from './table.js';

/** libfoo, libfoo.so.1, plugin.so, /opt/app/plugin.so. */
export function isLibraryName(name: string): boolean {
  return name.startsWith('/') || /^lib./.test(name) || /\.so(\.|$)/.test(name);
}

/** The file that a path names in the process' own root. */
const inRootOf = (pid: Pid, path: string) => `${procOf(pid)}/root${path}`;

/**
 * The mapped module that is the file a path leads to; libraries are often named by a link.
 * @throws {FsError} ENOENT there is no such file
 */
export async function moduleOfPath<T extends { module: Module }>(
  pid: Pid,
  path: string,
  modules: readonly T[],
): Promise<T | undefined> {
  const file = await stat(inRootOf(pid, path), { bigint: true }).catch(() => undefined);
  if (!file) return fail('ENOENT', `${path}: no such file in process ${pid}'s root`);
  return modules.find(({ module }) => BigInt(module.inode) === file.ino);
}

/**
 * Judges a place whose module is not mapped.
 * @param readTable reads the symbols of a file that a path names; undefined when it is no ELF file
 * @throws {FsError} ENOENT it cannot come: no library's name, or its file has no such function
 */
export async function requireAwaitable(
  pid: Pid,
  name: PlaceName,
  mapped: string,
  readTable: (path: string) => Promise<SymbolTable | undefined>,
): Promise<void> {
  const module = name.module ?? '';
  if (!isLibraryName(module)) {
    fail(
      'ENOENT',
      `${name.text}: no module ${module} in process ${pid} (${mapped} are mapped; a library to come is named like libfoo.so)`,
    );
  }
  if (!module.startsWith('/')) return;
  const table = await readTable(inRootOf(pid, module));
  if (!table) fail('ENOENT', `${name.text}: ${module} is not readable as x86-64 ELF`);
  if (name.symbol !== undefined && table!.find(name.symbol).length === 0) {
    const near = table!.near(name.symbol);
    const hint = near.length > 0 ? ` (did you mean ${near.join(', ')})` : '';
    fail('ENOENT', `${name.text}: no such function in ${module}, which is not loaded yet${hint}`);
  }
}
