// Reads that ask nobody whether their fault would kill: in a process that changes its signal masks
// in every way there is, while bad addresses are read behind each change.
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

const CYCLES = 4;
const ROUNDS = 10;
/** What masks.c counts for each load of its plugin. */
const PLUGS_PROGRESS = 20;
/** For what takes a second or two: other work of the machine must not matter. */
const PATIENCE_MS = 90_000;
const OBJECT = 'uprobe/touch';
const OK = { code: 0, out: '', err: '' };

t.setTimeout(900_000);

type T = Parameters<typeof sameCode>[0];

const reads = (lab: Lab, pid: number) => /^reads (.*)$/m.exec(lab.read(pid, 'info'))?.[1];
const follows = (lab: Lab, pid: number) =>
  eventually(() => reads(lab, pid) === 'followed', PATIENCE_MS);
const livesOn = async (target: Running, rounds = ROUNDS) => {
  const until = target.round + rounds;
  await eventually(() => target.round > until || !target.alive, PATIENCE_MS);
  return target.alive && target.round > until;
};

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

/** A thread that does not get the processor in time does not stop in time. */
const detaches = (lab: Lab, pid: number) =>
  eventually(async () => (await lab.detach(pid, OBJECT)).code === 0, PATIENCE_MS);

async function begin(lab: Lab, plugin?: string): Promise<Running> {
  const target = lab.start(lab.build('masks.c'), plugin === undefined ? [] : [plugin]);
  await target.says(/round [1-9]/, PATIENCE_MS);
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
      t.ok(await livesOn(target), `cycle ${cycle}: lives on`);
      t.equal(reads(lab, target.pid), 'followed', 'all the time');
      t.same(outcomes(lab, target.pid), EXPECTED, `cycle ${cycle}: every read as it should be`);
      t.ok(await detaches(lab, target.pid), 'detached');
      await sameCode(t, target.pid, before, `cycle ${cycle}`);
    }
    // Nothing that the kernel would look at is left: threads are preempted, end and begin.
    await sleep(3000);
    t.ok(await livesOn(target), 'lives on without us');
    stillRight(t, target);
  });
});

await t.test('a module that comes late changes masks by a call of its own', async (t) => {
  await Lab.run(t, async (lab) => {
    const plugin = lab.build('masker.c', ['-shared', '-fPIC'], { name: 'masker.so' });
    const target = await begin(lab, plugin);
    t.same(await lab.attach(target.pid, lab.bpf('reader'), OBJECT), OK, 'attached');
    t.ok(await follows(lab, target.pid), 'reads need no system call while it is there');
    t.ok(await livesOn(target), 'lives on');
    t.ok(await follows(lab, target.pid), 'again, after it was loaded again');
    t.same(outcomes(lab, target.pid), EXPECTED, 'every read as it should be');
    t.ok(await detaches(lab, target.pid), 'detached');
    t.ok(await eventually(() => reads(lab, target.pid) === 'none', PATIENCE_MS), 'out of it');
    t.ok(await livesOn(target, 1), 'lives on without us');
    stillRight(t, target);
  });
});

await t.test(
  'a module that goes and comes again lies where it lay, with its own bytes',
  async (t) => {
    await Lab.run(t, async (lab) => {
      const plugin = lab.build('masker.c', ['-shared', '-fPIC'], { name: 'masker.so' });
      const target = lab.start(lab.build('masks.c', ['-DONLY_PLUGS'], { name: 'plugs' }), [plugin]);
      await target.says(/round [1-9]/, PATIENCE_MS);
      t.same(await lab.attach(target.pid, lab.bpf('reader'), OBJECT), OK, 'attached');
      for (let time = 1; time <= 3; time++) {
        t.ok(await follows(lab, target.pid), `time ${time}: reads need no system call`);
        t.ok(await livesOn(target, 4 * PLUGS_PROGRESS), 'lives on: loaded again and again');
      }
      t.same(outcomes(lab, target.pid), EXPECTED, 'every read as it should be');
      t.ok(await detaches(lab, target.pid), 'detached');
      stillRight(t, target);
    });
  },
);

await t.test('a handler in which its own signal is open ends it when it is called', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await begin(lab);
    t.same(await lab.attach(target.pid, lab.bpf('reader'), OBJECT), OK, 'attached');
    t.ok(await follows(lab, target.pid), 'reads need no system call as long as none is');
    target.child.kill('SIGHUP');
    t.ok(await target.says(/open handler called/, PATIENCE_MS), 'it is called');
    t.ok(
      await eventually(() => reads(lab, target.pid) === 'guarded', PATIENCE_MS),
      'reads ask from now on',
    );
    t.ok(await livesOn(target), 'lives on');
    t.ok(await detaches(lab, target.pid), 'detached');
    t.ok(await eventually(() => reads(lab, target.pid) === 'none', PATIENCE_MS), 'out of it');
    const before = target.text.length;
    target.child.kill('SIGHUP');
    const again = () => target.text.slice(before).includes('open handler called');
    t.ok(await eventually(again), 'the program has its own handler back');
    stillRight(t, target);
  });
});

await t.test('where masks cannot be followed each read asks', async (t) => {
  await Lab.run(t, async (lab) => {
    // A handler in which its own signal is open: nothing tells that a thread is in it.
    const target = lab.start(lab.build('masks.c', ['-DOPEN_HANDLER'], { name: 'open' }));
    await target.says(/round [1-9]/, PATIENCE_MS);
    t.same(await lab.attach(target.pid, lab.bpf('reader'), OBJECT), OK, 'attached');
    await sleep(2500);
    t.equal(reads(lab, target.pid), 'guarded', 'SA_NODEFER');
    t.ok(await livesOn(target), 'lives on');
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
    t.ok(await livesOn(target), 'lives on');
    t.ok(lab.hits(target.pid, 'uprobe/vfork') > 0, 'it counts');
    t.same(outcomes(lab, target.pid), EXPECTED, 'every read as it should be');
    stillRight(t, target);
  });
});
