// A second `cp` over a path: the new programs take over between two calls, and go on with the maps
// that are of one make. Nobody misses a call, a record or a count.
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
const WORK = 'uprobe/work';
const EDITIONS = 50;

async function caller(lab: Lab, threads: number): Promise<Running> {
  const target = lab.start(lab.build('caller.c'), [String(threads)]);
  await target.says(/round/);
  return target;
}

/** Stops the calls; their exact number. */
async function calls(target: Running): Promise<number> {
  target.child.stdin?.write('stop\n');
  return Number((await target.says(/calls (\d+)\n/, 30_000))?.[1]);
}

/** What `: N` says of an entry of a map. */
const entry = (lab: Lab, pid: number, map: string, name: string) =>
  Number(new RegExp(`\\b${name}\\W+(\\d+)`).exec(lab.read(pid, `maps/${map}/entries`))?.[1]);

function countsAre(t: Test, lab: Lab, pid: number, want: number) {
  t.equal(entry(lab, pid, 'work.bss', 'entries'), want, 'entries');
  t.equal(entry(lab, pid, 'work.bss', 'returns'), want, 'returns');
  t.equal(entry(lab, pid, 'work.data', 'begun'), want + 1000, 'a variable with a beginning');
  t.equal(entry(lab, pid, 'hashed', '7'), want, 'hash');
  t.equal(entry(lab, pid, 'slots', '1'), want, 'array');
}

await t.test('fifty replacements under traffic: every call is counted once', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 3);
    const { pid } = target;
    const before = codeHash(pid);
    const objects = [0, 1].map((n) => lab.bpf('tally', [`-DEDITION=${n}`], `edition${n}`));
    t.same(await lab.attach(pid, objects[0]!, WORK), OK, 'attached');
    const stream = lab.follow(lab.proc(pid, 'maps/notes/stream'));
    target.child.stdin?.write('go\n');
    for (let n = 1; n <= EDITIONS; n++) {
      const ran = await lab.attach(pid, objects[n % 2]!, WORK);
      if (ran.code !== 0) t.fail(`replacement ${n}: ${ran.err}`);
    }
    const total = await calls(target);
    t.ok(total > 1000, `${total} calls`);
    countsAre(t, lab, pid, total);
    const numbers = () => [...stream.text.matchAll(/"number":(\d+)/g)].map((m) => Number(m[1]));
    const want = Math.ceil(total / 64);
    await eventually(() => numbers().length >= want);
    t.same(
      numbers().sort((a, b) => a - b),
      Array.from({ length: want }, (_, i) => i * 64),
      'the reader of the stream saw each record once',
    );
    t.ok(stream.alive, 'and reads on');
    t.match(stream.text, /"edition":0[\s\S]*"edition":1/, 'constants are those of the new object');
    t.equal(lab.hooks(pid).length, 2, 'the hooks of one object are listed');
    t.same(await lab.detach(pid, WORK), OK);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('a map of another make, a variable that begins anew', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 1);
    const { pid } = target;
    const first = lab.bpf('tally');
    const second = lab.bpf('tally', ['-DROOM=128', '-DBEGIN=5000'], 'second');
    t.same(await lab.attach(pid, first, WORK), OK);
    target.child.stdin?.write('go\n');
    t.ok(await eventually(() => entry(lab, pid, 'hashed', '7') > 100));
    const total = await calls(target);
    t.same(await lab.attach(pid, second, WORK), OK, 'replaced');
    t.match(lab.read(pid, 'maps/hashed/info'), /^max_entries 128$/m);
    t.equal(lab.read(pid, 'maps/hashed/entries'), '', 'a larger hash is another map');
    t.equal(entry(lab, pid, 'slots', '1'), total, 'the array is the same');
    t.equal(entry(lab, pid, 'work.bss', 'entries'), total, 'so are the variables');
    t.equal(entry(lab, pid, 'work.data', 'begun'), 5000, 'except those that begin differently');
  });
});

await t.test('an object that cannot replace leaves the former in force', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 1);
    const { pid } = target;
    const good = lab.bpf('tally');
    t.same(await lab.attach(pid, good, WORK), OK);
    target.child.stdin?.write('go\n');
    const armed = codeHash(pid);
    for (const [what, bad] of [
      ['bytes that are no object', '/etc/hostname'],
      ['a program that is refused', lab.bpf('broken')],
      ['a program that is no function probe', lab.bpf('usdt')],
    ] as const) {
      const ran = await lab.attach(pid, bad, WORK);
      t.not(ran.code, 0, `${what}: refused`);
      const same = await lab.sh(`cmp ${good} ${lab.proc(pid, WORK)}`);
      t.equal(same.code, 0, `${what}: the file is the former`);
      t.equal(codeHash(pid), armed, `${what}: not a byte has changed`);
    }
    const total = await calls(target);
    t.equal(entry(lab, pid, 'work.bss', 'entries'), total, 'and counts every call');
  });
});
