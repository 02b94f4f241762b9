// Changes that stop nobody: switching a hook off and on, a further object on a function that is
// probed, a replacement. `pause_ns_total` counts the time that threads stood still, in nanoseconds.
import t from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
const THREADS = 3;
const TOGGLES = 40;
// More bodies than a head has lanes, several times.
const GUESTS = 20;

async function caller(lab: Lab): Promise<Running> {
  const target = lab.start(lab.build('caller.c'), [String(THREADS)]);
  await target.says(/round/);
  target.child.stdin?.write('go\n');
  return target;
}

const pauses = (lab: Lab, pid: number) =>
  Number(/^pause_ns_total +(\d+)$/m.exec(lab.read(pid, 'info'))?.[1]);

async function runs(lab: Lab, pid: number, file: string): Promise<boolean> {
  const hits = lab.hits(pid, file);
  return (await eventually(() => lab.hits(pid, file) > hits)) === true;
}

await t.test('a hook goes off and on while threads are in it, and nobody is stopped', (t) =>
  Lab.run(t, async (lab) => {
    const target = await caller(lab);
    const { pid } = target;
    const before = codeHash(pid);
    t.same(await lab.attach(pid, lab.bpf('entry'), 'uprobe/work'), OK);
    const attachPause = pauses(lab, pid);
    t.ok(attachPause > 0, 'attaching took a stop');
    const enabled = lab.proc(pid, `hooks/by-id/${lab.hooks(pid)[0]?.['id']}/enabled`);
    for (let n = 0; n < TOGGLES; n++) {
      const ran = await lab.sh(`echo 0 > ${enabled}`);
      if (ran.code !== 0) t.fail(`off ${n}: ${ran.err}`);
      if (n === 0) {
        // A call that was under way may still count.
        await lab.sh('sleep 0.05');
        const off = lab.hits(pid, 'uprobe/work');
        await lab.sh('sleep 0.2');
        t.equal(lab.hits(pid, 'uprobe/work'), off, 'off is off');
      }
      await lab.sh(`echo 1 > ${enabled}`);
    }
    t.ok(await runs(lab, pid, 'uprobe/work'), 'on is on');
    t.equal(pauses(lab, pid), attachPause, `${2 * TOGGLES} times nobody stood still`);
    t.same(await lab.detach(pid, 'uprobe/work'), OK);
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.says(/round/), 'the target works on');
  }),
);

await t.test('more objects on a probed function, and more than a head has lanes', (t) =>
  Lab.run(t, async (lab) => {
    const target = await caller(lab);
    const { pid } = target;
    const before = codeHash(pid);
    const object = lab.bpf('entry');
    t.same(await lab.attach(pid, object, 'uprobe/work'), OK);
    const first = pauses(lab, pid);
    t.same(await lab.attach(pid, object, 'uprobe/work,guest'), OK);
    t.equal(pauses(lab, pid), first, 'the second joined without a stop');
    const guest = lab.hooks(pid).find((one) => one['id'] !== '1')?.['id'];
    t.match(lab.read(pid, `hooks/by-id/${guest}/info`), /^pause_ns +0$/m, 'and says so');
    t.ok(await runs(lab, pid, 'uprobe/work,guest'), 'it runs');
    t.ok(await runs(lab, pid, 'uprobe/work'), 'beside the first');
    t.same(await lab.detach(pid, 'uprobe/work,guest'), OK);
    t.ok(pauses(lab, pid) > first, 'leaving takes a stop: it may not run once more');
    for (let n = 0; n < GUESTS; n++) {
      const file = `uprobe/work,guest${n}`;
      t.same(await lab.attach(pid, object, file), OK, file);
      if (n % 3 === 0) t.same(await lab.detach(pid, file), OK, `rm ${file}`);
    }
    t.ok(await runs(lab, pid, `uprobe/work,guest${GUESTS - 1}`), 'the last runs');
    for (let n = 0; n < GUESTS; n++) {
      if (n % 3 !== 0) t.same(await lab.detach(pid, `uprobe/work,guest${n}`), OK);
    }
    t.ok(await runs(lab, pid, 'uprobe/work'), 'the first is left');
    t.same(await lab.detach(pid, 'uprobe/work'), OK);
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.says(/round/), 'the target works on');
  }),
);

await t.test('a program that reads memory, and what makes reads safe, come in one stop', (t) =>
  Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('caller.c'), ['8']);
    await target.says(/round/);
    const { pid } = target;
    const before = codeHash(pid);
    // Signal masks are followed a moment later, which stops it again: a look may come too late.
    const isOneStop = async () => {
      t.same(await lab.attach(pid, lab.bpf('reader'), 'uprobe/work'), OK);
      const info = lab.read(pid, 'info');
      const hook = lab.read(pid, `hooks/by-id/${lab.hooks(pid)[0]?.['id']}/info`);
      t.same(await lab.detach(pid, 'uprobe/work'), OK);
      await eventually(() => /^entered +0$/m.test(lab.read(pid, 'info')));
      const total = /^pause_ns_total +(\d+)$/m.exec(info)?.[1];
      return /^reads +guarded$/m.test(info) && /^pause_ns +(\d+)$/m.exec(hook)?.[1] === total;
    };
    t.ok(await eventually(isOneStop), 'one pause is all');
    await sameCode(t, pid, before, 'after rm');
  }),
);
