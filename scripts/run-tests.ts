// Runs the test programs (compiled TypeScript and native mains; all print TAP), one after another
// because most of them operate on live processes, and closes with `N passed, N failed, N skipped`.
// Whatever a test leaves behind (a mount, a process, a file) is a failure. Usage: run-tests
// [PATTERN...]
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { countTap } from './tap-count.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const TIMEOUT_MS = 10 * 60_000;
const OUTPUT_LINES_SHOWN = 200;

function walk(dir: string, wanted: (path: string) => boolean): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(dir, entry.name);
      if (entry.isDirectory()) return walk(path, wanted);
      return wanted(path) ? [path] : [];
    })
    .sort();
}

const isExecutable = (path: string) => (statSync(path).mode & 0o111) !== 0;

interface Ran {
  tap: string;
  output: string;
  exitedWell: boolean;
}

async function runOne(path: string, env: NodeJS.ProcessEnv): Promise<Ran> {
  const isScript = path.endsWith('.js');
  const child = spawn(isScript ? process.execPath : path, isScript ? [path] : [], {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let tap = '';
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    tap += text;
    output += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  const timer = setTimeout(() => {
    output += `\nkilled after ${TIMEOUT_MS / 1000} s\n`;
    child.kill('SIGKILL');
  }, TIMEOUT_MS);
  // `exit`, not `close`: a process left behind may hold the pipes open for ever.
  const code = await new Promise<number | null>((done) => child.once('exit', done));
  await Promise.race([new Promise((done) => child.once('close', done)), sleep(500)]);
  clearTimeout(timer);
  return { tap, output, exitedWell: code === 0 };
}

/** Living processes that carry the marker of one test in their environment; zombies do not count. */
function processesOf(marker: string): { pid: number; command: string }[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        if (!readFileSync(`/proc/${name}/environ`, 'latin1').includes(marker)) return [];
        const command = readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ');
        return [{ pid: Number(name), command: command.trim() }];
      } catch {
        return []; // it ended meanwhile, or is another user's
      }
    });
}

/** What a test left behind; ends the processes. */
async function leftovers(marker: string, tmp: string): Promise<string[]> {
  let processes = processesOf(marker);
  for (let i = 0; i < 20 && processes.length > 0; i++) {
    await sleep(50);
    processes = processesOf(marker);
  }
  for (const { pid } of processes) process.kill(pid, 'SIGKILL');
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(tmp));
  return [
    ...processes.map(({ pid, command }) => `process left behind: ${pid} ${command}`),
    ...mounts.map((path) => `mount left behind: ${path}`),
    ...(mounts.length > 0 ? [] : readdirSync(tmp).map((name) => `file left behind: ${name}`)),
  ];
}

const patterns = process.argv.length > 2 ? process.argv.slice(2) : [''];
const files = [
  ...walk(join(root, 'build/test-native'), (p) => /_test$/.test(p) && isExecutable(p)),
  ...walk(join(root, 'dist/test'), (p) => p.endsWith('.test.js')),
].filter((path) => patterns.some((pattern) => relative(root, path).includes(pattern)));

const total = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];
for (const [index, path] of files.entries()) {
  const name = relative(root, path);
  const started = Date.now();
  // The test's own directory for temporary files, and a name by which its processes are found.
  const tmp = mkdtempSync(join(tmpdir(), 'bpftimefs-run-'));
  chmodSync(tmp, 0o755);
  const marker = `BPFTIMEFS_TEST=${process.pid}.${index}`;
  const [key = '', value] = marker.split('=');
  const ran = await runOne(path, { TMPDIR: tmp, [key]: value });
  const counts = countTap(ran.tap, ran.exitedWell);
  const left = await leftovers(marker, tmp);
  if (!left.some((line) => line.startsWith('mount'))) rmSync(tmp, { recursive: true, force: true });
  total.passed += counts.passed;
  total.failed += counts.failed + left.length;
  total.skipped += counts.skipped;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  const ok = counts.failed === 0 && left.length === 0;
  const figures = `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`;
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${name}: ${figures}, ${seconds} s`);
  for (const reason of counts.skips) console.log(`     skipped: ${reason}`);
  for (const line of left) console.log(`     ${line}`);
  if (ok) continue;
  failures.push(name);
  if (counts.failed > 0) console.log(ran.output.split('\n').slice(-OUTPUT_LINES_SHOWN).join('\n'));
}
// A skip names a need that this machine does not meet. Under CI every need must be met.
if (process.env['CI'] && total.skipped > 0) {
  total.failed += total.skipped;
  console.log(`${total.skipped} tests were skipped: under CI a missing need is a failure`);
}
if (files.length === 0) {
  total.failed++;
  console.log(`no test file matches '${patterns.join(' ')}'`);
}
if (failures.length > 0) console.log(`failed: ${failures.join(' ')}`);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed === 0 ? 0 : 1;
