// A process that changes itself: it waits for us inside its own system call, and gets the true
// result from that call all the same.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

async function selfish(lab: Lab, threads: number): Promise<Running> {
  const target = lab.start(lab.build('selfish.c'), [String(threads)]);
  await target.says(/ready/);
  return target;
}

/** Gives an order; what the target said to it. */
async function order(t: Test, target: Running, line: string, answer: RegExp): Promise<void> {
  const before = target.text.length;
  target.child.stdin?.write(`${line}\n`);
  await eventually(() => /(done|failed|called).*\n$/.test(target.text.slice(before)), 5000);
  t.match(target.text.slice(before), answer, line.replace(/\/\S*\//g, ''));
}

for (const threads of [0, 1, 8]) {
  await t.test(`a process with ${threads} more threads`, async (t) => {
    await Lab.run(t, async (lab) => {
      const target = await selfish(lab, threads);
      const { pid } = target;
      const before = codeHash(pid);
      const self = join(lab.mount.mountpoint, 'procs/self');
      const good = lab.bpf('full');
      const entered = () => Number(/^entered (\d)$/m.exec(lab.read(pid, 'info'))?.[1]);
      for (let round = 0; round < 5; round++) {
        await order(t, target, `cp ${good} ${self}/uprobe/work`, /^close done 0\n$/);
        const hits = lab.hits(pid, 'uprobe/work');
        await order(t, target, 'call 100', /called/);
        t.ok(lab.hits(pid, 'uprobe/work') - hits >= 100, 'every call is seen');
        const enabled = `${self}/hooks/by-id/${lab.hooks(pid)[0]?.['id']}/enabled`;
        await order(t, target, `echo 0 ${enabled}`, /^write done 2\n$/);
        t.equal(lab.hooks(pid)[0]?.['on'], '0');
        await order(t, target, `echo maybe ${enabled}`, /^write failed with EINVAL\n$/);
        await order(t, target, `echo 1 ${enabled}`, /^write done 2\n$/);
        // A second object over the first, from inside.
        await order(t, target, `cp ${lab.bpf('probe')} ${self}/uprobe/work`, /^close done 0\n$/);
        t.same(
          lab.hooks(pid).map((hook) => hook['program']),
          ['enter', 'leave'],
        );
        await order(t, target, `rm ${self}/uprobe/work`, /^unlink done 0\n$/);
        t.same(lab.hooks(pid), []);
        t.ok(await eventually(() => entered() === 0), 'we are out again');
        await sameCode(t, pid, before, `round ${round}`);
      }
      t.notMatch(target.text, /WRONG/);
    });
  });
}

await t.test('what is refused is refused by its own system call', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await selfish(lab, 2);
    const { pid } = target;
    const before = codeHash(pid);
    const self = join(lab.mount.mountpoint, 'procs/self');
    const good = lab.bpf('full');
    const refusals: [string, RegExp, RegExp][] = [
      [`cp ${good} ${self}/uprobe/wrok`, /^close failed with ENOENT\n$/, /ENOENT wrok: no such/],
      [`cp ${lab.bpf('broken')} ${self}/uprobe/work`, /^close failed with ENOEXEC\n$/, /ENOEXEC/],
      [`cp ${good} ${self}/uprobe/0x10`, /^close failed with ENOENT\n$/, /ENOENT 0x10: no exec/],
      [`cp ${good} ${self}/uprobe/work+9999`, /^close failed with EINVAL\n$/, /EINVAL work\+9999/],
      [`rm ${self}/uprobe/work`, /^unlink failed with ENOENT\n$/, /ENOEXEC|EINVAL/],
    ];
    for (const [line, answer, sentence] of refusals) {
      await order(t, target, line, answer);
      t.match(lab.read(pid, 'last_error'), sentence);
    }
    t.same(lab.hooks(pid), []);
    await sameCode(t, pid, before, 'after all');
    // What was refused once is not refused for ever.
    await order(t, target, `cp ${good} ${self}/uprobe/work`, /^close done 0\n$/);
    await order(t, target, `rm ${self}/uprobe/work`, /^unlink done 0\n$/);
  });
});

