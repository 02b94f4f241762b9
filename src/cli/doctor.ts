// `bpftimefs doctor`: what this machine allows, and what to do about the rest. One line per check:
// `ok` or `no`, the name, the fact, and in brackets what helps.
import { accessSync, constants, existsSync, readFileSync, statSync } from 'node:fs';
import { release } from 'node:os';

interface Finding {
  ok: boolean;
  fact: string;
  remedy?: string;
}

type Check = () => Finding;

const isRoot = () => process.getuid?.() === 0;

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}

function effectiveCapabilities(): bigint {
  const line = /^CapEff:\s*([0-9a-f]+)/m.exec(readText('/proc/self/status') ?? '');
  return BigInt(`0x${line?.[1] ?? '0'}`);
}

const CAP_SYS_PTRACE = 19n;
const CAP_SYS_ADMIN = 21n;
const CAP_CHECKPOINT_RESTORE = 40n;
const MIN_KERNEL: readonly [number, number] = [5, 6]; // pidfd_getfd

const checks: Readonly<Record<string, Check>> = {
  kernel: () => {
    const [major = 0, minor = 0] = release().split('.').map(Number);
    const ok = major > MIN_KERNEL[0] || (major === MIN_KERNEL[0] && minor >= MIN_KERNEL[1]);
    return { ok, fact: release(), remedy: `Linux ${MIN_KERNEL.join('.')} or newer` };
  },
  machine: () => ({
    ok: process.arch === 'x64',
    fact: process.arch,
    remedy: 'targets are x86-64 programs',
  }),
  node: () => {
    const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
    return {
      ok: major > 20 || (major === 20 && minor >= 19),
      fact: process.versions.node,
      remedy: 'Node 20.19 or newer',
    };
  },
  addon: () => {
    const built = existsSync(new URL('../../../build/bpftimefs.node', import.meta.url));
    return { ok: built, fact: built ? 'built' : 'not built', remedy: 'npm run build' };
  },
  fuse: () => {
    try {
      accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
      return { ok: true, fact: '/dev/fuse' };
    } catch {
      return { ok: false, fact: '/dev/fuse cannot be opened', remedy: 'modprobe fuse' };
    }
  },
  fusermount3: () => {
    const found = existsSync('/usr/bin/fusermount3') || existsSync('/bin/fusermount3');
    const fact = found ? 'installed' : 'not installed';
    return { ok: found || isRoot(), fact, remedy: 'apt-get install fuse3' };
  },
  allow_other: () => {
    const conf = readText('/etc/fuse.conf') ?? '';
    const ok = isRoot() || /^user_allow_other$/m.test(conf);
    const fact = ok ? 'a mount can be shared' : 'only root may share a mount';
    return { ok, fact, remedy: 'user_allow_other in /etc/fuse.conf' };
  },
  ptrace: () => {
    const scope = readText('/proc/sys/kernel/yama/ptrace_scope') ?? '0';
    const capable = ((effectiveCapabilities() >> CAP_SYS_PTRACE) & 1n) === 1n;
    const ok = capable ? scope !== '3' : scope === '0';
    const who = capable ? 'any process' : 'processes of this user';
    const remedy = 'sysctl kernel.yama.ptrace_scope=0, or run as root';
    return { ok, fact: `${who}, yama scope ${scope}`, remedy };
  },
  adoption: () => {
    // What /proc/PID/map_files asks for: the way to the maps of a daemon that was killed.
    const caps = effectiveCapabilities();
    const ok = [CAP_CHECKPOINT_RESTORE, CAP_SYS_ADMIN].some((cap) => ((caps >> cap) & 1n) === 1n);
    const fact = `hooks of a daemon that was killed ${ok ? 'go on' : 'are taken out'}`;
    return { ok, fact, remedy: 'CAP_CHECKPOINT_RESTORE, or run as root' };
  },
  proc: () => {
    const ok = statSync('/proc/self').isDirectory() && existsSync('/proc/1');
    return { ok, fact: ok ? 'mounted' : 'hidden', remedy: 'mount /proc without hidepid' };
  },
};

/** Prints all findings. @returns 0 when nothing is missing */
export function doctor(): number {
  let missing = 0;
  for (const [name, check] of Object.entries(checks)) {
    const { ok, fact, remedy } = check();
    if (!ok) missing += 1;
    const help = ok || remedy === undefined ? '' : ` (${remedy})`;
    process.stdout.write(`${ok ? 'ok' : 'no'}  ${name.padEnd(12)}${fact}${help}\n`);
  }
  return missing === 0 ? 0 : 1;
}
