// A real mount in a directory of its own, for one test file; leaves nothing behind.
import { type ChildProcess, fork } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** How to mount. */
export interface MountSpec {
  /** The fixture tree of fixture-rows.ts, or what users get. */
  tree: 'fixture' | 'real';
  /** Milliseconds; fixture only. */
  deadlineMs?: number;
  allowOther?: boolean;
}

/** A running mount. */
export interface TestMount {
  /** Where the file system is. */
  mountpoint: string;
  /** An empty directory for files of the test. */
  scratch: string;
  daemon: ChildProcess;
  /** Ends the daemon and removes the directory. @throws when a mount is left */
  stop(): Promise<void>;
}

const root = new URL('../../', import.meta.url); // dist/

/** Mounts below `path`, as /proc/self/mountinfo has them. */
export function mountsBelow(path: string): string[] {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return lines.map((line) => line.split(' ')[4] ?? '').filter((at) => at.startsWith(path));
}

const exited = (child: ChildProcess): Promise<void> =>
  child.exitCode !== null || child.signalCode !== null
    ? Promise.resolve()
    : new Promise((done) => child.once('exit', () => done()));

/** Mounts and waits until it serves. */
export async function startMount(spec: MountSpec): Promise<TestMount> {
  const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-test-'));
  chmodSync(dir, 0o755);
  const mountpoint = join(dir, 'mnt');
  const scratch = join(dir, 'scratch');
  mkdirSync(mountpoint);
  mkdirSync(scratch);
  const [program, args] =
    spec.tree === 'fixture'
      ? [
          'test/helpers/fixture-daemon.js',
          [mountpoint, String(spec.deadlineMs ?? 10_000), spec.allowOther ? 'allow-other' : ''],
        ]
      : ['src/main.js', ['mount', mountpoint, ...(spec.allowOther ? ['--allow-other'] : [])]];
  const daemon = fork(fileURLToPath(new URL(program, root)), args, {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  await new Promise<void>((mounted, failed) => {
    daemon.once('message', () => mounted());
    daemon.once('exit', (code) => failed(new Error(`the daemon ended with ${code}`)));
  });
  return {
    mountpoint,
    scratch,
    daemon,
    async stop() {
      daemon.kill('SIGTERM');
      await exited(daemon);
      const left = mountsBelow(dir);
      if (left.length > 0) throw new Error(`left mounted: ${left.join(' ')}`);
      rmSync(dir, { recursive: true });
    },
  };
}
