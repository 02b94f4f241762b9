// `echo nostop=on > info`: probes come and go without a moment in which the process stands still.
import { readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(400_000);

const OK = { code: 0, out: '', err: '' };
const CYCLES = 200;
const FUNCTIONS = 8;
const ATTACHED = 3;
const BUSY_MS = 60_000;

const infoOf = (lab: Lab, pid: number, key: string) =>
  new RegExp(`^${key} +(\\S+)$`, 'm').exec(lab.read(pid, 'info'))?.[1];

const say = (lab: Lab, pid: number, line: string) =>
  lab.sh(`echo ${line} > ${lab.proc(pid, 'info')}`);

/** At fixed addresses: where a jump of one byte leads is a matter of luck otherwise. */
async function storm(lab: Lab, threads: string, spinners: string) {
  const target = lab.start('setarch', ['-R', lab.build('storm.c'), threads, spinners]);
  await target.says(/round [1-9]/);
  return target;
}

/** On a busy machine a thread may sit in a probe that was removed for longer than we wait for it. */
async function insist(change: () => void): Promise<void> {
  const made = await eventually(() => {
    try {
      change();
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error;
      return false;
    }
  }, BUSY_MS);
  if (!made) throw new Error('busy all the time');
}

/** The agent is gone. */
const left = (lab: Lab, pid: number) => eventually(() => infoOf(lab, pid, 'entered') === '0');

await t.test('entry and return, switched, replaced and removed: nobody stood still', (t) =>
  Lab.run(t, async (lab) => {
    const target = await storm(lab, '4', '2');
    const { pid } = target;
    const before = codeHash(pid);
    t.equal(infoOf(lab, pid, 'nostop'), 'off', 'unless told otherwise threads are stopped');
    t.same(await say(lab, pid, 'nostop=on'), OK);
    t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/storm_1'), OK, 'entry and return');
    t.same(await lab.attach(pid, lab.bpf('entry'), 'uprobe/storm_1,again'), OK, 'one more');
    t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/storm_1'), OK, 'a replacement');
    for (const file of ['uprobe/storm_1', 'uprobe/storm_1,again']) {
      const seen = lab.hits(pid, file);
      t.ok(await eventually(() => lab.hits(pid, file) > seen + 100), `${file} runs`);
    }
    t.equal(infoOf(lab, pid, 'nostop'), 'on');
    t.equal(infoOf(lab, pid, 'pause_ns_total'), '0', 'nobody stood still');
    const id = lab.hooks(pid)[0]?.['id'];
    t.match(lab.read(pid, `hooks/by-id/${id}/site`), /^form +onebyte$/m, 'the site says how');
    for (const value of ['0', '1', '0', '1']) {
      t.same(await lab.sh(`echo ${value} > ${lab.proc(pid, `hooks/by-id/${id}/enabled`)}`), OK);
    }
    t.same(await lab.detach(pid, 'uprobe/storm_1,again'), OK);
    t.same(await lab.detach(pid, 'uprobe/storm_1'), OK);
    t.ok(await left(lab, pid), 'the agent leaves');
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'it works on');
    t.notMatch(target.text, /WRONG/, 'no result was ever wrong');
  }),
);

await t.test(`${CYCLES} cycles under sixteen spinners`, (t) =>
  Lab.run(t, async (lab) => {
    const target = await storm(lab, '64', '16');
    const { pid } = target;
    const before = codeHash(pid);
    t.same(await say(lab, pid, 'nostop=on'), OK);
    const object = readFileSync(lab.bpf('probe'));
    const file = (n: number) => lab.proc(pid, 'uprobe', `storm_${n % FUNCTIONS}`);
    let longest = 0;
    for (let n = 0; n < CYCLES && target.alive; n++) {
      await insist(() => writeFileSync(file(n), object));
      if (n >= ATTACHED) await insist(() => unlinkSync(file(n - ATTACHED)));
      longest = Math.max(longest, Number(lab.hooks(pid)[0]?.['pause_ns'] ?? 0));
      if (n % 50 === 0) await sleep(1);
    }
    t.ok(target.alive, `it lives: ${target.text.slice(-100)}`);
    for (let n = CYCLES - ATTACHED; n < CYCLES; n++) unlinkSync(file(n));
    t.equal(longest, 0, 'no change stopped all threads');
    t.ok(await left(lab, pid), 'the agent leaves');
    await sameCode(t, pid, before, `after ${CYCLES} cycles`);
    t.ok(await target.advances(), 'it works on');
    t.notMatch(target.text, /WRONG/, 'no result was ever wrong');
  }),
);

await t.test('what would need a stop is refused, with what to do', (t) =>
  Lab.run(t, async (lab) => {
    const target = await storm(lab, '4', '2');
    const { pid } = target;
    const before = codeHash(pid);
    const refusal = async (ran: { code: number | null; err: string }) => {
      t.not(ran.code, 0);
      return lab.read(pid, 'last_error');
    };
    t.same(await lab.attach(pid, lab.bpf('entry'), 'uprobe/storm_2'), OK, 'attached with a stop');
    t.same(await say(lab, pid, 'nostop=on'), OK);
    t.match(
      await refusal(await lab.detach(pid, 'uprobe/storm_2')),
      /EBUSY.*stand still.*nostop=on/,
      'its removal takes one',
    );
    t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/storm_3'), OK, 'attached without');
    t.same(await say(lab, pid, 'nostop=off'), OK);
    t.same(await lab.detach(pid, 'uprobe/storm_2'), OK, 'and is made when it may');
    t.same(await lab.detach(pid, 'uprobe/storm_3'), OK, 'with a stop');
    t.same(await lab.attach(pid, lab.bpf('reader'), 'uprobe/write'), OK, 'a program that reads');
    t.match(await refusal(await say(lab, pid, 'nostop=on')), /EBUSY.*read memory.*rm them/);
    t.match(await refusal(await say(lab, pid, 'nostop=perhaps')), /EINVAL.*want nostop=on/);
    t.same(await lab.detach(pid, 'uprobe/write'), OK);
    t.ok(await left(lab, pid), 'the agent leaves');
    await sameCode(t, pid, before, 'in the end');
    t.ok(await target.advances(), 'it works on');
  }),
);
