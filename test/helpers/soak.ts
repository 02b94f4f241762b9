// The soak: a process of each kind under load, and at random a probe attached, replaced, disabled,
// enabled or detached on one of them. Every minute everything is looked at: the load goes on, no
// result was wrong, nothing was refused that should not be, memory is bounded.
import { readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeHash, codeHashBecomes } from './code-hash.js';
import { eventually, type Lab, type Running } from './lab.js';
import { startNginx } from './nginx.js';

/** A probed process with its load. */
export interface Victim {
  name: string;
  pid: number;
  /** Places that take an entry and a return probe. */
  places: string[];
  /** Undefined while all is well. */
  trouble(): string | undefined;
}

/** What a soak came to. */
export interface Soaked {
  operations: number;
  /** Operations that ended with an error, by sentence; a late stop is none. */
  errors: Map<string, number>;
  late: number;
  troubles: string[];
  /** KiB at the first look, and at the last, by who. */
  memory: Map<string, [first: number, last: number]>;
  /** Victims whose code differs in the end. */
  differing: string[];
}

const KIB = /^VmRSS:\s+(\d+)/m;
const rssKib = (pid: number) =>
  Number(KIB.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);

const FILE_CODE = (range: { path: string }) => range.path.startsWith('/');

/** A generator whose sequence is told by its seed. */
export function generator(seed: number): (below: number) => number {
  let state = BigInt(seed) * 2n + 1n;
  return (below) => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffff_ffff_ffff_ffffn;
    return Number((state >> 33n) % BigInt(below));
  };
}

const server = (
  name: string,
  pid: number,
  load: Running,
  places: string[],
  bad: RegExp,
): Victim => ({
  name,
  pid,
  places,
  trouble: () => {
    if (!load.alive) return `${name}: its load ended: ${load.text.slice(-200)}`;
    return bad.exec(load.text)?.[0];
  },
});

const checker = (name: string, target: Running, places: string[]): Victim => ({
  name,
  pid: target.pid,
  places,
  trouble: () =>
    target.alive ? /WRONG.*/.exec(target.text)?.[0] : `${name} ended: ${target.text.slice(-200)}`,
});

/** Starts them all. */
export async function startVictims(lab: Lab): Promise<Victim[]> {
  const gauntlet = lab.start(lab.build('gauntlet.cc'), ['4']);
  const churner = lab.start(lab.build('churner.c'), ['2', '200']);
  for (const one of [gauntlet, churner]) await one.says(/round [1-9]/);
  const socket = join(lab.scratch, 'soak.sock');
  const redis = lab.start('redis-server', [
    ...['--port', '0', '--unixsocket', socket, '--save', '', '--dir', lab.scratch],
  ]);
  await eventually(async () => (await lab.sh(`redis-cli -s ${socket} ping`)).out === 'PONG\n');
  const benchmark = lab.start('redis-benchmark', [
    ...['-s', socket, '-q', '-l', '-n', '100000', '-c', '4', '-t', 'get,set,incr,lpush,lpop'],
  ]);
  const { port, worker } = await startNginx(lab, 'soaked\n');
  const url = `https://127.0.0.1:${port}/page.html`;
  const wrk = lab.start('wrk', ['-t1', '-c4', '-d', '2h', '--timeout', '60s', url]);
  const libc = ['malloc', 'free', 'calloc', 'getpid', 'usleep', 'write'].map(
    (one) => `libc:${one}`,
  );
  const shapes = [
    'recurse',
    'many_args',
    'big_struct',
    'thrower',
    'catcher',
    'jumper',
    'yield_value',
  ];
  return [
    checker('gauntlet', gauntlet, [...shapes, 'in_signal', 'tail_target', 'tail_caller', ...libc]),
    checker('churner', churner, ['work', ...libc, 'libc:pthread_create']),
    server('redis', redis.pid, benchmark, ['call', 'lookupKey', 'dictFind', ...libc], /error.*/i),
    server(
      'nginx',
      worker,
      wrk,
      ['SSL_read', 'SSL_write', 'SSL_do_handshake', ...libc],
      /Socket.*/,
    ),
  ];
}

/** One process with what is attached to it. */
class Subject {
  readonly victim: Victim;
  readonly hash: string;
  readonly #lab: Lab;
  readonly #attached = new Set<string>();

