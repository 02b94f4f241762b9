// A Go program under traffic whose daemon is killed: goroutines go on, with growing stacks, the
// collector and preemption, and the next daemon finds hooks, hits, maps and streams.
import t from 'tap';
import { Dynasty } from '../helpers/dynasty.js';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(180_000);

const OK = { code: 0, out: '', err: '' };
/** Kills while the goroutines work. */
const DEATHS = 3;
/** Entry and return of a function that grows its stack, of a leaf, of one with many arguments. */
const BOTH = ['grow', 'sum', 'manyArgs', 'deferred', 'recovered', 'pair'];

/** The program's own counts once every goroutine is idle. */
async function restingCounts(target: Running): Promise<Record<string, number>> {
  const asked = target.text.length;
  target.child.stdin?.write('stop\ncounts\n');
  const line = await eventually(() => /counts (.*)\n/.exec(target.text.slice(asked))?.[1], 60_000);
  const pairs = (line ?? '').split(' ').map((pair) => pair.split('='));
  return Object.fromEntries(pairs.map(([name, count]) => [name, Number(count)]));
}

await t.test('goroutines at work: nothing is lost when the daemon dies', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('goroutines.go'), ['1000'], { env: { GOGC: '20' } });
    const { pid } = target;
    t.ok(await target.says(/ready/));
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    t.same(await line.cp(lab.bpf('tally'), pid, 'uprobe/main.leaf'), OK, 'with maps and a stream');
    for (const name of BOTH)
      t.same(await line.cp(lab.bpf('probe'), pid, `uprobe/main.${name}`), OK);
    for (const name of ['mallocgc', 'newstack', 'schedule']) {
      t.same(await line.cp(lab.bpf('entry'), pid, `uprobe/runtime.${name}`), OK);
    }
    const listed = line.hooks(pid).map(([id, kind, , , , ...rest]) => [id, kind, rest.at(-1)]);
    target.child.stdin?.write('start\n');
    t.ok(await target.advances(), 'it works');
    for (let death = 1; death <= DEATHS; death++) {
      await line.kill();
      t.ok(await target.advances(), `death ${death}: goroutines go on without a daemon`);
      t.ok(await target.advances(), `death ${death}: and on`);
      t.ok(await line.next(), `death ${death}: the next one mounts`);
      t.equal(line.errors, '', `death ${death}: without a complaint`);
      t.same(
        line.hooks(pid).map(([id, kind, , , , ...rest]) => [id, kind, rest.at(-1)]),
        listed,
        `death ${death}: the same hooks with the same ids`,
      );
      t.ok(await target.advances(), `death ${death}: goroutines go on`);
    }
    const events = lab.follow(line.file(pid, 'maps/notes/stream'));
    t.ok(await events.says(/"number":/), 'events go on');
    const counts = await restingCounts(target);
    const hits = (kind: string, name: string) =>
      Number(
        line.hooks(pid).find((row) => row[1] === kind && row.at(-1) === `uprobe/main.${name}`)?.[3],
      );
    for (const name of ['leaf', ...BOTH]) {
      t.equal(hits('uprobe', name), counts[name], `${name}: every call was counted`);
      t.equal(hits('uretprobe', name), counts[name], `${name}: every return, too`);
    }
    const slots = line.read(pid, 'maps/hashed/entries');
    t.match(slots, new RegExp(`\\b7\\W+${counts['leaf']}\\b`), 'so says the map');
    t.same(await line.cp(lab.bpf('entry'), pid, 'uprobe/main.closure'), OK, 'one more hook');
    for (const file of new Set(line.hooks(pid).map((row) => row.at(-1) ?? ''))) {
      t.same(await line.rm(pid, file), OK, `rm ${file}`);
    }
    await sameCode(t, pid, before, 'after rm');
    target.child.stdin?.write('start\n');
    t.ok(await target.advances(), 'it works on');
    t.notMatch(target.text, /WRONG|panic|fatal/, 'no result was ever wrong');
    t.same(await line.end(), [], 'no mount is left');
  });
});

await t.test('goroutines that were preempted in what we moved go on under the next', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('goroutines.go'), ['100']);
    const { pid } = target;
    t.ok(await target.says(/ready/));
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    target.child.stdin?.write('hot\n');
    t.ok(await target.advances(), 'most goroutines wait in the middle of one function');
    t.same(await line.cp(lab.bpf('probe'), pid, 'uprobe/main.root'), OK);
    t.ok(await target.advances(), 'they go on in its copy');
    await line.kill();
    t.ok(await target.advances(), 'also without a daemon');
    t.ok(await line.next(), 'the next one mounts');
    t.equal(line.errors, '', 'without a complaint');
    const seen = line.hooks(pid).map((row) => Number(row[3]));
    t.equal(seen.length, 2);
    t.ok(await target.advances(), 'they go on');
    t.ok(await eventually(() => line.hooks(pid).every((row, i) => Number(row[3]) > seen[i]!)));
    t.same(await line.rm(pid, 'uprobe/main.root'), OK);
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'and back in the function itself');
    t.ok(await target.advances(), 'all of them');
    t.notMatch(target.text, /WRONG|panic|fatal|signal/, 'no result was ever wrong');
    t.same(await line.end(), [], 'no mount is left');
  });
});
