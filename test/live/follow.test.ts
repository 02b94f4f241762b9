// fork and exec of a probed process, followed as `follow` in its `info` says.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { codeHash, codeRanges } from '../helpers/code-hash.js';
import { eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
const WORK = 'uprobe/work';

async function lives(lab: Lab): Promise<Running> {
  const target = lab.start(lab.build('lives.c'));
  await target.says(/round/);
  return target;
}

async function fork(lab: Lab, target: Running): Promise<number> {
  target.child.kill('SIGUSR2');
  const child = Number((await target.says(/forked (\d+)/))?.[1]);
  lab.watch(child);
  return child;
}

async function follow(t: Test, lab: Lab, pid: number, value: string) {
  t.same(await lab.sh(`echo follow=${value} > ${lab.proc(pid, 'info')}`), OK, `follow=${value}`);
  t.match(lab.read(pid, 'info'), new RegExp(`^follow ${value}$`, 'm'));
}

const has = (lab: Lab, pid: number, file: string) =>
  eventually(() => lab.hooks(pid).some((hook) => hook['file'] === file));

await t.test('a child that is not followed has its own code back', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await lives(lab);
    const { pid } = target;
    t.match(lab.read(pid, 'info'), /^follow none$/m, 'which is the default');
    const before = codeHash(pid);
    t.same(await lab.attach(pid, lab.bpf('tally'), WORK), OK);
    const child = await fork(lab, target);
    await sameCode(t, child, before, 'the child');
    t.same(lab.hooks(child), [], 'no hooks are listed in it');
    t.ok(await has(lab, pid, WORK), 'the parent keeps its own');
    const hits = lab.hits(pid, WORK);
    t.ok(await eventually(() => lab.hits(pid, WORK) > hits), 'and counts');
    t.ok(await target.says(/child ended with 0/, 30_000), 'the child came to its good end');
    t.same(await lab.detach(pid, WORK), OK);
    await sameCode(t, pid, before, 'the parent, after rm');
  });
});

await t.test('a child that is followed has hooks of its own', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await lives(lab);
    const { pid } = target;
    const before = codeHash(pid);
    await follow(t, lab, pid, 'fork');
    t.same(await lab.attach(pid, lab.bpf('tally'), WORK), OK);
    const child = await fork(lab, target);
    t.ok(await has(lab, child, WORK), 'they are listed');
    t.match(lab.read(child, 'info'), /^follow fork$/m, 'and so will its children be');
    t.ok(await eventually(() => lab.hits(child, WORK) > 0), 'it counts');
    const same = await lab.sh(`cmp ${lab.bpf('tally')} ${lab.proc(child, WORK)}`);
    t.equal(same.code, 0, 'the file reads back');
    t.same(await lab.detach(child, WORK), OK, 'rm in the child');
    await sameCode(t, child, before, 'the child, after rm');
    t.ok(await has(lab, pid, WORK), 'the parent keeps its hooks');
    t.ok(await target.says(/child ended with 0/, 30_000), 'the child came to its good end');
    t.same(await lab.detach(pid, WORK), OK);
    await sameCode(t, pid, before, 'the parent, after rm');
  });
});

await t.test('exec: the same objects in the next program', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await lives(lab);
    const { pid } = target;
    await follow(t, lab, pid, 'exec');
    t.same(await lab.attach(pid, lab.bpf('tally'), WORK), OK);
    const first = lab.hooks(pid)[0]?.['id'];
    target.child.kill('SIGUSR1');
    t.ok(await target.says(/born[\s\S]*born/), 'the target executed itself');
    t.ok(
      await eventually(() => {
        const [hook] = lab.hooks(pid);
        return hook?.['file'] === WORK && hook['id'] !== first;
      }),
      'it is attached again',
    );
    t.ok(await eventually(() => lab.hits(pid, WORK) > 0), 'and runs');
    t.same(await lab.detach(pid, WORK), OK, 'its file can be removed');
    t.ok(await eventually(() => !codeRanges(pid).some((r) => r.path.startsWith('/memfd:bpftime'))));
    t.ok(await target.advances());
  });
});

await t.test('exec: what the next program does not have is said', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start('bash', ['-c', 'echo ready; read x; exec sleep 1000']);
    await target.says(/ready/);
    const { pid } = target;
    await follow(t, lab, pid, 'all');
    t.same(await lab.attach(pid, lab.bpf('full'), 'uprobe/execute_command'), OK);
    target.child.stdin?.write('go\n');
    const log = () => readFileSync(join(lab.mount.mountpoint, 'error_log'), 'utf8');
    t.ok(await eventually(() => /ENOENT execute_command: no such/.test(log())), 'in error_log');
    t.same(lab.hooks(pid), [], 'nothing is attached');
    t.ok(target.alive, 'the program runs');
  });
});

await t.test('a shell that runs commands works, followed or not', async (t) => {
  await Lab.run(t, async (lab) => {
    for (const value of ['none', 'all']) {
      const script = 'i=0; while :; do /bin/true || echo WRONG; i=$((i+1)); echo round $i; done';
      const target = lab.start('bash', ['-c', script]);
      await target.says(/round/);
      const { pid } = target;
      const before = codeHash(pid);
      await follow(t, lab, pid, value);
      t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/execute_command'), OK);
      const from = target.round;
      t.ok(await eventually(() => target.round > from + 50, 30_000), `${value}: commands run`);
      t.same(await lab.detach(pid, 'uprobe/execute_command'), OK);
      await sameCode(t, pid, before, `${value}: after rm`);
      t.notMatch(target.text, /WRONG|rror|fault/);
      await target.end();
    }
  });
});

await t.test('what is no setting is refused', async (t) => {
  await Lab.run(t, async (lab) => {
    const { pid } = await lives(lab);
    const ran = await lab.sh(`echo follow=sometimes > ${lab.proc(pid, 'info')}`);
    t.match(ran.err, /Invalid argument/);
    t.match(lab.read(pid, 'last_error'), /EINVAL sometimes: not a way to follow/);
  });
});
