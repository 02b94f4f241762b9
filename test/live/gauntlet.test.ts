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
