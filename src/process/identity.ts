// Which process a pid is right now: read from /proc, compared later to notice reuse and exec.
import { readFileSync, readlinkSync } from 'node:fs';
import { fail } from '../errors.js';
import type { Pid } from '../types.js';

/** What distinguishes one life of a pid from the next. */
export interface Identity {
  pid: Pid;
  /** Clock ticks since boot, field 22 of /proc/<pid>/stat. */
  startTime: bigint;
}

/** Fields that `info` shows. */
export interface ProcessFacts extends Identity {
  comm: string;
  /** Path of the executable as the process sees it; empty for kernel threads. */
  exe: string;
  uid: number;
  gid: number;
  threads: number;
  /** Pid of a tracer, 0 for none. */
  tracer: number;
  seccomp: number;
  isKernelThread: boolean;
  isZombie: boolean;
}

function readProc(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return fail('ESRCH', `${pid}: no such process`);
  }
}

function startTimeOf(stat: string): bigint {
  // The command may contain anything; fields after it start behind the last ')'.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return BigInt(fields[19] ?? '0');
}

function readExe(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return '';
  }
}

/**
 * Reads a process.
 * @throws {FsError} ESRCH if there is none
 */
export function readFacts(pid: Pid): ProcessFacts {
  const stat = readProc(pid, 'stat');
  const status = readProc(pid, 'status');
  const field = (name: string) => status.match(new RegExp(`^${name}:\\s*(.*)$`, 'm'))?.[1] ?? '';
  const state = field('State')[0] ?? '';
  return {
    pid,
    startTime: startTimeOf(stat),
    comm: field('Name'),
    exe: readExe(pid),
    uid: Number(field('Uid').split('\t')[0] ?? 0),
    gid: Number(field('Gid').split('\t')[0] ?? 0),
    threads: Number(field('Threads') || 0),
    tracer: Number(field('TracerPid') || 0),
    seccomp: Number(field('Seccomp') || 0),
    isKernelThread: field('Kthread') === '1' || field('VmSize') === '',
    isZombie: state === 'Z' || state === 'X',
  };
}
