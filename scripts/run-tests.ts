// Runs the test programs (compiled TypeScript and native mains; all print TAP), one after another
// because most of them operate on live processes, and closes with `N passed, N failed, N skipped`.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));
const TIMEOUT_MS = 10 * 60_000;

interface Outcome {
  passed: number;
  failed: number;
  skipped: number;
  output: string;
  ok: boolean;
}

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

/** Counts the outermost points of a TAP stream; a failing stream without any counts as one. */
function count(output: string, exitedWell: boolean): Outcome {
  let passed = 0;
  let failed = 0;
  let skipped = 0;
  for (const line of output.split('\n')) {
    // tap nests subtests by indentation; the asserts are the points that have no subtest below.
    const point = /^\s*(not )?ok\b(.*)$/.exec(line);
    if (!point || point[2]!.trimEnd().endsWith('{')) continue;
    if (/# SKIP/i.test(point[2]!)) skipped++;
    else if (point[1]) failed++;
    else passed++;
  }
  if (!exitedWell && failed === 0) failed = 1;
  return { passed, failed, skipped, output, ok: exitedWell && failed === 0 };
}

async function runOne(path: string): Promise<Outcome> {
  const isScript = path.endsWith('.js');
  const child = spawn(isScript ? process.execPath : path, isScript ? [path] : [], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8');
    stream.on('data', (text: string) => {
      output += text;
    });
  }
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  const code = await new Promise<number | null>((done) => child.once('close', done));
  clearTimeout(timer);
  return count(output, code === 0);
}

/** Mounts of ours and processes whose parent died with a test still running. */
function leftovers(): string[] {
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(' fuse.bpftime') && line.includes('/bpftimefs-test-'));
  return mounts.map((line) => `mount left behind: ${line.split(' ')[4]}`);
}

const pattern = process.argv[2] ?? '';
const files = [
  ...walk(join(root, 'build/test-native'), (p) => /_test$/.test(p) && isExecutable(p)),
  ...walk(join(root, 'dist/test'), (p) => p.endsWith('.test.js')),
].filter((path) => relative(root, path).includes(pattern));

const total = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];
for (const path of files) {
  const name = relative(root, path);
  const started = Date.now();
  const outcome = await runOne(path);
  total.passed += outcome.passed;
  total.failed += outcome.failed;
  total.skipped += outcome.skipped;
  const seconds = ((Date.now() - started) / 1000).toFixed(1);
  const mark = outcome.ok ? 'ok  ' : 'FAIL';
  console.log(`${mark} ${name}: ${outcome.passed} passed, ${outcome.skipped} skipped, ${seconds} s`);
  if (outcome.ok) continue;
  failures.push(name);
  console.log(outcome.output.split('\n').slice(-200).join('\n'));
}
for (const left of leftovers()) {
  total.failed++;
  console.log(left);
}
// A skip names a need that this machine does not meet. Under CI every need must be met.
if (process.env['CI'] && total.skipped > 0) {
  total.failed += total.skipped;
  console.log(`${total.skipped} tests were skipped: under CI a missing need is a failure`);
}
if (files.length === 0) {
  total.failed++;
  console.log(`no test file matches '${pattern}'`);
}
if (failures.length > 0) console.log(`failed: ${failures.join(' ')}`);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed === 0 ? 0 : 1;
