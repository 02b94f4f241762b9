// The machine and the versions behind a result, as `key value` lines.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';

const VULNERABILITIES = '/sys/devices/system/cpu/vulnerabilities';

/** First line of a command's output, or `-` when it cannot be run. */
function firstLine(command: string, ...args: string[]): string {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
      .split('\n')[0]!
      .trim();
  } catch {
    return '-';
  }
}

function mitigations(): string {
  if (!existsSync(VULNERABILITIES)) return '-';
  const active = readdirSync(VULNERABILITIES)
    .map((name) => [name, readFileSync(`${VULNERABILITIES}/${name}`, 'utf8').trim()] as const)
    .filter(([, state]) => state !== 'Not affected');
  return active.map(([name, state]) => `${name}: ${state}`).join('; ') || 'none needed';
}

function revision(): string {
  const revision = firstLine('git', 'rev-parse', '--short=12', 'HEAD');
  const changed = firstLine('git', 'status', '--porcelain', '--', 'native', 'src', 'bench');
  return changed === '' || changed === '-' ? revision : `${revision} with local changes`;
}

/** The load now; printed before and after, because others' work is in the numbers. */
export const load = (): string =>
  loadavg()
    .map((one) => one.toFixed(2))
    .join(' ');

/** Facts that do not change during a run. */
export function machineFacts(): [string, string][] {
  const debian = (name: string) => firstLine('dpkg-query', '-W', name).split('\t')[1] ?? '-';
  return [
    ['date', new Date().toISOString()],
    ['revision', revision()],
    ['uname', firstLine('uname', '-srvm')],
    ['cpu', `${cpus()[0]?.model ?? '-'}, ${cpus().length} cores`],
    ['hypervisor', firstLine('systemd-detect-virt', '--vm')],
    ['mitigations', mitigations()],
    ['node', process.version],
    ['gcc', firstLine('gcc', '--version')],
    ['clang', firstLine('clang', '--version')],
    ['libbpf', debian('libbpf1')],
    ['libfuse3', debian('libfuse3-3')],
    ['libc', debian('libc6')],
  ];
}
