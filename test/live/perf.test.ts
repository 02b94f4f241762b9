// perf names the callers of probed functions: entry and return probes change nothing that its two
// ways of walking a stack look at.
import t from 'tap';
import { codeHash, Lab, sameCode } from '../helpers/lab.js';

const OK = { code: 0, out: '', err: '' };
const CHAIN = 'burns < middle < outer < main';
const FUNCTIONS = ['burns', 'middle', 'outer'];
t.setTimeout(120_000);

/** Call chains of a process' samples in `burns`, innermost first, with how often each was seen. */
async function chains(lab: Lab, pid: number, walk: 'fp' | 'dwarf'): Promise<Map<string, number>> {
  // A virtual machine need not have the counters of the processor: the clock of the kernel does.
  const how = `-q -e cpu-clock -F 999 --call-graph ${walk} -p ${pid} -o perf.${walk}`;
  await lab.sh(`perf record ${how} -- sleep 0.6`);
  const { out } = await lab.sh(`perf script -i perf.${walk} -F ip,sym`);
  const seen = new Map<string, number>();
  for (const sample of out.split('\n\n')) {
    const names = sample.trim().split('\n');
    const chain = names.map((line) => line.trim().split(/\s+/)[1] ?? '?');
    if (chain[0] !== 'burns') continue;
    const key = chain.slice(0, 4).join(' < ');
    seen.set(key, (seen.get(key) ?? 0) + 1);
  }
  return seen;
}

await t.test('perf names the callers, by frame pointers and by unwind tables', async (t) => {
  await Lab.run(t, async (lab) => {
    const frames = ['-fno-omit-frame-pointer'];
    const target = lab.start(lab.build('profiled.c', frames));
    const { pid } = target;
    t.ok(await target.says(/round/), 'the target works');
    const before = codeHash(pid);
    for (const name of FUNCTIONS) {
      t.same(await lab.attach(pid, lab.bpf('probe'), `uprobe/${name}`), OK, name);
    }
    for (const hook of lab.hooks(pid).filter((one) => one['kind'] === 'uretprobe')) {
      t.match(lab.read(pid, `hooks/by-id/${hook['id']}/info`), /^exit_form +ret$/m);
    }
    for (const walk of ['fp', 'dwarf'] as const) {
      const seen = await chains(lab, pid, walk);
      const samples = [...seen.values()].reduce((sum, count) => sum + count, 0);
      const right = seen.get(CHAIN) ?? 0;
      // In a prologue and at a ret perf misses a caller, probes or none: one sample in 600.
      const unknown = [...seen.keys()].filter((chain) => /unknown|\?/.test(chain));
      t.same(unknown, [], `${walk}: no nameless caller`);
      t.ok(right > 50 && right > 0.95 * samples, `${walk}: ${right} of ${samples} samples`);
    }
    t.ok(await target.advances(), 'it works on');
    for (const name of FUNCTIONS) t.same(await lab.detach(pid, `uprobe/${name}`), OK);
    t.notMatch(target.text, /WRONG/);
    await sameCode(t, pid, before, 'after rm');
  });
});
