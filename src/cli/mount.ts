// `bpftimefs mount`: serves until umount or a signal; `--daemon` puts it behind.
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readSync,
  rmdirSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { ControlFs, type RowsFactory } from '../fs/control-fs.js';
import { startStatus } from '../fs/status.js';

/** Options of the command. */
export interface MountCommand {
  mountpoint: string;
  allowOther: boolean;
}

const invitation = (mountpoint: string) => `bpftimefs is mounted on ${mountpoint}

  cat ${mountpoint}/README              what is here
  ls ${mountpoint}/procs                the processes that you may trace
  cat ${mountpoint}/procs/self/README   what can be done to one
  cat ${mountpoint}/last_error          why the last thing failed
  tail -f ${mountpoint}/log             who changed what

umount ${mountpoint} or Ctrl-C ends it.
`;

/** Makes the mount point when there is none; true when it was made and should go again. */
function makeDirectory(mountpoint: string): boolean {
  try {
    mkdirSync(mountpoint);
    return true;
  } catch {
    return false; // it is there, or mounting will say what is wrong with it
  }
}

function removeDirectory(mountpoint: string): void {
  try {
    rmdirSync(mountpoint);
  } catch {
    // Somebody put something there meanwhile: theirs now.
  }
}

/** Mounts in this process and resolves when the mount has ended. */
export async function serve(
  command: MountCommand,
  factories: readonly RowsFactory[],
): Promise<void> {
  const mountpoint = resolve(command.mountpoint);
  const fs = new ControlFs(factories);
  const made = makeDirectory(mountpoint);
  fs.start({ mountpoint, allowOther: command.allowOther });
  const stopStatus = startStatus(fs);
  await fs.started();
  process.stdout.write(invitation(mountpoint));
  process.send?.('mounted');
  if (process.connected) process.disconnect();
  await new Promise<void>((ended) => {
    fs.onEnd(ended);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
      process.on(signal, () => ended());
    // A bug outside of any request: say it where it can be found, and go on serving.
    process.on('uncaughtException', (error) => {
      fs.append('/log', `bug: ${error.stack ?? error.message}\n`);
      process.stderr.write(`bpftimefs: bug: ${error.stack ?? error.message}\n`);
    });
  });
  stopStatus();
  await fs.stop();
  if (made) removeDirectory(mountpoint);
}

/** Starts the same command in the background; resolves when it is mounted. */
export async function serveBehind(argv: readonly string[]): Promise<number> {
  const args = argv.filter((arg) => arg !== '--daemon' && arg !== '-d');
  // The daemon must not hold the terminal: what it says before it is mounted goes through a file.
  const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-'));
  const messages = openSync(join(dir, 'stderr'), 'w+');
  rmSync(dir, { recursive: true });
  const child: ChildProcess = spawn(process.execPath, [process.argv[1] ?? '', ...args], {
    detached: true,
    stdio: ['ignore', 'ignore', messages, 'ipc'],
  });
  const code = await new Promise<number>((settle) => {
    child.once('message', () => settle(0));
    child.once('exit', (exitCode) => settle(exitCode ?? 1));
  });
  if (child.connected) child.disconnect();
  child.unref();
  if (code !== 0) {
    const text = Buffer.alloc(fstatSync(messages).size);
    readSync(messages, text, 0, text.length, 0);
    process.stderr.write(text);
  }
  closeSync(messages);
  return code;
}
