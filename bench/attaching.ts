// What attaching costs: entering a process, the stop of its threads, the time of a `cp`.
import { execFile } from 'node:child_process';
import { closeSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { type Bench, built, type LineProcess } from './bench.js';
import type { Measured } from './stats.js';

const FRESH_TARGETS = 15;
const CHANGES = 21;
const WARM_UP = 2;
const NS_PER_US = 1000;
const OBJECT = built('entry-empty.bpf.o');

const run = promisify(execFile);

/** A number from a file of `key value` lines. */
function figure(path: string, key: string): number {
  const line = new RegExp(`^${key}\\s+(\\d+)$`, 'm').exec(readFileSync(path, 'utf8'));
  if (!line) throw new Error(`${path}: no ${key}`);
  return Number(line[1]);
}

/** Microseconds of open, write and close by this process: what `cp` does without its own start. */
function timedWrite(path: string, bytes: Buffer): number {
  const start = process.hrtime.bigint();
  const fd = openSync(path, 'w');
  writeSync(fd, bytes);
  closeSync(fd);
  return Number(process.hrtime.bigint() - start) / NS_PER_US;
}

/** Calls `sample` with targets that nobody has entered; the first ones only warm the daemon. */
async function overFreshTargets(
  bench: Bench,
  sample: (target: LineProcess) => Promise<number>,
): Promise<Measured> {
  const samples: number[] = [];
  for (let i = -WARM_UP; i < FRESH_TARGETS; i++) {
    const target = await bench.start('target', ['-1']);
    const value = await sample(target);
    await target.end();
    if (i >= 0) samples.push(value);
  }
  return { samples };
}

/** Wall time of entering: from the first stop to the agent being mapped and ready. */
export const enterTime = (bench: Bench): Promise<Measured> =>
  overFreshTargets(bench, async ({ pid }) => {
    timedWrite(await bench.proc(pid, 'uprobe', 'f_push'), readFileSync(OBJECT));
    return figure(await bench.proc(pid, 'info'), 'enter_ns') / NS_PER_US;
  });

/** From open to the return of close, when the probe is armed; the process was not entered before. */
export const firstCopy = (bench: Bench): Promise<Measured> =>
  overFreshTargets(bench, async ({ pid }) =>
    timedWrite(await bench.proc(pid, 'uprobe', 'f_push'), readFileSync(OBJECT)),
  );

/** Runs `change` on a process that stays entered because another function keeps its probe. */
async function overChanges(
  bench: Bench,
  threads: number,
  change: (pid: number, file: string) => Promise<number>,
): Promise<Measured> {
  const target = await bench.start('target', ['-1']);
  if (threads > 1) await target.ask(`threads ${threads - 1}`);
  const { pid } = target;
  timedWrite(await bench.proc(pid, 'uprobe', 'f_nop5'), readFileSync(OBJECT));
  const file = await bench.proc(pid, 'uprobe', 'f_push');
  const samples: number[] = [];
  for (let i = -WARM_UP; i < CHANGES; i++) {
    const value = await change(pid, file);
    if (i >= 0) samples.push(value);
  }
  await target.end();
  return { samples };
}

/** The same `cp` onto one more function of a process that is entered. */
export const furtherCopy = (bench: Bench): Promise<Measured> =>
  overChanges(bench, 1, async (_pid, file) => {
    const us = timedWrite(file, readFileSync(OBJECT));
    unlinkSync(file);
    return us;
  });

/** The command `cp` itself, with its start and end. */
export const copyCommand = (bench: Bench): Promise<Measured> =>
  overChanges(bench, 1, async (_pid, file) => {
    const start = process.hrtime.bigint();
    await run('cp', [OBJECT, file]);
    const us = Number(process.hrtime.bigint() - start) / NS_PER_US;
    unlinkSync(file);
    return us;
  });

/** How long all threads stood still for one attach or detach. */
export const pauseTime = (threads: number, which: 'attach' | 'detach') => (bench: Bench) =>
  overChanges(bench, threads, async (pid, file) => {
    const total = async () => figure(await bench.proc(pid, 'info'), 'pause_ns_total');
    const before = await total();
    timedWrite(file, readFileSync(OBJECT));
    const between = await total();
    unlinkSync(file);
    const after = await total();
    return (which === 'attach' ? between - before : after - between) / NS_PER_US;
  });

/** The floor under a pause: the same threads stopped by a program that does nothing else. */
export const bareStop = (threads: number) => async (bench: Bench) => {
  const stopper = await bench.start('ptrace-stop', []);
  const measured = await overChanges(bench, threads, async (pid) =>
    Number(await stopper.ask(`stop ${pid}`)),
  );
  await stopper.end();
  return measured;
};
