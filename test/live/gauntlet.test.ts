// A process that checks each of its own results while probes come and go on all its functions.
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

const FUNCTIONS = [
  'recurse',
  'many_args',
  'big_struct',
  'sum_varargs',
  'mixed_floats',
  'sum_doubles',
  'tail_target',
  'tail_caller',
  'thrower',
  'catcher',
  'jumper',
  'jump_catcher',
  'in_signal',
  'yield_value',
  'resume',
  'cancelled_body',
  'long_loop',
  'malloc',
  'usleep',
];
const CYCLES = 4;

t.setTimeout(120_000);

await t.test('entry and return of every awkward shape, again and again', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('gauntlet.cc'), ['4']);
    const object = lab.bpf('probe');
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(target.pid);
    for (let cycle = 1; cycle <= CYCLES; cycle++) {
      const dir = lab.proc(target.pid, 'uprobe');
      const put = await lab.sh(`for f in ${FUNCTIONS.join(' ')}; do cp ${object} ${dir}/$f; done`);
      t.same(put, { code: 0, out: '', err: '' }, `cycle ${cycle}: attached to all`);
      t.ok(await target.advances(), `cycle ${cycle}: works on`);
      const idle = () => FUNCTIONS.filter((name) => lab.hits(target.pid, `uprobe/${name}`) === 0);
      await eventually(() => idle().length === 0);
      t.same(idle(), [], `cycle ${cycle}: every function was seen`);
      const gone = await lab.sh(`for f in ${FUNCTIONS.join(' ')}; do rm ${dir}/$f; done`);
      t.same(gone, { code: 0, out: '', err: '' }, `cycle ${cycle}: detached from all`);
      await sameCode(t, target.pid, before, `cycle ${cycle}`);
      t.ok(await target.advances(), `cycle ${cycle}: still works`);
    }
    t.notMatch(target.text, /WRONG/, 'no result was ever wrong');
  });
});

await t.test('probes removed from a running function that then throws', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('late.cc'));
    const { pid } = target;
    const go = () => target.child.stdin!.write('go\n');
    t.ok(await target.says(/inside/));
    const before = codeHash(pid);
    for (const name of ['inner', 'outer']) {
      t.equal((await lab.attach(pid, lab.bpf('probe'), `uprobe/${name}`)).code, 0, `on ${name}`);
    }
    go(); // The call that the target is in now was not followed; the next one is.
    t.ok(await target.says(/caught\nround 1\ninside/));
    for (const name of ['inner', 'outer']) {
      t.ok(await eventually(() => lab.hits(pid, `uprobe/${name}`) > 0), `${name} is inside`);
    }
    for (const name of ['inner', 'outer']) {
      t.equal((await lab.detach(pid, `uprobe/${name}`)).code, 0, `off ${name}`);
    }
    go();
    t.ok(await target.says(/caught\nround 2\ninside/), 'the exception found its way');
    await sameCode(t, pid, before, 'after the last probed function has ended');
    go();
    t.ok(await target.says(/round 3/), 'the target works on');
  });
});
