// Reads that ask nobody whether their fault would kill: in a process that changes its signal masks
// in every way there is, while bad addresses are read behind each change.
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

const CYCLES = 4;
const ROUNDS = 30;
const OBJECT = 'uprobe/touch';
const OK = { code: 0, out: '', err: '' };

t.setTimeout(180_000);

type T = Parameters<typeof sameCode>[0];

const reads = (lab: Lab, pid: number) => /^reads (.*)$/m.exec(lab.read(pid, 'info'))?.[1];
const follows = (lab: Lab, pid: number) => eventually(() => reads(lab, pid) === 'followed', 30_000);

/** Reads of good and of bad pointers, by what came of them. */
function outcomes(lab: Lab, pid: number) {
  const lines = lab.read(pid, 'maps/results/entries').trimEnd().split('\n');
  const seen = lines.map((line) => Number(line.split(': ')[1]));
  const of = (kind: number) =>
    ['ok', 'fault', 'other', 'wrong', 'text ok', 'text fault', 'text other', 'text wrong'].filter(
      (_, outcome) => (seen[kind * 8 + outcome] ?? 0) > 0,
    );
  return { good: of(0), bad: of(2) };
}

const EXPECTED = { good: ['ok', 'text ok'], bad: ['fault', 'text fault'] };

async function begin(lab: Lab, plugin?: string): Promise<Running> {
  const target = lab.start(lab.build('masks.c'), plugin === undefined ? [] : [plugin]);
  await target.says(/round [1-9]/);
  return target;
}

function stillRight(t: T, target: Running) {
  t.notMatch(target.text, /WRONG/, 'every mask was as the program had set it');
  t.equal(target.child.signalCode, null, 'nothing killed it');
}

await t.test('every change of a mask is seen', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await begin(lab);
    const before = codeHash(target.pid);
    for (let cycle = 1; cycle <= CYCLES; cycle++) {
      t.same(await lab.attach(target.pid, lab.bpf('reader'), OBJECT), OK, 'attached');
      t.ok(await follows(lab, target.pid), `cycle ${cycle}: reads need no system call`);
      t.ok(await target.advances(target.round + ROUNDS), `cycle ${cycle}: lives on`);
      t.equal(reads(lab, target.pid), 'followed', 'all the time');
      t.same(outcomes(lab, target.pid), EXPECTED, `cycle ${cycle}: every read as it should be`);
      t.same(await lab.detach(target.pid, OBJECT), OK, 'detached');
      await sameCode(t, target.pid, before, `cycle ${cycle}`);
    }
    // Nothing that the kernel would look at is left: threads are preempted, end and begin.
    const { round } = target;
    await sleep(3000);
    t.ok(target.round > round, 'lives on without us');
    stillRight(t, target);
  });
});

await t.test('a module that comes late changes masks by a call of its own', async (t) => {
  await Lab.run(t, async (lab) => {
    const plugin = lab.build('masker.c', ['-shared', '-fPIC'], { name: 'masker.so' });
    const target = await begin(lab, plugin);
    t.same(await lab.attach(target.pid, lab.bpf('reader'), OBJECT), OK, 'attached');
    t.ok(await follows(lab, target.pid), 'reads need no system call while it is there');
    t.ok(await target.advances(target.round + ROUNDS), 'lives on');
    t.ok(await follows(lab, target.pid), 'again, after it was loaded again');
    t.same(outcomes(lab, target.pid), EXPECTED, 'every read as it should be');
    t.same(await lab.detach(target.pid, OBJECT), OK, 'detached');
    t.ok(await eventually(() => reads(lab, target.pid) === 'none'), 'out of it');
    t.ok(await target.advances(), 'lives on without us');
    stillRight(t, target);
  });
});

await t.test('where masks cannot be followed each read asks', async (t) => {
  await Lab.run(t, async (lab) => {
    // A handler in which its own signal is open: nothing tells that a thread is in it.
    const target = lab.start(lab.build('masks.c', ['-DOPEN_HANDLER'], { name: 'open' }));
    await target.says(/round [1-9]/);
    t.same(await lab.attach(target.pid, lab.bpf('reader'), OBJECT), OK, 'attached');
    await sleep(2500);
    t.equal(reads(lab, target.pid), 'guarded', 'SA_NODEFER');
    t.ok(await target.advances(target.round + ROUNDS), 'lives on');
    t.same(outcomes(lab, target.pid), EXPECTED, 'every read as it should be');
    stillRight(t, target);
  });
});

await t.test('a probe on a function that changes the mask comes first', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await begin(lab);
    t.same(await lab.attach(target.pid, lab.bpf('reader'), OBJECT), OK, 'attached');
    t.ok(await follows(lab, target.pid), 'reads need no system call');
    const count = lab.bpf('entry');
    for (const name of ['pthread_sigmask', 'vfork', 'sigprocmask', 'syscall', 'pthread_create']) {
      t.same(await lab.attach(target.pid, count, `uprobe/${name}`), OK, `${name} takes a probe`);
    }
    t.ok(await target.advances(target.round + ROUNDS), 'lives on');
    t.ok(lab.hits(target.pid, 'uprobe/vfork') > 0, 'it counts');
    t.same(outcomes(lab, target.pid), EXPECTED, 'every read as it should be');
    stillRight(t, target);
  });
});
