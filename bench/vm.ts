// Programs without helpers on three engines: the kernel's, ours, native code. bench/vm-speed.c does
// the work, all of it in one run: engines take turns, so that what disturbs one disturbs all.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { built } from './bench.js';
import { type Measured, median, Unavailable } from './stats.js';

const run = promisify(execFile);

/** Who runs a program. */
export type Engine = 'kernel' | 'ours' | 'native';

/** What is run, and what it is. */
export const vmPrograms = {
  log2: 'binary logarithm of 256 words',
  prime: 'primes below 600, by division of 64-bit numbers',
  memcpy: '1 KB, byte by byte',
  strcmp: 'two equal texts of 1 KB',
  checksum: 'IP checksum of 2 KB',
  fnv: 'FNV-1a of 1 KB',
  jhash: 'a hash of 2 KB with rotations',
  choose: 'a switch of 16 cases, 128 times',
} as const;

/** One of them. */
export type VmProgram = keyof typeof vmPrograms;

type Samples = Map<string, number[]>;
let measured: Promise<Samples> | undefined;

async function measure(): Promise<Samples> {
  const objects = [built('vm-programs-kernel.bpf.o'), built('vm-programs.bpf.o')];
  const samples: Samples = new Map();
  let stdout: string;
  try {
    ({ stdout } = await run(built('vm-speed'), objects, { maxBuffer: 1 << 24 }));
  } catch (error) {
    if ((error as { code?: unknown }).code === 77) throw new Unavailable('needs bpf(2)');
    throw error;
  }
  for (const line of stdout.trim().split('\n')) {
    const [engine, program, ns] = line.split(' ');
    const name = `${engine} ${program}`;
    samples.set(name, [...(samples.get(name) ?? []), Number(ns)]);
  }
  return samples;
}

async function samplesOf(engine: Engine, program: string): Promise<number[]> {
  measured ??= measure();
  const samples = (await measured).get(`${engine} ${program}`) ?? [];
  if (engine !== 'kernel') return samples;
  // BPF_PROG_TEST_RUN counts its own work, too: what an empty program costs it.
  const floor = median((await measured).get('kernel floor') ?? []);
  return samples.map((ns) => ns - floor);
}

/** Nanoseconds of a run. */
export const vmTime = (engine: Engine, program: VmProgram) => async (): Promise<Measured> => ({
  samples: await samplesOf(engine, program),
});

/** Calling a program that does nothing. */
export const vmCall = (engine: Engine) => async (): Promise<Measured> => ({
  samples: await samplesOf(engine, 'simple'),
});

/** The geometric mean over all programs of how long our code is, the kernel's being 1. */
export const vmSize = async (): Promise<Measured> => {
  measured ??= measure();
  const samples = await measured;
  const bytes = (engine: Engine, program: string) => samples.get(`${engine}-bytes ${program}`)?.[0];
  const programs = Object.keys(vmPrograms);
  const logs = programs.map((name) => Math.log(bytes('ours', name)! / bytes('kernel', name)!));
  return { samples: [Math.exp(logs.reduce((sum, log) => sum + log, 0) / logs.length)] };
};

/** The geometric mean over all programs of an engine's medians, the kernel's being 1. */
export const vmMean = (engine: Engine) => async (): Promise<Measured> => {
  let logs = 0;
  const programs = Object.keys(vmPrograms) as VmProgram[];
  for (const program of programs) {
    const kernel = median(await samplesOf('kernel', program));
    logs += Math.log(median(await samplesOf(engine, program)) / kernel);
  }
  return { samples: [Math.exp(logs / programs.length)] };
};