await t.test('the shell that is typing', async (t) => {
  await Lab.run(t, async (lab) => {
    const shell = lab.start('bash', [], { env: { M: lab.mount.mountpoint } });
    const { pid } = shell;
    const type = async (line: string) => {
      const from = shell.text.length;
      shell.child.stdin?.write(`${line}\necho "said $?"\n`);
      await eventually(() => /said \d+\n/.test(shell.text.slice(from)), 5000);
      return shell.text.slice(from);
    };
    await type('true');
    const before = codeHash(pid);
    // Another process, the shell's child, copies: the shell itself waits for it in wait4(2).
    const file = `$M/procs/$$/uprobe/libc.so.6:getppid`;
    t.match(await type(`cp ${lab.bpf('full')} ${file}`), /said 0\n/);
    const enabled = `$M/procs/self/hooks/by-id/${lab.hooks(pid)[0]?.['id']}/enabled`;
    t.match(await type(`echo 0 > ${enabled}`), /said 0\n/);
    t.equal(lab.hooks(pid)[0]?.['on'], '0');
    t.match(await type(`echo maybe > ${enabled}`), /write error: Invalid argument\nsaid 1\n/);
    t.match(await type(`echo 1 > ${enabled}`), /said 0\n/);
    t.equal(lab.hooks(pid)[0]?.['on'], '1');
    t.match(await type('rm $M/procs/$$/uprobe/libc.so.6:getppid'), /said 0\n/);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('python attaches to itself', async (t) => {
  await Lab.run(t, async (lab) => {
    const program = `
import os, sys
M, good, bad = sys.argv[1:]
def cp(source, name):
    with open(source, 'rb') as f: data = f.read()
    with open(M + '/procs/self/uprobe/' + name, 'wb', buffering=0) as f: f.write(data)
cp(good, 'libc.so.6:getppid')
for i in range(7): os.getppid()
print(open(M + '/procs/self/hooks/list').read(), flush=True)
try: cp(bad, 'libc.so.6:getpid')
except OSError as e: print('refused', e.errno, flush=True)
os.unlink(M + '/procs/self/uprobe/libc.so.6:getppid')
print('removed', flush=True)
`;
    const ran = lab.start('python3', [
      '-c',
      program,
      lab.mount.mountpoint,
      lab.bpf('full'),
      lab.bpf('broken'),
    ]);
    await eventually(() => !ran.alive);
    t.match(ran.text, / 7 .* libc\.so\.6:getppid[\s\S]*refused 8\nremoved\n/);
  });
});

await t.test(
  'threads that change their process at the same time, and signals meanwhile',
  async (t) => {
    await Lab.run(t, async (lab) => {
      const target = await selfish(lab, 2);
      const { pid } = target;
      const before = codeHash(pid);
      const self = join(lab.mount.mountpoint, 'procs/self');
      await order(t, target, `cp ${lab.bpf('full')} ${self}/uprobe/work`, /^close done 0\n$/);
      await order(t, target, `cp ${lab.bpf('full')} ${self}/uprobe/work,b`, /^close done 0\n$/);
      const [a, b] = lab.hooks(pid).map((hook) => `${self}/hooks/by-id/${hook['id']}/enabled`);
      await order(t, target, `storm 100 ${a} ${b}`, /^storm done 200\n$/);
      t.same(
        lab.hooks(pid).map((hook) => hook['on']),
        ['1', '1'],
      );
      await order(t, target, `rm ${self}/uprobe/work`, /^unlink done 0\n$/);
      await order(t, target, `rm ${self}/uprobe/work,b`, /^unlink done 0\n$/);
      t.notMatch(target.text, /WRONG/);
      await sameCode(t, pid, before, 'after all');
    });
  },
);

await t.test('a second look at what is held', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await selfish(lab, 0);
    const log = () => readFileSync(join(lab.mount.mountpoint, 'log'), 'utf8');
    await order(
      t,
      target,
      `cp ${lab.bpf('full')} ${lab.mount.mountpoint}/procs/self/uprobe/work`,
      /^close done 0\n$/,
    );
    t.match(log(), new RegExp(`pid=${target.pid} commit .*uprobe/work .* ok`));
    t.match(readFileSync(`/proc/${target.pid}/status`, 'utf8'), /^TracerPid:\t0$/m, 'let go');
  });
});
