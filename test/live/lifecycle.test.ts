// What happens around an attach: threads that come and go, a stopped process, a daemon that ends or
// is killed. The target must not notice any of it.
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';
import { mountsBelow, startMount } from '../helpers/mount.js';

t.setTimeout(120_000);

const fine = { code: 0, out: '', err: '' };
const WORK = 'uprobe/work';

async function started(lab: Lab, source: string, args: string[] = []): Promise<Running> {
  const target = lab.start(lab.build(source), args);
  await target.says(/round [1-9]/);
  return target;
}

const isHit = (lab: Lab, pid: number) => eventually(() => lab.hits(pid, WORK) > 0);

const stateOf = (pid: number) =>
  /^State:\s(\w)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];

await t.test('threads come and go while probes do', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await started(lab, 'churner.c', ['4', '10000']);
    const { pid } = target;
    const before = codeHash(pid);
    for (let cycle = 1; cycle <= 10; cycle++) {
      t.same(await lab.attach(pid, lab.bpf('probe'), WORK), fine, `cycle ${cycle}: attached`);
      t.ok(await isHit(lab, pid), `cycle ${cycle}: new threads are seen`);
      t.same(await lab.detach(pid, WORK), fine, `cycle ${cycle}: detached`);
    }
    await sameCode(t, pid, before, 'after all cycles');
    t.ok(await target.advances(), 'threads still come and go');
    t.notMatch(target.text, /WRONG/);
  });
});

await t.test('a stopped process stays stopped', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await started(lab, 'lives.c');
    const { pid } = target;
    const before = codeHash(pid);
    target.child.kill('SIGSTOP');
    t.ok(await eventually(() => stateOf(pid) === 'T'), 'stopped');
    t.same(await lab.attach(pid, lab.bpf('probe'), WORK), fine, 'attached meanwhile');
    t.ok(await eventually(() => stateOf(pid) === 'T'), 'still stopped');
    t.equal(lab.hits(pid, WORK), 0, 'nothing ran');
    target.child.kill('SIGCONT');
    t.ok(await isHit(lab, pid), 'it goes on, and is seen');
    t.ok(await target.advances());
    target.child.kill('SIGSTOP');
    t.ok(await eventually(() => stateOf(pid) === 'T'), 'stopped again');
    t.same(await lab.detach(pid, WORK), fine, 'detached meanwhile');
    t.ok(await eventually(() => stateOf(pid) === 'T'), 'still stopped');
    target.child.kill('SIGCONT');
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'it goes on');
  });
});

await t.test('a daemon that is asked to end leaves nothing in its targets', async (t) => {
  await Lab.run(t, async (lab) => {
    const targets = [await started(lab, 'lives.c'), await started(lab, 'churner.c', ['2', '5000'])];
    const hashes = targets.map((target) => codeHash(target.pid));
    const other = await startMount({ tree: 'real' });
    for (const { pid } of targets) {
      const to = join(other.mountpoint, 'procs', String(pid), WORK);
      t.same(await lab.sh(`cp ${lab.bpf('probe')} ${to}`), fine, 'attached');
    }
    await other.stop(); // SIGTERM; fails when the mount is left
    for (const [i, target] of targets.entries()) {
      await sameCode(t, target.pid, hashes[i]!, 'after the end of the daemon');
      t.ok(await target.advances(), 'the target works on');
      t.notMatch(target.text, /WRONG/);
    }
  });
});

const main = fileURLToPath(new URL('../../src/main.js', import.meta.url));

await t.test('a daemon that is killed leaves its targets running', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await started(lab, 'lives.c');
    const { pid } = target;
    const other = await startMount({ tree: 'real' });
    const file = (name: string) => join(other.mountpoint, 'procs', String(pid), name);
    t.same(await lab.sh(`cp ${lab.bpf('probe')} ${file(WORK)}`), fine, 'attached');
    other.daemon.kill('SIGKILL');
    await once(other.daemon, 'exit');
    t.ok(await target.advances(), 'the target works without the daemon');

    const next = lab.start(process.execPath, [main, 'mount', other.mountpoint]);
    t.ok(await next.says(/is mounted on/), 'the next one mounts at the same place');
    t.ok(existsSync(file('info')) && readdirSync(other.mountpoint).includes('procs'), 'and serves');
    t.match(readFileSync(file('hooks/list'), 'utf8'), /uprobe\/work/, 'it knows the hooks');
    const fresh = await started(lab, 'churner.c', ['1', '5000']);
    const elsewhere = join(other.mountpoint, 'procs', String(fresh.pid), WORK);
    t.same(await lab.sh(`cp ${lab.bpf('probe')} ${elsewhere}`), fine, 'another process: fine');
    t.same(await lab.sh(`rm ${elsewhere}`), fine);
    t.ok(await target.advances(), 'the target works');
    await next.end('SIGTERM');
    t.ok(await target.advances(), 'the target works on');
    await other.stop();
    t.same(mountsBelow(other.mountpoint), [], 'no mount is left');
  });
});

await t.test('constants of a program: the process may read them, nothing else', async (t) => {
  await Lab.run(t, async (lab) => {
    const { pid } = await started(lab, 'caller.c', ['1']);
    t.same(await lab.attach(pid, lab.bpf('tally'), WORK), fine);
    // A mapping's line in smaps, then what is known of it.
    const smaps = readFileSync(`/proc/${pid}/smaps`, 'latin1').split(/\n(?=[0-9a-f]+-[0-9a-f]+ )/);
    const maps = smaps.filter((one) => one.includes('/memfd:bpftime_map'));
    const constants = maps.filter((one) => / r--s /.test(one));
    t.equal(constants.length, 1, 'the .rodata of its object is mapped read-only');
    t.notMatch(constants[0], /^VmFlags:.* mw\b/m, 'and cannot be made writable');
    t.ok(maps.length > 3, 'among its other maps');
    t.match(lab.read(pid, 'maps/work.rodata/entries'), /"?edition"?\W+0/, 'people read it, too');
    t.same(await lab.detach(pid, WORK), fine);
  });
});

await t.test('a process that ended is said to have, wherever it is named', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await started(lab, 'caller.c', ['1']);
    const { pid } = target;
    const object = lab.bpf('probe');
    t.same(await lab.attach(pid, object, WORK), fine);
    const [other] = readdirSync(`/proc/${pid}/task`).filter((tid) => Number(tid) !== pid);
    t.match((await lab.sh(`ls $M/procs/${other}`)).err, /No such file/, 'a thread is none');
    const thread = `ENOENT ${other}: a thread of process ${pid} \\(name the process\\)`;
    t.match((await lab.sh('cat $M/last_error')).out, new RegExp(thread));
    const inside = lab.start('bash', ['-c', `cd ${lab.proc(pid)} && echo in && read && cat info`]);
    await inside.says(/in\n/);
    await target.end();
    const ended = `ESRCH ${pid}: the process has ended, and its hooks with it\\n$`;
    for (const command of [
      `cat $M/procs/${pid}/info`,
      `cp ${object} $M/procs/${pid}/${WORK}`,
      `rm $M/procs/${pid}/${WORK}`,
      `ls $M/procs/${pid}`,
    ]) {
      t.match((await lab.sh(command)).err, /: No such process\n$/, command);
      t.match((await lab.sh('cat $M/last_error')).out, new RegExp(ended), 'with a sentence');
    }
    inside.child.stdin?.write('\n');
    t.ok(await inside.says(/cat: info: No such process/), 'and who stands in its directory');
  });
});
