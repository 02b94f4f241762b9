// Task storage in a process: each thread finds its own value, and it goes with the thread.
import { readdirSync } from 'node:fs';
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(90_000);

const FILE = 'uprobe/work';
const THREADS = 6;

await t.test('a value for each thread', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('threads.c'), [String(THREADS)]);
    const { pid } = target;
    t.ok(await target.says(/started/));
    const before = codeHash(pid);
    t.same(await lab.attach(pid, lab.bpf('tasks'), FILE), { code: 0, out: '', err: '' });
    const entries = () =>
      lab
        .read(pid, 'maps/threads/entries')
        .trim()
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => /^(\d+): \{"calls":(\d+),"tid":(\d+)\}$/.exec(line)?.slice(1).map(Number))
        .map((found) => found ?? [0, 0, -1]);
    const alive = () =>
      readdirSync(`/proc/${pid}/task`)
        .map(Number)
        .filter((tid) => tid !== pid);
    const ascending = (a: number, b: number) => a - b;
    t.ok(await eventually(() => entries().length === THREADS), 'all threads have one');
    const tids = entries().map(([tid]) => tid!);
    t.same(tids.sort(ascending), alive().sort(ascending), 'under their ids');
    t.ok(
      entries().every(([tid, calls, said]) => calls! > 0 && tid === said),
      'each its own',
    );
    t.match(lab.read(pid, 'maps/threads/info'), /^type task_storage$/m);
    t.match(lab.read(pid, 'maps/work.bss/entries'), /"mixed_up":0/, 'never another one’s');

    const one = tids[0]!;
    const remove = `echo -${one} >> ${lab.proc(pid, 'maps/threads/entries')}`;
    const calls = () => entries().find(([tid]) => tid === one)?.[1] ?? Number.MAX_SAFE_INTEGER;
    const counted = calls();
    t.ok(await eventually(() => calls() > counted), 'it counts');
    t.equal((await lab.sh(remove)).code, 0, 'a value is deleted by the thread’s id');
    t.ok(await eventually(() => calls() < counted), 'and begins with zeroes again');

    target.child.stdin!.write('end 2\n');
    t.ok(await target.says(/ended 2/));
    t.ok(await eventually(() => entries().length === THREADS - 2), 'two threads have ended');
    const left = entries().map(([tid]) => tid!);
    t.same(left.sort(ascending), alive().sort(ascending), 'their values with them');
    t.equal((await lab.detach(pid, FILE)).code, 0);
    await sameCode(t, pid, before, 'after rm');
  });
});
