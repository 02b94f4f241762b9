// Which process a pid is right now: read from /proc, compared later to notice reuse and exec.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
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

const hasEnded = (status: string) => /^State:\s+[ZX]/m.test(status);

/**
 * A process' directory in /proc. Where its first thread has ended before the others, which hides
 * what is about its memory, that of another thread.
 */
export function procOf(pid: Pid): string {
  const first = `/proc/${pid}`;
  try {
    if (!hasEnded(readFileSync(`${first}/status`, 'latin1'))) return first;
    for (const tid of readdirSync(`${first}/task`)) {
      if (!hasEnded(readFileSync(`/proc/${tid}/status`, 'latin1'))) return `/proc/${tid}`;
    }
  } catch {
    // Whoever reads there finds out what is the matter.
  }
  return first;
}

function readProc(pid: Pid, dir: string, name: string): string {
  try {
    return readFileSync(`${dir}/${name}`, 'utf8');
  } catch {
    return fail('ESRCH', `${pid}: no such process`);
  }
}

function startTimeOf(stat: string): bigint {
  // The command may contain anything; fields after it start behind the last ')'.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return BigInt(fields[19] ?? '0');
}

function readExe(dir: string): string {
  try {
    return readlinkSync(`${dir}/exe`);
  } catch {
    return '';
  }
}

/**
 * Reads a process.
 * @throws {FsError} ESRCH if there is none
 */
export function readFacts(pid: Pid): ProcessFacts {
  const dir = procOf(pid);
  const stat = readProc(pid, `/proc/${pid}`, 'stat');
  const status = readProc(pid, dir, 'status');
  const field = (name: string) => status.match(new RegExp(`^${name}:\\s*(.*)$`, 'm'))?.[1] ?? '';
  const state = field('State')[0] ?? '';
  return {
    pid,
    startTime: startTimeOf(stat),
    comm: stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')')),
    exe: readExe(dir),
    uid: Number(field('Uid').split('\t')[0] ?? 0),
    gid: Number(field('Gid').split('\t')[0] ?? 0),
    threads: Number(field('Threads') || 0),
    tracer: Number(field('TracerPid') || 0),
    seccomp: Number(field('Seccomp') || 0),
    isKernelThread: field('Kthread') === '1' || field('VmSize') === '',
    isZombie: state === 'Z' || state === 'X',
  };
}
