// Operations on maps from programs, in the kernel and here: bench/bpf/vm-maps.bpf.c does one 64
// times a run. A sample is a process, and what the loop alone takes is off.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { built } from './bench.js';
import { type Measured, Unavailable } from './stats.js';

const run = promisify(execFile);
const OPERATIONS = 64;
const SAMPLES = 5;
const REPEAT = 20_000;
const main = fileURLToPath(new URL('../src/main.js', import.meta.url));

/** A program of the object, and what it does. */
export const mapPrograms = {
  array_lookup: 'a value of an array is looked up and read',
  percpu_lookup: 'a value of a per-CPU array is looked up and read',
  hash_lookup: 'a key of 4 bytes is looked up in a hash map that has it, and its value read',
  hash_update: 'a value of a hash map is replaced',
  lru_update: 'a new key is put into a full LRU hash map',
  helper: 'bpf_get_current_pid_tgid() is called',
} as const;

/** One of them. */
export type MapProgram = keyof typeof mapPrograms;

async function kernelSample(): Promise<Map<string, number>> {
  const args = [built('vm-maps-kernel.bpf.o'), `${REPEAT}`];
  try {
    const { stdout } = await run(built('vm-maps-kernel'), args);
    const lines = stdout.trim().split('\n');
    return new Map(lines.map((line) => [line.split(' ')[0]!, Number(line.split(' ')[1])]));
  } catch (error) {
    if ((error as { code?: unknown }).code === 77) throw new Unavailable('needs bpf(2)');
    throw error;
  }
}

/** Nanoseconds of one run of a program here. */
async function ourTime(program: string): Promise<number> {
  const args = [main, 'vm', 'run', built('vm-maps.bpf.o'), '--program', program];
  const { stdout } = await run(process.execPath, [...args, '--repeat', `${REPEAT}`]);
  return Number(/([\d.]+) ns per run/.exec(stdout)?.[1]);
}

const kernelSamples: Promise<Map<string, number>>[] = [];

/** Nanoseconds of one operation. */
export const mapTime =
  (engine: 'kernel' | 'ours', program: MapProgram) => async (): Promise<Measured> => {
    const samples: number[] = [];
    for (let i = 0; i < SAMPLES; i += 1) {
      if (engine === 'kernel') {
        kernelSamples[i] ??= kernelSample();
        const times = await kernelSamples[i]!;
        samples.push((times.get(program)! - times.get('loop')!) / OPERATIONS);
      } else {
        samples.push(((await ourTime(program)) - (await ourTime('loop'))) / OPERATIONS);
      }
    }
    return { samples };
  };

/** Microseconds that compiling 100 instructions takes. */
export const compileTime = async (): Promise<Measured> => {
  const { stdout } = await run(built('vm-compile'));
  return { samples: stdout.trim().split('\n').map(Number) };
};
