// Tail calls in a process: programs that go on with others, and entries that change meanwhile.
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(90_000);

const fine = { code: 0, out: '', err: '' };
const FILE = 'uprobe/work';

await t.test('a probe goes on with other programs', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('caller.c'), ['2']);
    const { pid } = target;
    t.ok(await target.says(/round/));
    const before = codeHash(pid);
    t.same(await lab.attach(pid, lab.bpf('dispatch'), FILE), fine);
    const rows = lab.hooks(pid).map((hook) => hook['program']);
    t.same(rows, ['dispatch'], 'what lies in a program array is not attached by itself');
    const entries = 'maps/programs/entries';
    const write = async (line: string) =>
      await lab.sh(`echo '${line}' >> ${lab.proc(pid, entries)}`);
    const shown = '0: even\n1: third\n2: chain\n4: spare\n';
    t.equal(lab.read(pid, entries), shown, 'programs are shown by their names');
    const globals = () => JSON.parse(lab.read(pid, 'maps/work.bss/entries').replace(/^0: /, ''));
    target.child.stdin!.write('go\n');
    t.ok(await eventually(() => lab.hits(pid, FILE) > 2000), 'it is called');
    t.equal(globals().spares, 0, 'nothing leads to the spare one');
    t.same(await write('3: spare'), fine);
    t.ok(await eventually(() => globals().spares > 100), 'an entry is filled while it runs');
    t.same(await write('-3'), fine);
    t.equal(lab.read(pid, entries), shown);
    t.match(await write('3: nobody'), { code: 1 });
    t.match(lab.read(pid, 'last_error'), /nobody is no program of the object \(it has .*spare/);
    t.match(await write('5: even'), { code: 1 }, 'there are five entries');
    t.match(await write('-3'), { code: 1 }, 'it is empty already');
    target.child.stdin!.write('stop\n');
    const calls = Number((await target.says(/calls (\d+)/))?.[1]);
    const seen = globals();
    t.equal(seen.calls, calls, 'every call was counted');
    t.ok(seen.evens > calls / 8 && seen.evens === seen.bytes / 16, 'one of them reads memory');
    t.ok(seen.thirds > calls / 8, 'arguments are the same');
    t.equal(seen.links % 33, 0, 'a chain has 33 links');
    t.equal(seen.evens + seen.thirds + seen.links / 33 + seen.spares + seen.none, calls, 'all');
    t.match(lab.read(pid, 'maps/programs/info'), /^type prog_array$/m);
    t.same(await lab.attach(pid, lab.bpf('dispatch'), FILE), fine, 'it is replaced');
    t.same(await lab.detach(pid, FILE), fine);
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'the target works on');
  });
});
