// How a program is reached from its site: small ones stand there, others are called with what they
// read. What stands there counts each call once, while it is switched, replaced and joined.
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import t from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
const WORK = 'uprobe/work';
const THREADS = 3;
const CHANGES = 30;

async function caller(lab: Lab): Promise<Running> {
  const target = lab.start(lab.build('caller.c'), [String(THREADS)]);
  await target.says(/round/);
  return target;
}

/** Tier by `program kind`. */
function tiers(lab: Lab, pid: number): Record<string, string | undefined> {
  return Object.fromEntries(
    lab
      .hooks(pid)
      .map((hook) => [
        `${hook['program']} ${hook['kind']}`,
        /^tier +(\w+)$/m.exec(lab.read(pid, `hooks/by-id/${hook['id']}/info`))?.[1],
      ]),
  );
}

async function calls(target: Running): Promise<number> {
  target.child.stdin?.write('stop\n');
  return Number((await target.says(/calls (\d+)\n/, 30_000))?.[1]);
}

const counted = (lab: Lab, pid: number, name: string) =>
  Number(new RegExp(`\\b${name}\\W+(\\d+)`).exec(lab.read(pid, 'maps/work.bss/entries'))?.[1]);

await t.test('a program that stands in the code has no average', (t) =>
  Lab.run(t, async (lab) => {
    const target = await caller(lab);
    const { pid } = target;
    t.same(await lab.attach(pid, lab.bpf('probe'), WORK), OK);
    t.same(await lab.attach(pid, lab.bpf('tally'), `${WORK},tally`), OK);
    target.child.stdin?.write('go\n');
    const average = (file: string, kind: string) =>
      lab.hooks(pid).find((one) => one['file'] === file && one['kind'] === kind)?.['avg_ns'];
    const isTimed = () => /^\d/.test(average(`${WORK},tally`, 'uprobe') ?? '');
    t.ok(await eventually(isTimed), 'what is called is timed now and then');
    t.equal(average(WORK, 'uprobe'), '-', 'what is not called is not: the clock takes longer');
    t.equal(average(WORK, 'uretprobe'), '-', 'at returns neither');
  }),
);

await t.test('hooks say their tier', (t) =>
  Lab.run(t, async (lab) => {
    const { pid } = await caller(lab);
    for (const [object, want] of [
      ['probe', { 'enter uprobe': 'inline', 'leave uretprobe': 'inline' }],
      ['entry', { 'enter uprobe': 'inline' }],
      ['tally', { 'enter uprobe': 'lite', 'leave uretprobe': 'inline' }],
      ['facts', { 'look uprobe': 'full' }],
    ] as const) {
      t.same(await lab.attach(pid, lab.bpf(object), WORK), OK, object);
      t.match(tiers(lab, pid), want, object);
      t.same(await lab.detach(pid, WORK), OK);
    }
  }),
);

await t.test('each call is counted once while its program changes', (t) =>
  Lab.run(t, async (lab) => {
    const target = await caller(lab);
    const { pid } = target;
    const before = codeHash(pid);
    const object = lab.bpf('probe');
    const guest = lab.bpf('entry');
    t.same(await lab.attach(pid, object, WORK), OK);
    target.child.stdin?.write('go\n');
    for (let n = 0; n < CHANGES; n++) {
      const changes = [
        await lab.attach(pid, guest, `${WORK},guest`),
        await lab.attach(pid, object, WORK),
        await lab.detach(pid, `${WORK},guest`),
      ];
      for (const ran of changes) if (ran.code !== 0) t.fail(`change ${n}: ${ran.err}`);
    }
    const total = await calls(target);
    t.ok(total > 1000, `${total} calls`);
    t.equal(counted(lab, pid, 'entries'), total, 'entries');
    t.equal(counted(lab, pid, 'returns'), total, 'returns');
    t.same(await lab.detach(pid, WORK), OK);
    await sameCode(t, pid, before, 'after rm');
  }),
);

/** Mappings of maps that programs of the process write. */
const mapRanges = (pid: number): string[] =>
  [
    ...readFileSync(`/proc/${pid}/maps`, 'latin1').matchAll(/^(\S+) rw-s .*memfd:bpftime_map/gm),
  ].map((line) => line[1]!.replace(/\b0+(?=\w)/g, ''));

/** The words of a memory file, which lives as long as its descriptor. */
function words(fd: number): BigUint64Array {
  const bytes = Buffer.alloc(64 << 10);
  return new BigUint64Array(
    bytes.buffer,
    bytes.byteOffset,
    readSync(fd, bytes, 0, bytes.length, 0) >> 3,
  );
}

await t.test('what is removed counts no call more', (t) =>
  Lab.run(t, async (lab) => {
    const target = await caller(lab);
    const { pid } = target;
    t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/usleep'), OK, 'another one stays');
    const others = mapRanges(pid);
    t.same(await lab.attach(pid, lab.bpf('probe'), WORK), OK);
    t.equal(tiers(lab, pid)['enter uprobe'], 'inline');
    const range = mapRanges(pid).find((one) => !others.includes(one));
    // Its counters in the map itself: no file of ours is there any more after rm.
    const counters = openSync(`/proc/${pid}/map_files/${range}`, 'r');
    target.child.stdin?.write('go\n');
    t.ok(await eventually(() => counted(lab, pid, 'entries') > 1000), 'it counts');
    const some = words(counters);
    t.ok(await eventually(() => words(counters).some((word, i) => word > some[i]!)), 'there');
    t.same(await lab.detach(pid, WORK), OK);
    const last = words(counters);
    t.ok(await target.advances(), 'threads call on');
    t.ok(await target.advances(), 'and on');
    t.same([...words(counters)], [...last], 'and nobody counts');
    const most = Math.max(...[...last].map(Number));
    t.ok((await calls(target)) > most, 'of the calls that were made since');
    closeSync(counters);
    t.same(await lab.detach(pid, 'uprobe/usleep'), OK);
  }),
);

await t.test('what is off or gone does not run, what is on does', (t) =>
  Lab.run(t, async (lab) => {
    const target = await caller(lab);
    const { pid } = target;
    t.same(await lab.attach(pid, lab.bpf('probe'), WORK), OK);
    target.child.stdin?.write('go\n');
    t.ok(await eventually(() => counted(lab, pid, 'entries') > 100), 'it counts');
    const hook = lab.hooks(pid).find((one) => one['kind'] === 'uprobe');
    const enabled = lab.proc(pid, `hooks/by-id/${hook?.['id']}/enabled`);
    for (let n = 0; n < CHANGES; n++) {
      t.equal((await lab.sh(`echo 0 > ${enabled}; sleep 0.01`)).code, 0);
      const [off, other] = [counted(lab, pid, 'entries'), counted(lab, pid, 'returns')];
      t.ok(await eventually(() => counted(lab, pid, 'returns') > other), 'the other one runs');
      t.equal(counted(lab, pid, 'entries'), off, 'off is off');
      t.equal((await lab.sh(`echo 1 > ${enabled}`)).code, 0);
      t.ok(await eventually(() => counted(lab, pid, 'entries') > off), 'on is on');
    }
  }),
);
