// Others who change the same code: Frida and its like, and debuggers. What they have changed is
// refused; what they do to a site of ours is never undone by us, and never undoes the process.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';
import { startMount } from '../helpers/mount.js';

const OK = { code: 0, out: '', err: '' };
const VICTIM = 'uprobe/victim';
const BUSY = /Device or resource busy/;
const FORMS = ['jmp', 'push', 'mov', 'slot'];
const main = fileURLToPath(new URL('../../src/main.js', import.meta.url));

t.setTimeout(120_000);

async function patched(lab: Lab): Promise<Running> {
  const target = lab.start(lab.build('patched.c'));
  await target.says(/round/);
  return target;
}

/** Has the target do something; how often its own trampoline was passed by then. */
async function does(target: Running, what: string): Promise<number> {
  const from = target.text.length;
  target.child.stdin?.write(`${what}\n`);
  const said = await target.says(new RegExp(`^[^]{${from}}[^]*did ${what} passes (\\d+)\n`));
  return Number(said?.[1]);
}

async function worksOn(t: Test, target: Running, when: string): Promise<void> {
  t.ok(await target.advances(), `${when}: works on`);
  t.notMatch(target.text, /WRONG/);
}

await t.test("somebody else's patch was there first: refused in each form", async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await patched(lab);
    const { pid } = target;
    const before = codeHash(pid);
    for (const form of FORMS) {
      await does(target, `patch ${form}`);
      const changed = codeHash(pid);
      for (const object of ['entry', 'probe']) {
        t.match((await lab.attach(pid, lab.bpf(object), VICTIM)).err, BUSY, `${form}, ${object}`);
        t.match(lab.read(pid, 'last_error'), /EBUSY victim: .*somebody else changed the code/);
      }
      await sameCode(t, pid, changed, `${form}: their patch`);
      await worksOn(t, target, form);
      t.ok((await does(target, 'revert')) > 0, 'and their trampoline was in use');
      t.same(await lab.attach(pid, lab.bpf('probe'), VICTIM), OK, 'when they are gone it is taken');
      t.same(await lab.detach(pid, VICTIM), OK);
      await sameCode(t, pid, before, `${form}: after rm`);
    }
  });
});

await t.test("somebody else's jump over ours stays, and so does what it leads to", async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await patched(lab);
    const { pid } = target;
    const before = codeHash(pid);
    t.same(await lab.attach(pid, lab.bpf('entry'), VICTIM), OK);
    await does(target, 'patch jmp');
    const changed = codeHash(pid);
    const hits = lab.hits(pid, VICTIM);
    t.ok(await eventually(() => lab.hits(pid, VICTIM) > hits), 'both run');
    t.match((await lab.detach(pid, VICTIM)).err, BUSY, 'rm is refused');
    t.match(lab.read(pid, 'last_error'), /EBUSY .*somebody else changed the code there/);
    await sameCode(t, pid, changed, 'after rm was refused');
    const [hook] = lab.hooks(pid);
    t.same(await lab.sh(`echo 0 > ${lab.proc(pid, `hooks/by-id/${hook?.['id']}/enabled`)}`), OK);
    const off = lab.hits(pid, VICTIM);
    await worksOn(t, target, 'switched off');
    t.equal(lab.hits(pid, VICTIM), off, 'a hook can be switched off meanwhile');
    t.same(await lab.attach(pid, lab.bpf('probe'), VICTIM), OK, 'and replaced');
    t.ok(await eventually(() => lab.hits(pid, VICTIM) > 0), 'the new one runs');
    t.ok((await does(target, 'revert')) > 0, 'they go');
    t.same(await lab.detach(pid, VICTIM), OK, 'then rm takes ours out');
    await sameCode(t, pid, before, 'after rm');
    await worksOn(t, target, 'after rm');
  });
});

await t.test('a daemon that finds it so leaves it so', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await patched(lab);
    const { pid } = target;
    const before = codeHash(pid);
    const first = await startMount({ tree: 'real' });
    const file = join(first.mountpoint, 'procs', String(pid), VICTIM);
    t.same(await lab.sh(`cp ${lab.bpf('tally')} ${file}`), OK);
    await does(target, 'patch jmp');
    first.daemon.kill('SIGKILL');
    await once(first.daemon, 'exit');
    await lab.sh(`${process.execPath} ${main} umount ${first.mountpoint}`);
    const next = lab.start(process.execPath, [main, 'mount', first.mountpoint]);
    t.ok(await next.says(/is mounted on/), 'the next daemon');
    const hooks = join(first.mountpoint, 'procs', String(pid), 'hooks/list');
    const isAdopted = () => readFileSync(hooks, 'utf8').includes(VICTIM);
    t.ok(await eventually(isAdopted), 'has the hook');
    t.match((await lab.sh(`rm ${file}`)).err, BUSY, 'refuses, too');
    await worksOn(t, target, 'after rm was refused');
    await next.end('SIGTERM');
    await worksOn(t, target, 'when the daemon has ended');
    const last = lab.start(process.execPath, [main, 'mount', first.mountpoint]);
    t.ok(await last.says(/is mounted on/), 'one more');
    t.ok(await eventually(isAdopted), 'has it, too');
    t.ok((await does(target, 'revert')) > 0);
    t.same(await lab.sh(`rm ${file}`), OK, 'ours goes when theirs has gone');
    await sameCode(t, pid, before, 'after rm');
    await last.end('SIGTERM');
    await first.stop();
  });
});

await t.test("a debugger's breakpoint on our jump", async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await patched(lab);
    const { pid } = target;
    const before = codeHash(pid);
    t.same(await lab.attach(pid, lab.bpf('tally'), VICTIM), OK);
    const probed = codeHash(pid);
    const gdb = lab.start('gdb', ['-q', '-nx', '-p', String(pid)]);
    const says = async (command: string, answer: RegExp) => {
      const from = gdb.text.length;
      gdb.child.stdin?.write(`${command}\n`);
      return await gdb.says(new RegExp(`^[^]{${from}}[^]*${answer.source}`));
    };
    t.ok(await says('break *victim', /Breakpoint 1 at/));
    for (let i = 0; i < 3; i++) {
      t.ok(await says('continue', /Breakpoint 1, /), `stops there, ${i + 1}`);
    }
    t.match((await lab.detach(pid, VICTIM)).err, BUSY, 'rm meanwhile is refused');
    t.match(lab.read(pid, 'last_error'), /EBUSY .*another tracer is attached/);
    t.ok(await says('delete', /gdb/));
    t.ok(await says('detach', /detached|Detaching/));
    await gdb.end();
    await sameCode(t, pid, probed, 'gdb has gone');
    const hits = lab.hits(pid, VICTIM);
    t.ok(await eventually(() => lab.hits(pid, VICTIM) > hits), 'the probe runs');
    await worksOn(t, target, 'without gdb');
    t.same(await lab.detach(pid, VICTIM), OK);
    await sameCode(t, pid, before, 'after rm');
  });
});