  constructor(lab: Lab, victim: Victim) {
    this.#lab = lab;
    this.victim = victim;
    this.hash = codeHash(victim.pid, FILE_CODE);
  }

  /** One operation at random. */
  operate(random: (below: number) => number, objects: Buffer[]): void {
    const { pid, places } = this.victim;
    const place = `uprobe/${places[random(places.length)]}`;
    const file = this.#lab.proc(pid, place);
    const object = objects[random(objects.length)]!;
    if (!this.#attached.has(place) || random(3) === 0) {
      writeFileSync(file, object);
      this.#attached.add(place);
    } else if (random(2) === 0) {
      unlinkSync(file);
      this.#attached.delete(place);
    } else {
      const hooks = this.#lab.hooks(pid).filter((hook) => hook['file'] === place);
      const id = hooks[random(hooks.length)]?.['id'];
      const path = this.#lab.proc(pid, `hooks/by-id/${id}/enabled`);
      writeFileSync(path, random(2) === 0 ? '0\n' : '1\n');
    }
  }

  /** What the file system has to say about the last failure. */
  lastError(): string {
    return this.#lab.read(this.victim.pid, 'last_error').trimEnd();
  }

  detachAll(): void {
    for (const place of this.#attached) unlinkSync(this.#lab.proc(this.victim.pid, place));
  }

  async isAsBefore(): Promise<boolean> {
    return (await codeHashBecomes(this.victim.pid, this.hash, FILE_CODE)) === this.hash;
  }
}

const sumOf = (counts: Map<string, number>) => [...counts.values()].reduce((a, b) => a + b, 0);

/** Runs for `seconds`; `say` gets a line per minute. Ends early when something is wrong. */
export async function soak(
  lab: Lab,
  spec: { seconds: number; seed: number; say: (line: string) => void },
): Promise<Soaked> {
  const victims = await startVictims(lab);
  const subjects = victims.map((victim) => new Subject(lab, victim));
  const objects = ['probe', 'heavy', 'entry'].map((name) => readFileSync(lab.bpf(name)));
  const random = generator(spec.seed);
  const soaked: Soaked = {
    operations: 0,
    errors: new Map(),
    late: 0,
    troubles: [],
    memory: new Map(),
    differing: [],
  };
  const watched = [...victims.map(({ name, pid }) => [name, pid] as const)];
  watched.push(['daemon', lab.mount.daemon.pid ?? 0]);
  const look = () => {
    for (const [name, pid] of watched) {
      const now = rssKib(pid);
      soaked.memory.set(name, [soaked.memory.get(name)?.[0] ?? now, now]);
    }
    soaked.troubles.push(...victims.flatMap((victim) => victim.trouble() ?? []));
    const sizes = [...soaked.memory].map(([name, [, kib]]) => `${name} ${kib}`).join(', ');
    spec.say(`${soaked.operations} operations, ${sumOf(soaked.errors)} errors, KiB: ${sizes}`);
  };
  const end = Date.now() + spec.seconds * 1000;
  const settled = Date.now() + Math.min(60_000, spec.seconds * 250);
  for (let next = settled; Date.now() < end && soaked.troubles.length === 0; ) {
    step(subjects[random(subjects.length)]!, random, objects, soaked);
    await sleep(random(20));
    if (Date.now() < next) continue;
    look();
    next += 60_000;
  }
  look();
  for (const subject of subjects) {
    subject.detachAll();
    if (!(await subject.isAsBefore())) soaked.differing.push(subject.victim.name);
  }
  return soaked;
}

/** An operation that fails is counted by its errno; all must be as before, which the end shows. */
function step(
  subject: Subject,
  random: (below: number) => number,
  objects: Buffer[],
  soaked: Soaked,
): void {
  soaked.operations++;
  try {
    subject.operate(random, objects);
  } catch (error) {
    const { code = String(error) } = error as NodeJS.ErrnoException;
    if (code === 'ETIMEDOUT') soaked.late++;
    else {
      const said = subject.lastError().replace(/^\S+ /, '');
      soaked.errors.set(said, (soaked.errors.get(said) ?? 0) + 1);
    }
  }
}
