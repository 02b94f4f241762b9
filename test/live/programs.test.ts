// Programs of every make: an interactive bash, static binaries of glibc and musl, node itself.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { type CodeRange, codeHash, codeHashBecomes, codeRanges } from '../helpers/code-hash.js';
import { eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const fine = { code: 0, out: '', err: '' };

/** The first process below `pid` that runs `comm`. */
function below(pid: number, comm: string): number | undefined {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  for (const child of children.trim().split(' ').map(Number).filter(Boolean)) {
    if (readFileSync(`/proc/${child}/comm`, 'utf8') === `${comm}\n`) return child;
    const deeper = below(child, comm);
    if (deeper !== undefined) return deeper;
  }
  return undefined;
}

await t.test('bash: the lines that are typed', async (t) => {
  await Lab.run(t, async (lab) => {
    const terminal = lab.start('script', ['-qfc', 'exec bash --norc --noprofile -i', '/dev/null'], {
      env: { SHELL: '/bin/sh', PS1: 'ready> ', HISTFILE: '' },
    });
    t.ok(await terminal.says(/ready> /), 'a prompt');
    const pid = (await eventually(() => below(terminal.pid, 'bash'))) ?? 0;
    lab.watch(pid);
    const type = async (line: string, answer: RegExp) => {
      terminal.child.stdin!.write(`${line}\n`);
      t.ok(await terminal.says(answer), `bash answers ${line}`);
    };
    const before = codeHash(pid);
    // bash waits inside of readline now: this call is followed only if it comes in anew.
    t.same(await lab.attach(pid, lab.bpf('bashreadline'), 'uretprobe/readline'), fine);
    const events = lab.follow(lab.proc(pid, 'events'));
    await type('echo first $((1+1))', /first 2/);
    await type('echo second $((2+2))', /second 4/);
    t.ok(await events.says(/"comm":"bash","line":"echo second \$\(\(2\+2\)\)"/), 'in events');
    t.match(events.text, new RegExp(`"pid":${pid}\\b`));
    t.same(await lab.detach(pid, 'uretprobe/readline'), fine);
    await type('echo third $((3+3))', /third 6/);
    t.notMatch(events.text, /third/, 'nothing is seen after rm');
    await sameCode(t, pid, before, 'after rm');
    terminal.child.stdin!.write('exit\n');
    t.ok(await eventually(() => !terminal.alive), 'bash ends as ever');
  });
});

/** Attaches and detaches; frames that an exception passes through end without a return event. */
async function onAndOff(t: Test, lab: Lab, target: Running, functions: string[]): Promise<void> {
  const { pid } = target;
  const before = codeHash(pid);
  for (let cycle = 1; cycle <= 3; cycle++) {
    for (const name of functions) {
      const put = await lab.attach(pid, lab.bpf('probe'), `uprobe/${name}`);
      t.same(put, fine, `cycle ${cycle}: on ${name}`);
    }
    const idle = () => functions.filter((name) => lab.hits(pid, `uprobe/${name}`) === 0);
    await eventually(() => idle().length === 0);
    t.same(idle(), [], `cycle ${cycle}: all are seen`);
    for (const name of functions) {
      t.same(await lab.detach(pid, `uprobe/${name}`), fine, `cycle ${cycle}: off ${name}`);
    }
    await sameCode(t, pid, before, `cycle ${cycle}`);
    t.ok(await target.advances(), `cycle ${cycle}: the target works on`);
  }
}

await t.test('a static binary of glibc', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('lives.c', ['-static'], { name: 'lives-static' }));
    t.ok(await target.says(/round/));
    await onAndOff(t, lab, target, ['work', 'usleep']);
  });
});

await t.test('a static binary with threads, exceptions and its own unwinder', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('gauntlet.cc', ['-static'], { name: 'gauntlet-static' }), [
      '2',
    ]);
    t.ok(await target.says(/round [1-9]/));
    await onAndOff(t, lab, target, ['recurse', 'catcher', 'thrower', 'yield_value', 'in_signal']);
    t.notMatch(target.text, /WRONG/);
  });
});

await t.test('a static binary of musl', async (t) => {
  await Lab.run(t, async (lab) => {
    const how = { name: 'lives-musl', compiler: 'musl-gcc' };
    const target = lab.start(lab.build('lives.c', ['-static'], how));
    t.ok(await target.says(/round/));
    await onAndOff(t, lab, target, ['work', 'usleep']);
  });
});

const NODE_PROGRAM = `
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
const want = createHash('sha256').update('x'.repeat(1000)).digest('hex');
for (let round = 1; ; round++) {
  const got = createHash('sha256').update('x'.repeat(1000)).digest('hex');
  const text = await readFile(process.argv[1], 'utf8');
  if (got !== want || !text.includes('sha256')) { console.log('WRONG'); process.exit(1); }
  console.log('round ' + round);
  await new Promise((done) => setTimeout(done, 2));
}
`;

await t.test('node', async (t) => {
  await Lab.run(t, async (lab) => {
    writeFileSync(join(lab.scratch, 'work.mjs'), NODE_PROGRAM);
    const target = lab.start(process.execPath, [join(lab.scratch, 'work.mjs')]);
    const { pid } = target;
    t.ok(await target.says(/round 20\n/));
    // node's own compiler writes code all the time; what lies in files must not change.
    const inFiles = (range: CodeRange) => range.path.startsWith('/') && !/memfd/.test(range.path);
    const before = codeHash(pid, inFiles);
    for (const name of ['uv_timer_start', 'EVP_DigestUpdate', 'uv_fs_read']) {
      const put = await lab.attach(pid, lab.bpf('probe'), `uprobe/${name}`);
      t.same(put, fine, `on ${name}`);
      const idle = () => lab.hooks(pid).filter((hook) => hook['hits'] === '0');
      await eventually(() => idle().length === 0);
      t.same(idle(), [], `${name}: entries and returns are seen`);
    }
    t.ok(await target.advances(), 'node works with them');
    for (const name of ['EVP_DigestUpdate', 'uv_timer_start', 'uv_fs_read']) {
      t.same(await lab.detach(pid, `uprobe/${name}`), fine, `off ${name}`);
    }
    t.equal(await codeHashBecomes(pid, before, inFiles), before, 'its code is as before');
    const ours = () => codeRanges(pid).some((range) => range.path.includes('bpftime'));
    t.ok(await eventually(() => !ours()), 'nothing of ours is mapped');
    t.ok(await target.advances(), 'node works on');
    t.notMatch(target.text, /WRONG/, 'every answer was right');
  });
});
