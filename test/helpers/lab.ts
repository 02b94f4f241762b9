// What tests on live processes share: a mount of their own, targets of their own, and the assertion
// that none of it is left. Every process here is started by the test and ended by its pid.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { compileBpf } from './bpf-objects.js';
import { codeHash, codeHashBecomes, codeRanges } from './code-hash.js';
import { type MountSpec, startMount, type TestMount } from './mount.js';

const targets = fileURLToPath(new URL('../../../test/targets/', import.meta.url));

/** Path of a source below test/targets. */
export const targetSource = (name: string): string => join(targets, name);

/** What a command did. */
export interface Ran {
  code: number | null;
  out: string;
  err: string;
}

/** Waits until `probe` returns something; undefined when it never did. */
export async function eventually<T>(
  probe: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 15_000,
): Promise<T | undefined> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const got = await probe();
    if (got !== undefined && got !== false) return got;
    if (Date.now() > end) return undefined;
    await sleep(10);
  }
}

/** A process of the test with what it printed so far. */
export class Running {
  readonly child: ChildProcess;
  readonly pid: number;
  #text = '';

  constructor(child: ChildProcess) {
    this.child = child;
    this.pid = child.pid ?? 0;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8');
      stream?.on('data', (data: string) => {
        this.#text += data;
      });
    }
  }

  /** Everything printed, both streams. */
  get text(): string {
    return this.#text;
  }

  get alive(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Waits for output that matches; undefined when it does not come. */
  async says(pattern: RegExp, timeoutMs = 15_000): Promise<RegExpExecArray | undefined> {
    return await eventually(() => pattern.exec(this.#text) ?? undefined, timeoutMs);
  }

  /** The largest N of `round N`, which targets print as they make progress. */
  get round(): number {
    return Number(/round (\d+)\n(?!.*round)/s.exec(this.#text)?.[1] ?? 0);
  }

  /** Waits until the target has worked on: at least one more `round` line beyond `from`. */
  async advances(from = this.round): Promise<boolean> {
    return (await eventually(() => this.round > from || !this.alive)) === true && this.alive;
  }

  async end(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (this.alive) this.child.kill(signal);
    if (this.alive) await once(this.child, 'exit');
  }
}

/** A mount with targets. */
export class Lab {
  readonly mount: TestMount;
  readonly #running: Running[] = [];
  readonly #pids: number[] = [];
  readonly #watched: number[] = [];

  private constructor(mount: TestMount) {
    this.mount = mount;
  }

  /** Runs `body` with a fresh lab; ends every process, unmounts, and asserts that it worked. */
  static async run(
    t: Test,
    body: (lab: Lab) => Promise<void>,
    spec: Partial<MountSpec> = {},
  ): Promise<void> {
    const lab = new Lab(await startMount({ tree: 'real', ...spec }));
    try {
      await body(lab);
      t.equal(lab.mount.daemon.exitCode, null, 'the daemon is alive');
    } finally {
      await lab.#close(t);
    }
  }

  async #close(t: Test): Promise<void> {
    for (const one of this.#running) await one.end();
    // Orphans of a server that had no time to end them: a failed test must not leave them behind.
    for (const pid of this.#watched) if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
    await eventually(() => !this.#watched.some((pid) => existsSync(`/proc/${pid}`)), 3000);
    await this.mount.stop();
    const left = this.#pids.filter((pid) => existsSync(`/proc/${pid}`));
    t.same(left, [], 'no process is left');
  }

  /** A directory for files of the test. */
  get scratch(): string {
    return this.mount.scratch;
  }

  /** Path of a process' directory, or of a file below it. */
  proc(pid: number, ...rest: string[]): string {
    return join(this.mount.mountpoint, 'procs', String(pid), ...rest);
  }

  /** Starts a process that lives until the lab closes. */
  start(
    command: string,
    args: string[] = [],
    options: { cwd?: string; env?: NodeJS.ProcessEnv; uid?: number } = {},
  ): Running {
    const { cwd = this.scratch, env = {}, uid } = options;
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, LC_ALL: 'C', ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(uid === undefined ? {} : { uid, gid: uid }),
    });
    const running = new Running(child);
    this.#running.push(running);
    this.#pids.push(running.pid);
    return running;
  }

  /** A grandchild (a worker of a server) that ends with the lab. */
  watch(pid: number): void {
    this.#pids.push(pid);
    this.#watched.push(pid);
  }

  /** Runs a shell command to its end; $M is the mount, $T the scratch directory. */
  async sh(command: string, options: { uid?: number } = {}): Promise<Ran> {
    const child = spawn('bash', ['--norc', '-c', command], {
      cwd: this.scratch,
      env: { ...process.env, LC_ALL: 'C', M: this.mount.mountpoint, T: this.scratch },
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
    });
    let out = '';
    let err = '';
    child.stdout.on('data', (data) => {
      out += data;
    });
    child.stderr.on('data', (data) => {
      err += data;
    });
    const [code] = (await once(child, 'close')) as [number | null];
    return { code, out, err };
  }

  /** Follows a stream of the mount. */
  follow(path: string): Running {
    return this.start('cat', [path]);
  }

  /** Compiles test/targets/bpf/NAME.bpf.c as `as`; returns the object's path. */
  bpf(name: string, defines: string[] = [], as = name): string {
    const path = join(this.scratch, `${as}.bpf.o`);
    if (!existsSync(path)) writeFileSync(path, compileBpf(name, defines));
    return path;
  }

  /** Compiles test/targets/SOURCE as `name`; returns the program's path. */
  build(source: string, flags: string[] = [], how: { name?: string; compiler?: string } = {}) {
    const path = join(this.scratch, how.name ?? source.replace(/\.\w+$/, ''));
    if (source.endsWith('.go')) {
      // The cache of the user who runs the tests: the runtime is compiled once per machine.
      const env = { ...process.env, GO111MODULE: 'off', CGO_ENABLED: '0' };
      execFileSync('go', ['build', ...flags, '-o', path, join(targets, source)], { env });
      return path;
    }
    const isCpp = source.endsWith('.cc');
    const compiler = how.compiler ?? (isCpp ? 'g++' : 'gcc');
    const common = ['-O2', '-g', '-pthread', ...(isCpp ? ['-std=c++20'] : [])];
    execFileSync(compiler, [...common, ...flags, join(targets, source), '-o', path]);
    return path;
  }

  /** `cp object procs/PID/DIR/NAME`. */
  async attach(pid: number, object: string, where: string): Promise<Ran> {
    return await this.sh(`cp ${object} '${this.proc(pid, where)}'`);
  }

  /** `rm procs/PID/WHERE`. */
  async detach(pid: number, where: string): Promise<Ran> {
    return await this.sh(`rm '${this.proc(pid, where)}'`);
  }

  /** A text file of the process, now. */
  read(pid: number, name: string): string {
    return readFileSync(this.proc(pid, name), 'utf8');
  }

  /** Rows of hooks/list by column name. */
  hooks(pid: number): Record<string, string>[] {
    const [header = '', ...rows] = this.read(pid, 'hooks/list').trimEnd().split('\n');
    const names = header.trim().split(/\s+/);
    return rows.map((row) => {
      const cells = row.trim().split(/\s+/);
      return Object.fromEntries(names.map((name, i) => [name, cells[i] ?? '']));
    });
  }

  /** Hits of all hooks in a file, e.g. `uprobe/work`. */
  hits(pid: number, file: string): number {
    return this.hooks(pid)
      .filter((hook) => hook['file'] === file)
      .reduce((sum, hook) => sum + Number(hook['hits']), 0);
  }
}

/** Asserts that a process executes exactly what it executed before. */
export async function sameCode(t: Test, pid: number, before: string, when: string): Promise<void> {
  const after = await codeHashBecomes(pid, before);
  if (after === before) t.pass(`${when}: every byte of code is as before`);
  else t.fail(`${when}: the code differs`, { ranges: codeRanges(pid).map((r) => r.path) });
}

export { codeHash };
