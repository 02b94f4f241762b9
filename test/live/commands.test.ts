// `npm start` and `npm run demo`, as typed; both clean up after themselves.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { mountsBelow } from '../helpers/mount.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
t.setTimeout(180_000);

/** Starts a script in a directory of its own, as the leader of a process group like a shell does. */
function start(script: string, args: string[], env: NodeJS.ProcessEnv) {
  const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-test-'));
  const child = spawn('bash', [join(root, script), ...args.map((arg) => join(dir, arg))], {
    cwd: root,
    env: { ...process.env, TMPDIR: dir, LC_ALL: 'C', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (data: string) => {
      text += data;
    });
  }
  return { dir, child, text: () => text };
}

const code = async (child: ChildProcess): Promise<number | null> =>
  child.exitCode ?? ((await once(child, 'exit')) as [number | null])[0];

async function untilSaid(run: ReturnType<typeof start>, words: RegExp): Promise<boolean> {
  while (run.child.exitCode === null && !words.test(run.text())) {
    await new Promise((resume) => setTimeout(resume, 20));
  }
  return words.test(run.text());
}

function assertClean(t: Tap, dir: string): void {
  t.same(mountsBelow(dir), [], 'no mount is left');
  t.same(readdirSync(dir), [], 'no file is left');
  rmSync(dir, { recursive: true, force: true });
}
type Tap = Pick<typeof t, 'same'>;

for (const target of ['redis', 'shop']) {
  await t.test(`the demo on ${target}`, async (t) => {
    const run = start('scripts/demo.sh', [], { DEMO_FAST: '1', DEMO_TARGET: target });
    t.equal(await code(run.child), 0, 'it succeeds');
    if (run.child.exitCode !== 0) t.comment(run.text());
    t.match(run.text(), /^Equal: each byte is as it was/m);
    t.match(run.text(), target === 'redis' ? /"get"\}: [1-9]/ : /"apple"\}: [1-9]/, 'it counts');
    t.match(run.text(), /"msg":"hello from \d+"/, 'it prints');
    t.match(run.text(), /ENOENT \w+x: no such function/, 'it shows a mistake');
    assertClean(t, run.dir);
  });
}

await t.test('the demo, interrupted in the middle', async (t) => {
  const run = start('scripts/demo.sh', [], { DEMO_FAST: '1', DEMO_TARGET: 'shop' });
  t.ok(await untilSaid(run, /^\$ cp /m), 'it is under way');
  process.kill(-run.child.pid!, 'SIGINT');
  t.equal(await code(run.child), 130);
  assertClean(t, run.dir);
});

await t.test('npm start mounts, says what to try, and ends at Ctrl-C', async (t) => {
  const run = start('scripts/start.sh', ['mnt'], {});
  t.ok(await untilSaid(run, /is mounted on/), 'it is mounted');
  const mountpoint = join(run.dir, 'mnt');
  t.same(mountsBelow(run.dir), [mountpoint]);
  const files = [...run.text().matchAll(/^ {2}cat (\S+)/gm)].map((match) => match[1]!);
  t.ok(files.length >= 3, 'it says what to try');
  for (const file of files) t.ok(readFileSync(file, 'utf8').length > 0, file);
  process.kill(-run.child.pid!, 'SIGINT');
  t.equal(await code(run.child), 0);
  rmSync(mountpoint, { recursive: true, force: true });
  assertClean(t, run.dir);
});
