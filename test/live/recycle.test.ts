// Ten thousand attaches and detaches on a working process: its memory does not grow, because code
// that no thread can be in any more is used again; and nothing is used again too early.
import { readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import t from 'tap';
import { codeHash, Lab, sameCode } from '../helpers/lab.js';

const CYCLES = 10_000;
const SETTLED = 1_000;
/** One arena more or less, a stack of the target's own: not what grows by 0.5 KiB a cycle. */
const NOISE_KIB = 2_048;

t.setTimeout(300_000);

const sizeKib = (pid: number) =>
  Number(/^VmSize:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);

/** False when the change was refused because the target did not stop in time. */
function succeeds(change: () => void, attempt: number): boolean {
  try {
    change();
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ETIMEDOUT' && attempt < 5) return false;
    throw error;
  }
}

const mappings = (pid: number) => readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n').length;

await t.test('10,000 cycles in bounded memory', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('gauntlet.cc'), ['4']);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(pid);
    const object = readFileSync(lab.bpf('probe'));
    // A probe that stays keeps the agent in the process.
    t.equal((await lab.attach(pid, lab.bpf('probe'), 'uprobe/long_loop')).code, 0);
    let size = 0;
    let count = 0;
    let late = 0;
    const names = ['recurse', 'many_args', 'malloc', 'tail_caller'];
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const file = lab.proc(pid, 'uprobe', names[cycle % names.length]!);
      for (const change of [() => writeFileSync(file, object), () => unlinkSync(file)]) {
        // A thread of a busy machine may not stop in time: that is said, and nothing has changed.
        for (let attempt = 1; !succeeds(change, attempt); attempt++) late++;
      }
      if (cycle === SETTLED) [size, count] = [sizeKib(pid), mappings(pid)];
    }
    t.ok(late * 100 <= CYCLES, `${late} changes had to be asked for again`);
    t.ok(sizeKib(pid) <= size + NOISE_KIB, `grew from ${size} to ${sizeKib(pid)} KiB`);
    t.ok(mappings(pid) <= count + 64, `from ${count} to ${mappings(pid)} mappings`);
    t.ok(await target.advances(), 'it works on');
    t.notMatch(target.text, /WRONG/, 'no result was ever wrong');
    t.equal((await lab.detach(pid, 'uprobe/long_loop')).code, 0);
    await sameCode(t, pid, before, 'after all cycles');
  });
});
