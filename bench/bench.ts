// What trials work with: a mount of the product, processes to probe, the rivals. Everything is
// started on first use, below one temporary directory, and ended by close().
import { type ChildProcess, execFileSync, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Unavailable } from './stats.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const START_TIMEOUT_MS = 10_000;

/** A program built by scripts/bench.sh, or an object: build/bench/NAME. */
export const built = (name: string): string => join(root, 'build/bench', name);

/** A child that answers each line with a line, after it has said `ready`. */
export class LineProcess {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;

  private constructor(child: ChildProcess) {
    this.child = child;
    this.pid = child.pid ?? 0;
    this.#reader = createInterface({ input: child.stdout! });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  static async start(program: string, args: string[]): Promise<LineProcess> {
    const child = spawn(built(program), args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const process = new LineProcess(child);
    if ((await process.#next()) !== 'ready') throw new Error(`${program} did not start`);
    return process;
  }

  async #next(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`process ${this.pid} ended`);
    return value;
  }

  /** Sends a line and returns the answer. */
  async ask(line: string): Promise<string> {
    this.child.stdin?.write(`${line}\n`);
    return await this.#next();
  }

  /** Ends it: a closed stdin where that is understood, a signal in any case. */
  async end(): Promise<void> {
    await endChild(this.child);
    this.#reader.close();
  }
}

async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), START_TIMEOUT_MS);
  await exited;
  clearTimeout(timer);
}

/** The bench's world. */
export class Bench {
  readonly #dir = mkdtempSync(join(tmpdir(), 'bpftimefs-bench-'));
  readonly #lineProcesses: LineProcess[] = [];
  /** Targets run there; the last core, because the first takes most interrupts. */
  readonly cpu = cpus().length - 1;
  readonly allCpus = `0-${this.cpu}`;
  #daemon: ChildProcess | undefined;
  #mounted: Promise<string> | undefined;
  readonly #targets = new Map<string, Promise<LineProcess>>();
  #kernel: LineProcess | undefined;
  #libfuse: Promise<string> | undefined;
  #libfusePid = 0;

  /** Starts a helper that lives until close() or its own end(). */
  async start(program: string, args: string[]): Promise<LineProcess> {
    const process = await LineProcess.start(program, args);
    this.#lineProcesses.push(process);
    return process;
  }

  #makeDir(name: string): string {
    const path = join(this.#dir, name);
    mkdirSync(path);
    return path;
  }

  /** Mounts the product, once. @throws {Unavailable} when this user may not mount here */
  async mount(): Promise<string> {
    this.#mounted ??= this.#startDaemon();
    return await this.#mounted;
  }

  async #startDaemon(): Promise<string> {
    const mountpoint = this.#makeDir('bpftime');
    const daemon = fork(join(root, 'dist/src/main.js'), ['mount', mountpoint], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#daemon = daemon;
    await new Promise<void>((mounted, failed) => {
      daemon.once('message', () => mounted());
      daemon.once('exit', (code) => failed(new Unavailable(`the daemon ended with ${code}`)));
    });
    return mountpoint;
  }

  /** Mounts the C libfuse server of one file of `bytes`, once. */
  async libfuse(bytes: number): Promise<string> {
    this.#libfuse ??= (async () => {
      const mountpoint = this.#makeDir('libfuse');
      const server = await this.start('libfuse-null', [mountpoint, String(bytes)]);
      this.#libfusePid = server.pid;
      return mountpoint;
    })();
    return await this.#libfuse;
  }

  /** Lets every thread of the file servers run on these cores only; taskset's list format. */
  placeServers(cpuList: string): void {
    for (const pid of [this.#daemon?.pid, this.#libfusePid]) {
      if (pid) execFileSync('taskset', ['-apc', cpuList, String(pid)], { stdio: 'ignore' });
    }
  }

  /** A file of a process in our mount. */
  async proc(pid: number, ...rest: string[]): Promise<string> {
    return join(await this.mount(), 'procs', String(pid), ...rest);
  }

  /** The pinned process whose calls are timed; one of each program. */
  async target(program = 'target'): Promise<LineProcess> {
    const started = this.#targets.get(program) ?? this.start(program, [String(this.cpu)]);
    this.#targets.set(program, started);
    return await started;
  }

  /** The kernel's probes on that process and no other. */
  async kernel(): Promise<LineProcess> {
    const { pid } = await this.target();
    this.#kernel ??= await this.start('kernel-probe', [built('target'), String(pid)]);
    return this.#kernel;
  }

  /** Ends everything. @throws when a mount is left */
  async close(): Promise<void> {
    // Rivals first: their probes sit in targets, which are older.
    for (const process of this.#lineProcesses.toReversed()) await process.end();
    if (this.#daemon) await endChild(this.#daemon);
    const left = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.split(' ')[4]?.startsWith(this.#dir));
    if (left.length > 0) throw new Error(`left mounted: ${left.join('\n')}`);
    rmSync(this.#dir, { recursive: true });
  }
}
