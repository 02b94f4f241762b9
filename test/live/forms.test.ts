// Places that take no five-byte jump: a short jump to padding, a jump punned with the bytes behind
// it, or a refusal with its reason; whichever it is, every call is right and seen.
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

const CYCLES = 60;
const OK = { code: 0, out: '', err: '' };

/** Function, and the forms that its site may take here. */
const PLACES: readonly (readonly [string, RegExp])[] = [
  ['loop_head', /^short$/],
  ['packed_loop', /^punned$/],
  ['behind_it', /^jmp$/],
  ['early_exit', /^(short|punned)$/],
  ['slots', /^punned$/],
  ['neighbour', /^(short|punned)$/],
  ['calls_early', /^short$/],
  ['calls_packed', /^jmp$/],
  ['calls_register', /^jmp$/],
];

t.setTimeout(120_000);

await t.test('every form, again and again, under threads', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('forms.c'), ['4']);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(pid);
    for (const [name, form] of PLACES) {
      t.same(await lab.attach(pid, lab.bpf('entry'), `uprobe/${name}`), OK, `cp uprobe/${name}`);
      const hook = lab.hooks(pid).find((one) => one['file'] === `uprobe/${name}`);
      const site = lab.read(pid, `hooks/by-id/${hook?.['id']}/site`);
      t.match(/^form (\w+)$/m.exec(site)?.[1], form, `${name}: the form`);
      t.ok(await eventually(() => lab.hits(pid, `uprobe/${name}`) > 1000), `${name}: is seen`);
    }
    t.ok(await target.advances(), 'all at once');
    for (const [name] of PLACES) t.same(await lab.detach(pid, `uprobe/${name}`), OK);
    await sameCode(t, pid, before, 'after rm');
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const [name] = PLACES[cycle % PLACES.length]!;
      const where = `uprobe/${name}`;
      const put = await lab.sh(
        `cp ${lab.bpf('entry')} ${lab.proc(pid, where)} && rm ${lab.proc(pid, where)}`,
      );
      if (put.code !== 0) t.same(put, OK, `cycle ${cycle}: ${name}`);
    }
    t.ok(await target.advances(), 'works on');
    t.notMatch(target.text, /WRONG/, 'no result was ever wrong');
    await sameCode(t, pid, before, 'after all cycles');
  });
});

await t.test("the padding that a short jump needs is not a return's as well", async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('forms.c'), ['4']);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(pid);
    for (const orders of [
      ['uprobe/loop_head', 'uretprobe/loop_head'],
      ['uretprobe/loop_head', 'uprobe/loop_head'],
    ]) {
      for (const where of orders) {
        const put = await lab.attach(pid, lab.bpf('entry'), where);
        if (put.code === 0)
          t.ok(await eventually(() => lab.hits(pid, where) > 0), `${where}: hits`);
        else t.match(lab.read(pid, 'last_error'), /EOPNOTSUPP|EBUSY/, `${where}: refused`);
      }
      t.ok(await target.advances(), 'it works on');
      for (const where of orders) await lab.detach(pid, where);
      await sameCode(t, pid, before, 'after rm');
    }
    const both = await lab.attach(pid, lab.bpf('probe'), 'uprobe/loop_head');
    t.same(both, OK, 'both in one change');
    t.ok(await eventually(() => lab.hits(pid, 'uprobe/loop_head') > 0), 'are seen');
    t.ok(await target.advances(), 'and right');
    t.same(await lab.detach(pid, 'uprobe/loop_head'), OK);
    t.notMatch(target.text, /WRONG/);
    await sameCode(t, pid, before, 'at the end');
  });
});

await t.test('a place that nothing fits is refused with the reason', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('forms.c'), ['2']);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(pid);
    const put = await lab.attach(pid, lab.bpf('entry'), 'uprobe/one_byte');
    if (put.code === 0) t.same(await lab.detach(pid, 'uprobe/one_byte'), OK, 'it happened to fit');
    else t.match(lab.read(pid, 'last_error'), /EOPNOTSUPP one_byte: a branch of the function/);
    t.ok(await target.advances(), 'works on');
    t.notMatch(target.text, /WRONG/);
    await sameCode(t, pid, before, 'nothing was left');
  });
});
