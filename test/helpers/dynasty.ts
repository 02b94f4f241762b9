// A mount whose daemon gets killed (SIGKILL), and the daemons after it, on the same mount point.
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { eventually, type Lab, type Ran, type Running } from './lab.js';
import { mountsBelow, startMount, type TestMount } from './mount.js';

const main = fileURLToPath(new URL('../../src/main.js', import.meta.url));

/** The daemons of one mount point, one after another. */
export class Dynasty {
  readonly #lab: Lab;
  readonly #first: TestMount;
  #now: Running | undefined;
  readonly #pids = new Set<number>();

  private constructor(lab: Lab, first: TestMount) {
    this.#lab = lab;
    this.#first = first;
  }

  /** The first, mounted by itself. */
  static async begin(lab: Lab): Promise<Dynasty> {
    return new Dynasty(lab, await startMount({ tree: 'real' }));
  }

  /** Path of a file of a process. */
  file(pid: number, ...rest: string[]): string {
    this.#pids.add(pid);
    return join(this.#first.mountpoint, 'procs', String(pid), ...rest);
  }
  read = (pid: number, name: string) => readFileSync(this.file(pid, name), 'utf8');
  cp = (object: string, pid: number, where: string): Promise<Ran> =>
    this.#lab.sh(`cp ${object} '${this.file(pid, where)}'`);
  rm = (pid: number, where: string): Promise<Ran> => this.#lab.sh(`rm '${this.file(pid, where)}'`);

  /** What was done. */
  get log(): string {
    return readFileSync(join(this.#first.mountpoint, 'log'), 'utf8');
  }
  /** About processes of this test: a mount also looks at what others have left on the machine. */
  get errors(): string {
    const text = readFileSync(join(this.#first.mountpoint, 'error_log'), 'utf8');
    const isOther = (line: string) => {
      const pid = /\/procs\/(\d+)\//.exec(line)?.[1];
      return pid !== undefined && !this.#pids.has(Number(pid));
    };
    return text
      .split('\n')
      .filter((line) => !isOther(line))
      .join('\n');
  }

  /** Rows of hooks/list. */
  hooks(pid: number): string[][] {
    const rows = this.read(pid, 'hooks/list').trimEnd().split('\n').slice(1);
    return rows.map((row) => row.trim().split(/\s+/));
  }

  /** A child has a session of its own with so many hooks, or has been left. */
  async settles(pid: number, hooks: number): Promise<boolean | undefined> {
    return await eventually(() => {
      if (!existsSync(`/proc/${pid}`)) return false;
      const isIn = /^entered 1$/m.test(this.read(pid, 'info'));
      return this.hooks(pid).length === hooks && isIn === hooks > 0;
    }, 30_000);
  }

  /** The process that traces for the daemon which is there now. */
  get tracer(): number {
    const { pid } = this.#now?.child ?? this.#first.daemon;
    const childrenOf = (tid: string) => readFileSync(`/proc/${pid}/task/${tid}/children`, 'utf8');
    const children = readdirSync(`/proc/${pid}/task`).flatMap((tid) => childrenOf(tid).split(' '));
    const isTracer = (child: string) =>
      child !== '' && readFileSync(`/proc/${child}/comm`, 'utf8') === 'tracer\n';
    return Number(children.find(isTracer));
  }

  /** Kills the daemon that is there now. */
  async kill(): Promise<void> {
    const child = this.#now?.child ?? this.#first.daemon;
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }

  async #start(): Promise<Running> {
    await this.#lab.sh(`${process.execPath} ${main} umount ${this.#first.mountpoint}`);
    this.#now = this.#lab.start(process.execPath, [main, 'mount', this.#first.mountpoint]);
    return this.#now;
  }

  /** Mounts again in its place; whether that worked. */
  async next(): Promise<boolean> {
    return (await (await this.#start()).says(/is mounted on/, 20_000)) !== undefined;
  }

  /** The same, until a while after it begins to look at processes. */
  async begins(delayMs: number): Promise<void> {
    await this.#start();
    await eventually(() => mountsBelow(this.#first.mountpoint).length > 0);
    await sleep(delayMs);
  }

  /** Ends the last one; mounts that are left. */
  async end(): Promise<string[]> {
    await this.#now?.end('SIGTERM');
    const left = this.#now ? mountsBelow(this.#first.mountpoint) : [];
    await this.#first.stop();
    return left;
  }
}
