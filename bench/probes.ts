// Cost of a probe per call: rounds of the bare function and the probed one, alternating, in a
// pinned process that reads its own CPU clock. A round's figure is the median of its batches.
import { copyFileSync, readdirSync, readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { type Bench, built, type LineProcess } from './bench.js';
import { type Measured, Unavailable } from './stats.js';

const ROUNDS = 21;
const BATCHES = 31;
const BATCH_NS = 200_000;
const SETTLE_MS = 3000;

/** Which function is timed, with which object (build/bench/NAME.bpf.o). */
export interface ProbeSpec {
  object: string;
  fn: string;
  /** Where the object goes; uprobe/ unless said. */
  dir?: 'replace';
  /** The functions that are probed, when it is not the timed one itself. */
  sites?: readonly string[];
  /** By how much the difference is divided; by the number of sites unless said. */
  parts?: number;
  /** Threads that call it at the same time, each on a core of its own. */
  threads?: 1 | 2;
  /** Whose function it is; `target` unless said. */
  program?: string;
}

/** Attaches, and returns what detaches again and tells about lost records. */
type Attach = (bench: Bench, spec: ProbeSpec) => Promise<() => Promise<number>>;

/** Nanoseconds of CPU time per call; of two threads, the slower one's. */
export async function nsPerCall(target: LineProcess, fn: string, threads = 1): Promise<number> {
  const verb = threads === 1 ? 'time' : 'pair';
  const answer = await target.ask(`${verb} ${fn} ${BATCHES} ${BATCH_NS}`);
  const ns = Number(answer.split(' ')[0]);
  if (!(ns > 0)) throw new Error(`target: ${answer}`);
  return ns;
}

/** The bare call. */
export async function callDirect(bench: Bench): Promise<Measured> {
  const target = await bench.target();
  const samples: number[] = [];
  for (let i = 0; i < ROUNDS; i++) samples.push(await nsPerCall(target, 'f_push'));
  return { samples };
}

async function probedMinusBare(bench: Bench, spec: ProbeSpec, attach: Attach): Promise<Measured> {
  const target = await bench.target(spec.program);
  const samples: number[] = [];
  const absolutes: number[] = [];
  const { fn, sites = [fn], threads, parts = sites.length } = spec;
  let lost = 0;
  for (let i = 0; i < ROUNDS; i++) {
    const bare = await nsPerCall(target, fn, threads);
    const detach = await attach(bench, spec);
    const probed = await nsPerCall(target, fn, threads);
    lost += await detach();
    samples.push((probed - bare) / parts);
    absolutes.push(probed);
  }
  return lost > 0
    ? { samples, absolutes, note: `${lost} records found no room` }
    : { samples, absolutes };
}

/** First number of the object's .bss, as our mount shows it; 0 when it has none. */
export function lostRecords(mapsDir: string): number {
  const bss = readdirSync(mapsDir).find((name) => name.endsWith('.bss'));
  if (!bss) return 0;
  return Number(/"lost":\s*(\d+)/.exec(readFileSync(`${mapsDir}/${bss}/entries`, 'utf8'))?.[1]);
}

/** A probe that never ran would look very fast. */
function checkHits(list: string): void {
  const [header = '', ...rows] = readFileSync(list, 'utf8').trimEnd().split('\n');
  const column = header.split(/\s+/).indexOf('hits');
  const hits = rows.map((row) => Number(row.split(/\s+/)[column]));
  if (hits.length === 0 || !hits.every((one) => one > BATCHES)) throw new Error(`hits: ${hits}`);
}

/** Programs that read memory ask the kernel each time for some 100 ms, then no more. */
export async function readsSettle(info: string): Promise<void> {
  const end = Date.now() + SETTLE_MS;
  while (/^reads guarded$/m.test(readFileSync(info, 'utf8')) && Date.now() < end) {
    await new Promise((done) => setTimeout(done, 5));
  }
}

const attachCopy: Attach = async (bench, spec) => {
  const { pid } = await bench.target(spec.program);
  const { fn, sites = [fn] } = spec;
  const dir = await bench.proc(pid, spec.dir ?? 'uprobe');
  const maps = await bench.proc(pid, 'maps');
  for (const site of sites) copyFileSync(built(`${spec.object}.bpf.o`), `${dir}/${site}`);
  return async () => {
    const lost = lostRecords(maps);
    for (const site of sites) unlinkSync(`${dir}/${site}`);
    return lost;
  };
};

const attachOurs: Attach = async (bench, spec) => {
  const detach = await attachCopy(bench, spec);
  const { pid } = await bench.target(spec.program);
  const list = await bench.proc(pid, 'hooks', 'list');
  await readsSettle(await bench.proc(pid, 'info'));
  return async () => {
    checkHits(list);
    return await detach();
  };
};

const attachDisabled: Attach = async (bench, spec) => {
  const detach = await attachCopy(bench, spec);
  const { pid } = await bench.target(spec.program);
  const byId = await bench.proc(pid, 'hooks', 'by-id');
  for (const id of readdirSync(byId).filter((name) => /^\d+$/.test(name))) {
    writeFileSync(`${byId}/${id}/enabled`, '0\n');
  }
  return detach;
};

const attachKernel: Attach = async (bench, spec) => {
  const kernel = await bench.kernel();
  const site = spec.sites?.[0] ?? spec.fn;
  const answer = await kernel.ask(`attach ${built(`${spec.object}.bpf.o`)} ${site}`);
  if (answer !== 'ok') throw new Unavailable(`the kernel's probe was refused: ${answer}`);
  return async () => Number((await kernel.ask('detach')).split(' ')[1]);
};

/** Our probe. */
export const ourProbe = (spec: ProbeSpec) => (bench: Bench) =>
  probedMinusBare(bench, spec, attachOurs);

/** Our probe, attached and switched off. */
export const disabledProbe = (spec: ProbeSpec) => (bench: Bench) =>
  probedMinusBare(bench, spec, attachDisabled);

/** The kernel's uprobe or uretprobe with the same object, as its section says. */
export const kernelProbe = (spec: ProbeSpec) => async (bench: Bench) => {
  if (process.getuid?.() !== 0) throw new Unavailable("the kernel's uprobes need root");
  return await probedMinusBare(bench, spec, attachKernel);
};
