// What hooks are called, how they stack, and what becomes of them when the process lives on, forks,
// executes another program or ends.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode, targetSource } from '../helpers/lab.js';

t.setTimeout(120_000);

async function shapes(lab: Lab): Promise<Running> {
  const target = lab.start(lab.build('shapes.c', [targetSource('twin.c')]));
  await target.says(/round/);
  return target;
}

/** Whether a hook file is hit from now on. */
async function runs(lab: Lab, pid: number, file: string): Promise<boolean> {
  const hits = lab.hits(pid, file);
  return (await eventually(() => lab.hits(pid, file) > hits)) === true;
}

async function attached(t: Test, lab: Lab, pid: number, object: string, where: string) {
  t.same(await lab.attach(pid, object, where), { code: 0, out: '', err: '' }, `cp ${where}`);
}

async function detached(t: Test, lab: Lab, pid: number, where: string) {
  t.same(await lab.detach(pid, where), { code: 0, out: '', err: '' }, `rm ${where}`);
}

await t.test('programs go where their sections say', async (t) => {
  await Lab.run(t, async (lab) => {
    const { pid } = await shapes(lab);
    const before = codeHash(pid);
    const object = lab.bpf('sections', [`-DTARGET="${join(lab.scratch, 'shapes')}"`]);
    t.equal((await lab.sh(`cp ${object} ${lab.proc(pid, 'hooks')}/`)).code, 0, 'cp to hooks/');
    t.same(
      lab.hooks(pid).map((hook) => `${hook['program']} ${hook['kind']} ${hook['target']}`),
      [
        'by_path uprobe shapes:work',
        'by_path_return uretprobe shapes:work',
        'by_module uprobe shapes:after_tiny',
        'by_offset uprobe shapes:steps+0x4',
        'by_name uprobe shapes:twin_elsewhere',
        'in_library uretprobe libc.so.6:usleep',
      ],
    );
    const idle = () => lab.hooks(pid).filter((hook) => hook['hits'] === '0');
    await eventually(() => idle().length === 0);
    t.same(idle(), [], 'each of them runs');
    const first = lab.hooks(pid)[0]?.['id'];
    t.match(lab.read(pid, `hooks/by-id/${first}/info`), /^program by_path$/m);
    t.match(lab.read(pid, `hooks/by-id/${first}/site`), /^old_bytes [0-9a-f]+\nnew_bytes e9/m);
    await detached(t, lab, pid, 'hooks/sections.bpf.o');
    t.same(lab.hooks(pid), []);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('every way to name a function', async (t) => {
  await Lab.run(t, async (lab) => {
    const { pid } = await shapes(lab);
    const before = codeHash(pid);
    const symbols = lab.read(pid, 'symbols/shapes');
    const addr = / ?(0x[0-9a-f]+) \d+ T work$/m.exec(symbols)?.[1] ?? '';
    const bias = /^(0x[0-9a-f]+)/m.exec(lab.read(pid, 'modules').split('\n')[1] ?? '')?.[1] ?? '';
    // The program's text lies at the same offset in the file as in memory.
    const offset = `0x${(BigInt(addr) - BigInt(bias)).toString(16)}`;
    const names: Record<string, string> = {
      work: 'shapes:work',
      'shapes:work': 'shapes:work',
      WORK: 'shapes:work',
      'work,tag': 'shapes:work',
      [addr]: 'shapes:work',
      [`shapes:${offset}`]: 'shapes:work',
      'steps+0x4': 'shapes:steps+0x4',
      'steps+1': 'shapes:steps+0x1',
      'libc:usleep': 'libc.so.6:usleep',
    };
    for (const [name, target] of Object.entries(names)) {
      const file = `uprobe/${name}`;
      await attached(t, lab, pid, lab.bpf('full'), file);
      t.equal(lab.hooks(pid)[0]?.['target'], target, `${name} is ${target}`);
      t.ok(await runs(lab, pid, file), `${name} runs`);
      await detached(t, lab, pid, file);
    }
    // libc has this function twice, for programs linked long ago and for today's.
    await attached(t, lab, pid, lab.bpf('full'), 'uprobe/pthread_kill');
    await detached(t, lab, pid, 'uprobe/pthread_kill');
    await sameCode(t, pid, before, 'after all');
  });
});

await t.test('objects stack on one function and leave in any order', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await shapes(lab);
    const { pid } = target;
    const before = codeHash(pid);
    const files = ['uprobe/work', 'uprobe/work,two', 'uretprobe/work'];
    const orders = [
      [0, 1, 2],
      [0, 2, 1],
      [1, 0, 2],
      [1, 2, 0],
      [2, 0, 1],
      [2, 1, 0],
    ];
    for (const order of orders) {
      await attached(t, lab, pid, lab.bpf('probe'), files[0]!);
      await attached(t, lab, pid, lab.bpf('full'), files[1]!);
      await attached(t, lab, pid, lab.bpf('full'), files[2]!);
      const left = new Set(files);
      for (const i of order) {
        for (const file of left) t.ok(await runs(lab, pid, file), `${order}: ${file} runs`);
        await detached(t, lab, pid, files[i]!);
        left.delete(files[i]!);
      }
      await sameCode(t, pid, before, `order ${order}`);
    }
    t.ok(await target.advances(), 'the target works on');
  });
});

await t.test('a second copy replaces, enabled switches', async (t) => {
  await Lab.run(t, async (lab) => {
    const { pid } = await shapes(lab);
    const before = codeHash(pid);
    await attached(t, lab, pid, lab.bpf('probe'), 'uprobe/work');
    t.same(
      lab.hooks(pid).map((hook) => hook['program']),
      ['enter', 'leave'],
    );
    await attached(t, lab, pid, lab.bpf('full'), 'uprobe/work');
    t.same(
      lab.hooks(pid).map((hook) => hook['program']),
      ['fill'],
      'only the second is left',
    );
    const same = await lab.sh(`cmp ${lab.bpf('full')} ${lab.proc(pid, 'uprobe/work')}`);
    t.equal(same.code, 0, 'and can be read back');
    t.ok(await runs(lab, pid, 'uprobe/work'));

    const enabled = `hooks/by-id/${lab.hooks(pid)[0]?.['id']}/enabled`;
    t.equal((await lab.sh(`echo 0 > ${lab.proc(pid, enabled)}`)).code, 0, 'echo 0');
    t.equal(lab.read(pid, enabled), '0\n');
    const off = lab.hits(pid, 'uprobe/work');
    t.ok(await eventually(async () => (await lab.sh('sleep 0.1')).code === 0));
    t.equal(lab.hits(pid, 'uprobe/work'), off, 'a disabled hook does not run');
    t.equal((await lab.sh(`echo enable > ${lab.proc(pid, enabled)}`)).code, 0, 'echo enable');
    t.ok(await runs(lab, pid, 'uprobe/work'), 'an enabled hook runs again');
    const bad = await lab.sh(`echo maybe > ${lab.proc(pid, enabled)}`);
    t.match(bad.err, /Invalid argument/);
    t.match(lab.read(pid, 'last_error'), /EINVAL maybe: not a state/);
    await detached(t, lab, pid, 'uprobe/work');
    await sameCode(t, pid, before, 'after rm');
  });
});

async function lives(lab: Lab): Promise<Running> {
  const target = lab.start(lab.build('lives.c'));
  await target.says(/round/);
  return target;
}

await t.test('exec: hooks vanish, the new program can be probed', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await lives(lab);
    const { pid } = target;
    await attached(t, lab, pid, lab.bpf('probe'), 'uprobe/work');
    t.ok(await runs(lab, pid, 'uprobe/work'));
    target.child.kill('SIGUSR1');
    t.ok(await target.says(/born[\s\S]*born/), 'the target executed itself');
    t.ok(await target.advances(), 'and works');
    t.ok(await eventually(() => lab.hooks(pid).length === 0), 'the hooks are gone');
    t.ok(
      await eventually(() => !readdirSync(lab.proc(pid, 'uprobe')).includes('work')),
      'and so is their file',
    );
    const before = codeHash(pid);
    await attached(t, lab, pid, lab.bpf('probe'), 'uprobe/work');
    t.ok(await runs(lab, pid, 'uprobe/work'), 'the new program is probed');
    await detached(t, lab, pid, 'uprobe/work');
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'the target works on');
  });
});

