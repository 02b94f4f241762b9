// What probes cost whole applications: rounds without a probe and with one alternate, and a sample
// is one probed round beside the mean of the bare rounds before and after it.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { copyFileSync, readFileSync, unlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bench, built } from './bench.js';
import { lostRecords, nsPerCall, readsSettle } from './probes.js';
import { type Round, type Server, startNginx, startRedis } from './servers.js';
import { type Measured, median, Unavailable } from './stats.js';

const SERVER_ROUNDS = 5;
const WRK_SECONDS = 2;
const REDIS_REQUESTS = 1_000_000;
const MALLOC_ROUNDS = 15;
const READS_WAIT_MS = 4000;
const READS_POLL_MS = 50;

/** Who probes. */
export type Prober = 'ours' | 'kernel';

/** Attaches the object where its sections say; the result detaches and tells of lost records. */
type Attach = (pid: number, object: string) => Promise<() => Promise<string>>;

const onFirstCore = (child: ChildProcess) => {
  if (child.pid) execFileSync('taskset', ['-apc', '0', String(child.pid)], { stdio: 'ignore' });
};

const lostNote = (lost: number) => (lost > 0 ? `${lost} records found no room` : '');

function hitsOf(list: string): number[] {
  const [header = '', ...rows] = readFileSync(list, 'utf8').trimEnd().split('\n');
  const column = header.split(/\s+/).indexOf('hits');
  return rows.map((row) => Number(row.split(/\s+/)[column]));
}

/** Reads cost a system call until signal masks are followed, which begins behind the attach. */
async function readsSettled(info: string): Promise<void> {
  for (let waited = 0; waited < READS_WAIT_MS; waited += READS_POLL_MS) {
    if (!/^reads +guarded$/m.test(readFileSync(info, 'utf8'))) return;
    await sleep(READS_POLL_MS);
  }
}

/** With somebody who follows `events`, as a person who traces would. */
const attachOurs = (bench: Bench): Attach => {
  return async (pid, object) => {
    const file = await bench.proc(pid, 'hooks', `${object}.bpf.o`);
    const list = await bench.proc(pid, 'hooks', 'list');
    const events = await bench.proc(pid, 'events');
    const maps = await bench.proc(pid, 'maps');
    copyFileSync(built(`${object}.bpf.o`), file);
    await readsSettled(await bench.proc(pid, 'info'));
    const reader = spawn('taskset', ['-c', '0', 'cat', events], { stdio: 'ignore' });
    await readsSettle(await bench.proc(pid, 'info'));
    return async () => {
      const hits = hitsOf(list);
      const lost = lostRecords(maps);
      unlinkSync(file);
      const ended = new Promise((done) => reader.once('exit', done));
      reader.kill('SIGTERM');
      await ended;
      if (hits.length === 0 || hits.some((one) => one === 0)) throw new Error(`hits: ${hits}`);
      return lostNote(lost);
    };
  };
};

/** With a reader that takes the records and does nothing with them. */
const attachKernel = (bench: Bench): Attach => {
  return async (pid, object) => {
    if (process.getuid?.() !== 0) throw new Unavailable("the kernel's uprobes need root");
    const kernel = await bench.start('kernel-probe', ['-', String(pid)]);
    onFirstCore(kernel.child);
    const answer = await kernel.ask(`attach ${built(`${object}.bpf.o`)} -`);
    onFirstCore(kernel.child); // its reader, too
    if (answer !== 'ok') throw new Unavailable(`the kernel's probe was refused: ${answer}`);
    return async () => {
      const lost = Number((await kernel.ask('detach')).split(' ')[1]);
      await kernel.end();
      return lostNote(lost);
    };
  };
};

const attachOf = (bench: Bench, prober: Prober) =>
  prober === 'ours' ? attachOurs(bench) : attachKernel(bench);

interface Pairs<T> {
  bare: T[];
  probed: T[];
  note: string;
}

/** bare, probed, bare, probed, ..., bare */
async function alternate<T>(
  rounds: number,
  round: () => Promise<T>,
  attach: () => Promise<() => Promise<string>>,
): Promise<Pairs<T>> {
  const pairs: Pairs<T> = { bare: [await round()], probed: [], note: '' };
  for (let i = 0; i < rounds; i++) {
    const detach = await attach();
    pairs.probed.push(await round());
    const note = await detach();
    if (note) pairs.note = note;
    pairs.bare.push(await round());
  }
  return pairs;
}

/** Each probed figure over the mean of its neighbours. */
const ratios = (bare: number[], probed: number[]) =>
  probed.map((one, i) => one / ((bare[i]! + bare[i + 1]!) / 2));

async function serverLoss(
  bench: Bench,
  prober: Prober,
  object: string,
  start: () => Promise<Server>,
): Promise<Measured> {
  await bench.mount();
  bench.placeServers('0');
  const server = await start();
  try {
    const attach = attachOf(bench, prober);
    const pairs = await alternate(
      SERVER_ROUNDS,
      () => server.round(),
      () => attach(server.pid, object),
    );
    const rates = (rounds: Round[]) => rounds.map((one) => one.perSecond);
    const cpu = (rounds: Round[]) => median(rounds.map((one) => one.cpuUs)).toFixed(2);
    const samples = ratios(rates(pairs.bare), rates(pairs.probed)).map((one) => (1 - one) * 100);
    const note = [
      `bare ${median(rates(pairs.bare)).toFixed(0)}/s`,
      `probed ${median(rates(pairs.probed)).toFixed(0)}/s`,
      `server CPU ${cpu(pairs.bare)} -> ${cpu(pairs.probed)} us each`,
      ...(pairs.note ? [pairs.note] : []),
    ].join(', ');
    return { samples, note };
  } finally {
    await server.end();
    bench.placeServers(bench.allCpus);
  }
}

/** Percent of the requests per second that nginx with TLS loses. */
export const nginxLoss = (bodyBytes: number, prober: Prober, object: string) => (bench: Bench) =>
  serverLoss(bench, prober, object, () => startNginx(bench.cpu, bodyBytes, WRK_SECONDS));

/** Percent of the requests per second that redis loses. */
export const redisLoss = (prober: Prober, object: string) => (bench: Bench) =>
  serverLoss(bench, prober, object, () => startRedis(bench.cpu, REDIS_REQUESTS));

/** How many times as long a malloc and its free take. */
export const mallocFactor = (prober: Prober, object: string) => async (bench: Bench) => {
  const target = await bench.target();
  const attach = attachOf(bench, prober);
  const { bare, probed } = await alternate(
    MALLOC_ROUNDS,
    () => nsPerCall(target, 'malloc'),
    () => attach(target.pid, object),
  );
  const note = `pair ${median(bare).toFixed(1)} -> ${median(probed).toFixed(1)} ns`;
  return { samples: ratios(bare, probed), note };
};
