// Programs read memory by plain loads that may fault, in a process whose own life is full of
// faults: nobody notices the other.
import { readFileSync } from 'node:fs';
import t from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

const CYCLES = 6;
const KINDS = ['good', 'null', 'unmapped', 'protected', 'racing', 'across', 'at the end'];
const OUTCOMES = [
  'ok',
  'fault',
  'other',
  'wrong',
  'text ok',
  'text fault',
  'text other',
  'text wrong',
];
const OBJECT = 'uprobe/touch';

t.setTimeout(120_000);

/** Signals with a handler, as the kernel knows them. */
const caught = (pid: number) =>
  /^SigCgt:\s*(\w+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];

/** Numbers of an array map. */
function counts(lab: Lab, pid: number, map: string): number[] {
  const lines = lab.read(pid, `maps/${map}/entries`).trimEnd().split('\n');
  return lines.map((line) => Number(line.split(': ')[1]));
}

/** Outcomes that were seen, by kind of pointer. */
function outcomes(lab: Lab, pid: number): Record<string, string> {
  const seen = counts(lab, pid, 'results');
  const ofKind = (kind: number) =>
    OUTCOMES.filter((_, outcome) => (seen[kind * 8 + outcome] ?? 0) > 0).join(', ');
  return Object.fromEntries(KINDS.map((name, kind) => [name, ofKind(kind)]));
}

const EXPECTED = {
  good: 'ok, text ok',
  null: 'fault, text fault',
  unmapped: 'fault, text fault',
  protected: 'fault, text fault',
  racing: 'ok, fault, text ok, text fault',
  across: 'fault, text ok',
  'at the end': 'ok, text ok',
};

const reads = (lab: Lab, pid: number) => /^reads (.*)$/m.exec(lab.read(pid, 'info'))?.[1];

async function attachReader(t: Parameters<typeof sameCode>[0], lab: Lab, target: Running) {
  t.ok(await target.says(/round [1-9]/), 'the target works');
  const put = await lab.attach(target.pid, lab.bpf('reader'), OBJECT);
  t.same(put, { code: 0, out: '', err: '' }, 'attached');
  t.match(reads(lab, target.pid), /^(guarded|followed)$/, 'reads are guarded');
}

await t.test('a program and its host fault without meeting', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('faulter.c'));
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(target.pid);
    // It ignores SIGBUS for moments.
    const bus = 1n << 6n;
    await eventually(() => (BigInt(`0x${caught(target.pid)}`) & bus) !== 0n);
    const signals = caught(target.pid);
    for (let cycle = 1; cycle <= CYCLES; cycle++) {
      await attachReader(t, lab, target);
      await eventually(() => outcomes(lab, target.pid)['racing'] === EXPECTED.racing);
      t.ok(await target.advances(target.round + 100), `cycle ${cycle}: works on`);
      t.same(outcomes(lab, target.pid), EXPECTED, `cycle ${cycle}: every read as it should be`);
      const [ok, fault, other] = counts(lab, target.pid, 'returned');
      t.match({ ok: ok! > 0, fault: fault! > 0, other }, { ok: true, fault: true, other: 0 });
      t.match(await lab.detach(target.pid, OBJECT), { code: 0, err: '' }, 'detached');
      await sameCode(t, target.pid, before, `cycle ${cycle}`);
      const isSame = () => caught(target.pid) === signals;
      t.ok(await eventually(isSame), `cycle ${cycle}: the same signals are caught`);
      t.ok(await target.advances(), `cycle ${cycle}: still works`);
    }
    t.notMatch(target.text, /WRONG/, 'nothing was ever wrong');
  });
});

async function endsBy(target: Running, signal: NodeJS.Signals): Promise<string | null> {
  target.child.kill(signal);
  await eventually(() => !target.alive);
  return target.child.signalCode;
}

await t.test('a process without handlers dies as it always did', async (t) => {
  await Lab.run(t, async (lab) => {
    const program = lab.build('faulter.c');
    const sent = lab.start(program, ['plain']);
    await attachReader(t, lab, sent);
    t.equal(await endsBy(sent, 'SIGSEGV'), 'SIGSEGV', 'killed by a signal that was sent');
    const faulted = lab.start(program, ['plain']);
    await attachReader(t, lab, faulted);
    t.equal(await endsBy(faulted, 'SIGUSR1'), 'SIGSEGV', 'killed by a fault of its own');
    const bus = lab.start(program, ['plain']);
    await attachReader(t, lab, bus);
    t.equal(await endsBy(bus, 'SIGBUS'), 'SIGBUS', 'killed by SIGBUS');
  });
});

await t.test('a process that ignores the signal goes on', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('faulter.c'), ['ignore']);
    await attachReader(t, lab, target);
    target.child.kill('SIGSEGV');
    t.ok(await target.advances(target.round + 2), 'a sent signal is ignored');
    t.match(await lab.detach(target.pid, OBJECT), { code: 0, err: '' }, 'detached');
    await eventually(() => reads(lab, target.pid) === 'none');
    t.match(readFileSync(`/proc/${target.pid}/status`, 'utf8'), /^SigIgn:.*4..$/m, 'as before');
    t.equal(await endsBy(target, 'SIGUSR1'), 'SIGSEGV', 'a fault cannot be ignored');
  });
});
