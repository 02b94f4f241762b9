// Waiting calls that are themselves probed, entry and return, while threads sleep in them: every
// one returns what it should and when it should, cycle after cycle.
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const CYCLES = 20;
/** Probed at a time; another few in the next cycle. */
const AT_A_TIME = 4;
/** libc's functions that blocked.c waits in. */
const CALLS = [
  'epoll_wait',
  'epoll_pwait',
  'poll',
  'ppoll',
  'select',
  'pselect',
  'nanosleep',
  'clock_nanosleep',
  'sigtimedwait',
  'semtimedop',
  'recv',
  'wait4',
  'read',
  'accept',
  'msgrcv',
];
const fine = { code: 0, out: '', err: '' };

await t.test('calls that are probed while threads wait in them', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start('unshare', ['--ipc', lab.build('blocked.c')]);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'all ways to wait work');
    const before = codeHash(pid);
    const dir = lab.proc(pid, 'uprobe');
    for (let cycle = 1; cycle <= CYCLES; cycle++) {
      const calls = CALLS.filter((_, i) => (i + cycle) % Math.ceil(CALLS.length / AT_A_TIME) === 0);
      const each = (command: string) =>
        lab.sh(`for f in ${calls.join(' ')}; do ${command}/libc:$f || exit; done`);
      t.same(await each(`cp ${lab.bpf('probe')} ${dir}`), fine, `on ${cycle}`);
      const idle = () => calls.filter((name) => lab.hits(pid, `uprobe/libc:${name}`) === 0);
      await eventually(() => idle().length === 0);
      t.same(idle(), [], `cycle ${cycle}: every call is seen`);
      t.same(await each(`rm ${dir}`), fine, `off ${cycle}`);
      if (cycle % 5 === 0) t.ok(await target.advances(), `cycle ${cycle}: no call hangs`);
    }
    await sameCode(t, pid, before, 'after all cycles');
    t.ok(await target.advances(target.round + 2), 'all ways to wait still work');
    t.notMatch(target.text, /WRONG/, 'no call was interrupted or ended early');
  });
});
