// Every kind of map beside hashes and arrays, and functions that are called back, in a process.
import t from 'tap';
import { Dynasty } from '../helpers/dynasty.js';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(90_000);

const fine = { code: 0, out: '', err: '' };
const FILE = 'uprobe/work';

await t.test('queues, filters, prefixes, stacks, maps of maps, callbacks', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('caller.c'), ['2']);
    const { pid } = target;
    t.ok(await target.says(/round/));
    const before = codeHash(pid);
    t.same(await lab.attach(pid, lab.bpf('many'), FILE), fine);
    const write = async (map: string, line: string) =>
      await lab.sh(`echo '${line}' >> ${lab.proc(pid, `maps/${map}/entries`)}`);
    const lines = (map: string) => lab.read(pid, `maps/${map}/entries`).trim().split('\n');
    const numbers = (text: string) => [...text.matchAll(/: ?(\d+)/g)].map((m) => Number(m[1]));
    // Prefixes in the bytes of the number, as it lies in memory: 0 and 1, and 3, of n & 3.
    t.same(await write('classes', '{"prefixlen":0,"bits":0}: 0'), fine);
    t.same(await write('classes', '{"prefixlen":8,"bits":3}: 0'), fine);
    target.child.stdin!.write('go\n');
    t.ok(await eventually(() => lab.hits(pid, FILE) > 2000), 'it is called');
    target.child.stdin!.write('stop\n');
    const calls = Number((await target.says(/calls (\d+)/))?.[1]);
    const globals = JSON.parse(lines('work.bss')[0]!.replace(/^0: /, ''));
    t.equal(globals.calls, calls, 'every call was counted');
    t.ok(globals.firsts > 0 && globals.firsts < calls, 'a filter: two threads count alike');
    t.equal(globals.rounds, 45, 'bpf_loop');
    t.equal(lines('latest').length, 4, 'a queue keeps the last four');
    const [any = 0, three = 0] = lines('classes')
      .sort()
      .map((line) => Number(/: (\d+)$/.exec(line)?.[1]));
    t.equal(any + three, calls, 'each number has one longest prefix');
    t.ok(three > calls / 8 && three < calls / 2, 'about a quarter ends in 3');
    const sum = (map: string) => numbers(lines(map).join('\n')).reduce((a, b) => a + b, 0);
    t.equal(sum('even') + sum('odd'), calls, 'inner maps are maps of their own');
    t.ok(globals.summed > 0 && globals.summed <= sum('even'), 'bpf_for_each_map_elem');
    const stacks = lines('stacks');
    t.match(stacks[0], /^\d+: \["0x[0-9a-f]+[^"]*","0x[0-9a-f]+/, 'a stack has callers');
    t.ok(stacks.length < 20, 'and is kept once');
    t.match(lab.read(pid, 'maps/by_parity/info'), /^type array_of_maps$/m);
    const id = /^id (\d+)$/m.exec(lab.read(pid, 'maps/odd/info'))?.[1];
    t.equal(lines('by_parity')[1], `1: ${id}`, 'a map of maps shows ids');
    t.match(await write('by_parity', '0: 1'), { code: 1, err: /Invalid argument/ });
    t.match(lab.read(pid, 'last_error'), /what is in a map of maps, its object file says/);
    t.same(await write('latest', '-'), fine);
    t.equal(lines('latest').length, 3, 'one is taken out');
    t.same(await write('stacks', `-${stacks[0]!.split(':')[0]}`), fine, 'a stack is forgotten');
    t.same(await lab.detach(pid, FILE), fine);
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'the target works on');
  });
});

await t.test(
  'a killed daemon: queues go on, an object with a map of maps is taken out',
  async (t) => {
    await Lab.run(t, async (lab) => {
      const target = lab.start(lab.build('caller.c'), ['1']);
      const { pid } = target;
      t.ok(await target.says(/round/));
      const before = codeHash(pid);
      const line = await Dynasty.begin(lab);
      t.same(await line.cp(lab.bpf('flat'), pid, FILE), fine);
      t.same(await lab.sh(`echo 7 > ${line.file(pid, 'maps/latest/entries')}`), fine);
      await line.kill();
      t.ok(await line.next(), 'the next one mounts');
      t.equal(line.errors, '', 'without a complaint');
      t.equal(line.read(pid, 'maps/latest/entries'), '7\n', 'and has what was in the queue');
      t.same(await line.rm(pid, FILE), fine);
      t.same(await line.cp(lab.bpf('many'), pid, FILE), fine);
      await line.kill();
      t.ok(await line.next(), 'the one after it mounts');
      t.match(line.errors, /what a former daemon left there does not go on/, 'and says so');
      t.ok(await eventually(() => codeHash(pid) === before), 'the code is as it was');
      t.same(await line.cp(lab.bpf('many'), pid, FILE), fine, 'it can be attached again');
      t.same(await line.rm(pid, FILE), fine);
      await sameCode(t, pid, before, 'after rm');
      t.ok(await target.advances(), 'the target works on');
      t.same(await line.end(), [], 'unmounted');
    });
  },
);
