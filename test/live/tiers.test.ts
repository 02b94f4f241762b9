// How a program is reached from its site: small ones stand there, others are called with what they
// read. What stands there counts each call once, while it is switched, replaced and joined.
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
