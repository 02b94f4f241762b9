// Probes on every function of a module, hundreds at a time: an object of many programs is compiled
// once, and the addresses in its section names are replaced for each batch.
import { execFileSync } from 'node:child_process';
import { readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Lab } from './lab.js';

/** A function of a module, as `symbols/MODULE` lists it. */
export interface Listed {
  addr: string;
  name: string;
}

/** What became of a sweep. */
export interface Swept {
  functions: number;
  attached: number;
  /** Names by reason. */
  refused: Map<string, string[]>;
  hits: number;
  seconds: number;
}

const LARGE = 64;
/** A busy machine may not stop every thread in time; such a change has changed nothing. */
const LATE_TRIES = 5;
/** Batches that are attached at any time. */
const KEPT = 4;
const MARK = 0xdead_0000_0000_0000n;

const digits = (addr: bigint) => `0x${addr.toString(16).padStart(16, '0')}`;

/** The object of `count` programs, each at a mark of its own. */
export function template(lab: Lab, count: number): Buffer {
  const source = join(lab.scratch, `sweep${count}.c`);
  const programs = Array.from(
    { length: count },
    (_, i) =>
      `SEC("uprobe/${digits(MARK + BigInt(i))}") int p${i}(void* c) { __sync_fetch_and_add(&n, 1); return 0; }`,
  );
  writeFileSync(
    source,
    `#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\nchar l[] SEC("license") = "GPL";\n__u64 n;\n${programs.join('\n')}\n`,
  );
  const object = source.replace(/c$/, 'o');
  const include = '-I/usr/include/x86_64-linux-gnu';
  execFileSync('clang', ['-O2', '-g', '-target', 'bpf', include, '-c', source, '-o', object]);
  return readFileSync(object);
}

/** `template` with real addresses; the same text has one length everywhere. */
export function aimed(object: Buffer, functions: readonly Listed[]): Buffer {
  const bytes = Buffer.from(object);
  for (const [i, { addr }] of functions.entries()) {
    const mark = digits(MARK + BigInt(i));
    for (let at = bytes.indexOf(mark); at >= 0; at = bytes.indexOf(mark, at)) {
      bytes.write(digits(BigInt(addr)), at, 'latin1');
    }
  }
  return bytes;
}

/** The functions of a module, one a address; what has no size is no function. */
export function functionsOf(lab: Lab, pid: number, module: string): Listed[] {
  const seen = new Map<string, Listed>();
  for (const line of lab.read(pid, `symbols/${module}`).split('\n')) {
    const [addr = '', size, kind = '', name = ''] = line.split(' ');
    if ((kind === 'T' || kind === 't') && size !== '0' && !seen.has(addr)) {
      seen.set(addr, { addr, name });
    }
  }
  return [...seen.values()];
}

function insist(change: () => void): void {
  for (let left = LATE_TRIES; ; left--) {
    try {
      change();
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ETIMEDOUT' || left === 0) throw error;
    }
  }
}

/** Attaches to and detaches from each function; the process' other threads work on. */
export class Sweep {
  readonly #lab: Lab;
  readonly #pid: number;
  readonly #large: Buffer;
  readonly #single: Buffer;
  readonly #kept: string[] = [];
  #count = 0;
  #hits = 0;

  constructor(lab: Lab, pid: number) {
    this.#lab = lab;
    this.#pid = pid;
    this.#large = template(lab, LARGE);
    this.#single = template(lab, 1);
  }

  async run(functions: readonly Listed[], isFine: () => boolean): Promise<Swept> {
    const started = Date.now();
    const refused = new Map<string, string[]>();
    const queue = functions.toReversed();
    let attached = 0;
    while (queue.length > 0 && isFine()) {
      const size = queue.length >= LARGE ? LARGE : 1;
      const batch = queue.splice(-size).reverse();
      const refusal = this.#attach(batch);
      if (refusal === undefined) {
        attached += batch.length;
      } else {
        const culprit = batch.find(({ addr }) => refusal.addr === BigInt(addr)) ?? batch[0]!;
        const { reason } = refusal;
        refused.set(reason, [...(refused.get(reason) ?? []), culprit.name]);
        queue.push(...batch.filter((one) => one !== culprit).reverse());
      }
      await sleep(0);
    }
    while (this.#kept.length > 0) this.#detachOldest();
    const seconds = (Date.now() - started) / 1000;
    return { functions: functions.length, attached, refused, hits: this.#hits, seconds };
  }

  /** Undefined when all is attached. */
  #attach(batch: readonly Listed[]): { addr: bigint; reason: string } | undefined {
    const file = this.#lab.proc(this.#pid, `hooks/sweep${this.#count++}.o`);
    try {
      const object = aimed(batch.length === LARGE ? this.#large : this.#single, batch);
      insist(() => writeFileSync(file, object));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const said = this.#lab.read(this.#pid, 'last_error');
      const [, place, reason] = / (0x[0-9a-f]+): (.*)/.exec(said) ?? [];
      return { addr: BigInt(place ?? 0), reason: `${code} ${reason ?? said}` };
    }
    this.#kept.push(file);
    if (this.#kept.length > KEPT) this.#detachOldest();
    return undefined;
  }

  #detachOldest(): void {
    const file = this.#kept.shift()!;
    if (this.#count % 8 === 0) {
      this.#hits += this.#lab.hits(this.#pid, file.slice(file.indexOf('hooks/')));
    }
    insist(() => unlinkSync(file));
  }
}
