// `bpftimefs umount`: ends a mount, also one whose daemon was killed.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

/** True when a bpftimefs lies on top of `mountpoint`. Never touches the mount itself. */
export function isMounted(mountpoint: string): boolean {
  const escaped = mountpoint.replace(
    /[ \t\n\\]/g,
    (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`,
  );
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  const top = lines.findLast((line) => line.split(' ')[4] === escaped);
  return top?.includes(' - fuse.bpftimefs ') ?? false;
}

/** Unmounts even when files are open: whoever waits in them gets ENOTCONN. @returns the exit code */
export function umount(path: string): number {
  const mountpoint = resolve(path);
  if (!isMounted(mountpoint)) {
    process.stderr.write(`bpftimefs: ${mountpoint}: no bpftimefs is mounted there\n`);
    return 1;
  }
  const command =
    process.getuid?.() === 0
      ? ['umount', '-f', '-l', '--', mountpoint]
      : ['fusermount3', '-u', '-z', '--', mountpoint];
  const [program, ...args] = command as [string, ...string[]];
  return spawnSync(program, args, { stdio: 'inherit' }).status ?? 1;
}
