// The executable and libraries of a process, from /proc/<pid>/maps. Parsing is pure.
import { accessSync, constants, readFileSync } from 'node:fs';
import { fail } from '../errors.js';
import type { Addr, Pid } from '../types.js';
import { procOf } from './identity.js';

/** One line of /proc/<pid>/maps. */
export interface Mapping {
  start: bigint;
  end: bigint;
  perms: string;
  fileOff: bigint;
  dev: string;
  inode: number;
  path: string;
}

/** A mapped file that contains code. */
export interface Module {
  /** Path as the process sees it, without ` (deleted)`. */
  path: string;
  /** Last component, what `module:symbol` matches. */
  name: string;
  deleted: boolean;
  inode: number;
  dev: string;
  mappings: Mapping[];
}

/** Our own code in a process is no module of it. */
const OWN_MAPPING = '/memfd:bpftime';

const LINE = /^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+)\s*(.*)$/;

/** Parses the text of a maps file; lines that do not look right are left out. */
export function parseMaps(text: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const line of text.split('\n')) {
    const m = LINE.exec(line);
    if (!m) continue;
    mappings.push({
      start: BigInt(`0x${m[1]}`),
      end: BigInt(`0x${m[2]}`),
      perms: m[3]!,
      fileOff: BigInt(`0x${m[4]}`),
      dev: m[5]!,
      inode: Number(m[6]),
      path: m[7]!,
    });
  }
  return mappings;
}

/** Groups file mappings into modules, in address order; only files with executable parts. */
export function groupModules(mappings: readonly Mapping[]): Module[] {
  const modules = new Map<string, Module>();
  for (const mapping of mappings) {
    if (mapping.inode === 0 || !mapping.path.startsWith('/')) continue;
    if (mapping.path.startsWith(OWN_MAPPING)) continue;
    const deleted = mapping.path.endsWith(' (deleted)');
    const path = deleted ? mapping.path.slice(0, -' (deleted)'.length) : mapping.path;
    const key = `${mapping.dev}:${mapping.inode}:${path}`;
    const known = modules.get(key);
    if (known) known.mappings.push(mapping);
    else {
      const name = path.slice(path.lastIndexOf('/') + 1);
      const { inode, dev } = mapping;
      modules.set(key, { path, name, deleted, inode, dev, mappings: [mapping] });
    }
  }
  return [...modules.values()].filter((m) => m.mappings.some((part) => part.perms[2] === 'x'));
}

/**
 * All mappings of a live process.
 * @throws {FsError} ESRCH if it is gone, EOPNOTSUPP if it has no user memory
 */
export function readMappings(pid: Pid): Mapping[] {
  let text: string;
  try {
    text = readFileSync(`${procOf(pid)}/maps`, 'utf8');
  } catch (error) {
    const denied = error instanceof Error && 'code' in error && error.code === 'EACCES';
    return denied
      ? fail('EACCES', `${pid}: its memory map may not be read (be its user, or root)`)
      : fail('ESRCH', `${pid}: no such process`);
  }
  if (text === '')
    fail('EOPNOTSUPP', `${pid}: it has no user memory (a kernel thread or a zombie)`);
  return parseMaps(text);
}

/**
 * The modules of a live process.
 * @throws {FsError} ESRCH if it is gone, EOPNOTSUPP if it has no user memory
 */
export function readModules(pid: Pid): Module[] {
  return groupModules(readMappings(pid));
}

/**
 * Path under which the daemon can open a module's file. map_files leads to the mapped file itself,
 * whatever mounts, roots and renames lie between it and us, but only privileged daemons may follow
 * it; others go through the process' root, where the name may mean another file by now.
 */
export function modulePathForUs(pid: Pid, module: Module): string {
  const first = module.mappings[0]!;
  const range = `${first.start.toString(16)}-${first.end.toString(16)}`;
  const dir = procOf(pid);
  const exact = `${dir}/map_files/${range}`;
  try {
    accessSync(exact, constants.R_OK);
    return exact;
  } catch {
    return `${dir}/root${module.path}`;
  }
}

/** Difference between run-time and link-time addresses of a module. */
export function loadBias(
  module: Module,
  segments: readonly { vaddr: bigint; fileOff: bigint; fileSize: bigint; exec: boolean }[],
): Addr {
  for (const mapping of module.mappings) {
    if (mapping.perms[2] !== 'x') continue;
    for (const segment of segments) {
      const end = segment.fileOff + segment.fileSize;
      const pageOff = segment.fileOff & ~0xfffn;
      if (!segment.exec || mapping.fileOff < pageOff || mapping.fileOff >= end) continue;
      return (mapping.start - mapping.fileOff - (segment.vaddr - segment.fileOff)) as Addr;
    }
  }
  return 0n as Addr;
}