await t.test('exit: the directory vanishes', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await lives(lab);
    await attached(t, lab, target.pid, lab.bpf('probe'), 'uprobe/work');
    const events = lab.follow(lab.proc(target.pid, 'events'));
    await target.end('SIGTERM');
    t.ok(await eventually(() => !existsSync(lab.proc(target.pid))), 'no such directory');
    t.ok(await eventually(() => !events.alive), 'who followed its events is told the end');
    const status = () => readFileSync(join(lab.mount.mountpoint, 'status'), 'utf8');
    t.ok(await eventually(() => /^processes_entered 0$/m.test(status())), 'nothing is kept');
  });
});

await t.test('fork: the child of a probed process works', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await lives(lab);
    const { pid } = target;
    const before = codeHash(pid);
    await attached(t, lab, pid, lab.bpf('probe'), 'uprobe/work');
    target.child.kill('SIGUSR2');
    const forked = await target.says(/forked (\d+)/);
    lab.watch(Number(forked?.[1]));
    t.ok(await target.says(/child 20\n/), 'the child works with the probe in it');
    await detached(t, lab, pid, 'uprobe/work');
    await sameCode(t, pid, before, 'the parent, after rm');
    t.ok(await target.says(/child ended with 0/, 30_000), 'the child came to its good end');
    t.ok(await target.advances(), 'the parent works on');
  });
});
