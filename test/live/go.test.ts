// Go programs: names from the runtime's own table, probes at entries while goroutines' stacks grow,
// move and are collected.
import { readFileSync, writeFileSync } from 'node:fs';
import { copyFile, unlink } from 'node:fs/promises';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(240_000);

const MAKES = [
  { name: 'with-symbols', flags: [], sections: true },
  { name: 'no-symbols', flags: ['-ldflags', '-s -w'], sections: true },
  { name: 'position-independent', flags: ['-buildmode=pie', '-ldflags', '-s -w'], sections: true },
  { name: 'without-sections', flags: ['-ldflags', '-s -w'], sections: false },
];

/** Takes the section headers away, as sstrip does. */
function dropSections(path: string): void {
  const bytes = readFileSync(path);
  bytes.writeBigUInt64LE(0n, 0x28); // e_shoff
  bytes.writeUInt32LE(0, 0x3c); // e_shnum, e_shstrndx
  writeFileSync(path, bytes);
}

async function disassembles(t: Test, lab: Lab, pid: number, name: string, full: string) {
  const shown = await lab.sh(`cat '${lab.proc(pid, 'disasm', name)}'`);
  t.equal(shown.code, 0, `${name}: ${shown.err}`);
  t.match(shown.out.split('\n')[0], `${full}+0x0 `, `${name} is ${full}`);
  t.notMatch(shown.out, /int3\n$/, `${name} ends before the padding`);
}

for (const { name, flags, sections } of MAKES) {
  await t.test(`names: ${name}`, async (t) => {
    await Lab.run(t, async (lab) => {
      const program = lab.build('goroutines.go', flags, { name });
      if (!sections) dropSections(program);
      const target = lab.start(program);
      const { pid } = target;
      t.ok(await target.says(/ready/));
      const { out, err } = await lab.sh(`cat ${lab.proc(pid, 'symbols', name)}`);
      t.equal(err, '', 'symbols/ can be read');
      for (const symbol of ['main.work', 'main.(*thing).Method', 'internal%2fpoll.(*FD).Read']) {
        t.ok(out.includes(` ${symbol}\n`), `lists ${symbol}`);
      }
      t.ok(out.split('\n').length > 2000, 'lists all functions');
      await disassembles(t, lab, pid, 'main.work', 'main.work');
      await disassembles(t, lab, pid, 'main.(*thing).Method', 'main.(*thing).Method');
      await disassembles(t, lab, pid, 'internal%2Fpoll.(*FD).Read', 'internal/poll.(*FD).Read');
      await disassembles(t, lab, pid, 'poll.(*FD).Read', 'internal/poll.(*FD).Read');
      const wrong = await lab.sh(`cat '${lab.proc(pid, 'disasm', 'internal%2fpoll.(*FD).Raed')}'`);
      t.not(wrong.code, 0);
      t.match(lab.read(pid, 'last_error'), /did you mean internal%2fpoll\.\(\*FD\)\.Read/);
    });
  });
}

/** Functions whose calls the program counts, with what a return probe of each must see. */
const COUNTED = {
  grow: 'all',
  leaf: 'all',
  sum: 'all',
  manyArgs: 'all',
  deferred: 'all',
  recovered: 'all',
  thrower: 'none', // leaves by a panic, always
  big: 'all',
  pair: 'all',
  closure: 'all',
} as const;

const fine = { code: 0, out: '', err: '' };

/** The program's own counts, at rest. */
async function countsOf(target: Running): Promise<Record<string, number>> {
  const asked = target.text.length;
  target.child.stdin!.write('counts\n');
  const line = await eventually(() => /counts (.*)\n/.exec(target.text.slice(asked))?.[1]);
  const pairs = (line ?? '').split(' ').map((pair) => pair.split('='));
  return Object.fromEntries(pairs.map(([name, count]) => [name, Number(count)]));
}

async function works(t: Test, target: Running, rounds: number): Promise<void> {
  const from = target.round;
  target.child.stdin!.write('start\n');
  const done = await eventually(() => target.round >= from + rounds || !target.alive, 60_000);
  t.ok(done && target.alive, `works for ${rounds} rounds`);
  const asked = target.text.length;
  target.child.stdin!.write('stop\n');
  t.ok(await eventually(() => target.text.slice(asked).includes('stopped')), 'stops');
}

/** Hits of a file's hooks at entry and at return. */
function hitsOf(lab: Lab, pid: number, file: string): { entry: number; return: number } {
  const of = (kind: string) =>
    lab
      .hooks(pid)
      .filter((hook) => hook['file'] === file && hook['kind'] === kind)
      .reduce((sum, hook) => sum + Number(hook['hits']), 0);
  return { entry: of('uprobe'), return: of('uretprobe') };
}

await t.test('10,000 goroutines grow their stacks: every entry and return counts', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('goroutines.go'), ['10000']);
    const { pid } = target;
    t.ok(await target.says(/ready/));
    const before = codeHash(pid);
    const object = lab.bpf('probe');
    for (const name of Object.keys(COUNTED)) {
      t.same(await lab.attach(pid, object, `uprobe/main.${name}`), fine, `on ${name}`);
    }
    // Its first instruction reads through a nil pointer, each time, and the panic is recovered.
    const nilReader = 'uprobe/main.valueOf';
    t.not((await lab.attach(pid, object, nilReader)).code, 0, 'its return is refused');
    t.match(lab.read(pid, 'last_error'), /EOPNOTSUPP main.valueOf: .* could not become a panic/);
    t.same(await lab.attach(pid, lab.bpf('entry'), nilReader), fine, 'its entry is not');
    await works(t, target, 10);
    const counts = await countsOf(target);
    t.same(hitsOf(lab, pid, nilReader), { entry: counts['valueOf'], return: 0 }, 'valueOf');
    t.same(await lab.detach(pid, nilReader), fine);
    for (const [name, returns] of Object.entries(COUNTED)) {
      const want = counts[name] ?? -1;
      t.ok(want > 0, `${name} was called`);
      t.same(
        hitsOf(lab, pid, `uprobe/main.${name}`),
        { entry: want, return: returns === 'all' ? want : 0 },
        name,
      );
    }
    for (const name of Object.keys(COUNTED)) {
      t.same(await lab.detach(pid, `uprobe/main.${name}`), fine, `off ${name}`);
    }
    await sameCode(t, pid, before, 'in the end');
    await works(t, target, 2);
    t.notMatch(target.text, /WRONG|panic|fatal/, 'no result was ever wrong');
  });
});

/** What the runtime does all the time while goroutines work, some of it on the signal stack. */
const RUNTIME = [
  ...['mallocgc', 'newobject', 'growslice', 'memmove', 'memclrNoHeapPointers', 'chansend1'],
  ...['chanrecv1', 'schedule', 'findRunnable', 'execute', 'gogo', 'mcall', 'gopark', 'goready'],
  ...['newstack', 'copystack', 'morestack', 'adjustframe', 'gentraceback', 'scanobject'],
  ...['gcDrain', 'sigtrampgo', 'sighandler', 'doSigPreempt', 'asyncPreempt2', 'netpoll', 'futex'],
  ...['nanotime1', 'systemstack', 'entersyscall', 'exitsyscall', 'deferreturn', 'gopanic'],
  ...['recovery', 'lock2', 'unlock2', 'goexit1', 'newproc1', 'gcWriteBarrier', 'usleep'],
].map((name) => `runtime.${name}`);

await t.test('runtime and program probed while it works, again and again', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('goroutines.go'), ['10000'], {
      env: { GOMAXPROCS: '8', GOGC: '20' },
    });
    const { pid } = target;
    t.ok(await target.says(/ready/));
    const before = codeHash(pid);
    const both = Object.keys(COUNTED).map((name) => `main.${name}`);
    target.child.stdin!.write('start\n');
    for (let cycle = 1; cycle <= 3; cycle++) {
      for (const name of RUNTIME) await copyFile(lab.bpf('entry'), lab.proc(pid, 'uprobe', name));
      for (const name of both) await copyFile(lab.bpf('probe'), lab.proc(pid, 'uprobe', name));
      t.ok(await target.advances(), `cycle ${cycle}: works on`);
      const idle = () => both.filter((name) => lab.hits(pid, `uprobe/${name}`) === 0);
      await eventually(() => idle().length === 0);
      t.same(idle(), [], `cycle ${cycle}: every function was seen`);
      if (cycle === 1) {
        const unseen = RUNTIME.filter((name) => lab.hits(pid, `uprobe/${name}`) === 0);
        t.comment(`not called: ${unseen.join(' ')}`);
        t.ok(unseen.length < RUNTIME.length / 4, 'most of the runtime was seen');
      }
      for (const name of [...RUNTIME, ...both]) await unlink(lab.proc(pid, 'uprobe', name));
      await sameCode(t, pid, before, `cycle ${cycle}`);
      t.ok(await target.advances(), `cycle ${cycle}: still works`);
    }
    t.notMatch(target.text, /WRONG|panic|fatal/, 'no result was ever wrong');
  });
});

await t.test('goroutines preempted inside of what becomes a jump go on', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('goroutines.go'), ['100']);
    const { pid } = target;
    t.ok(await target.says(/ready/));
    const before = codeHash(pid);
    target.child.stdin!.write('hot\n');
    const turn = async (what: string) => {
      // Each of them gets 10 ms of one of two threads before it waits again.
      t.ok(await target.advances(), `${what}: works on`);
      t.ok(await target.advances(), `${what}: and on`);
    };
    await turn('at first');
    for (let cycle = 1; cycle <= 5; cycle++) {
      t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/main.root'), fine, 'on');
      await turn(`cycle ${cycle}, on`);
      const { entry, return: returned } = hitsOf(lab, pid, 'uprobe/main.root');
      t.ok(entry > 0 && returned > 0, `cycle ${cycle}: counts`);
      t.same(await lab.detach(pid, 'uprobe/main.root'), fine, 'off');
      await sameCode(t, pid, before, `cycle ${cycle}`);
      await turn(`cycle ${cycle}, off`);
    }
    t.notMatch(target.text, /WRONG|panic|fatal|signal/, 'no result was ever wrong');
  });
});

await t.test('places inside of functions', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('goroutines.go'), ['500']);
    const { pid } = target;
    t.ok(await target.says(/ready/));
    const before = codeHash(pid);
    const places: string[] = [];
    for (const name of ['deferred', 'recovered', 'grow', 'work', 'leaf']) {
      const { out } = await lab.sh(`cat ${lab.proc(pid, 'disasm', `main.${name}`)}`);
      const offsets = [...out.matchAll(/<\+(\d+)>/g)].map((match) => match[1]);
      const chosen = offsets.filter((_, i) => i > 0 && i % 6 === 0);
      places.push(...chosen.map((offset) => `main.${name}+${offset}`));
    }
    const taken: string[] = [];
    for (const place of places) {
      const put = await lab.attach(pid, lab.bpf('entry'), `uprobe/${place}`);
      if (put.code === 0) taken.push(place);
    }
    t.comment(`${taken.length} of ${places.length} places`);
    t.ok(taken.length > places.length / 2, 'most places take a probe');
    await works(t, target, 5);
    const seen = taken.filter((place) => lab.hits(pid, `uprobe/${place}`) > 0);
    t.ok(seen.length > taken.length / 2, 'most are hit');
    for (const place of taken) t.same(await lab.detach(pid, `uprobe/${place}`), fine);
    await sameCode(t, pid, before, 'in the end');
    await works(t, target, 2);
    t.notMatch(target.text, /WRONG|panic|fatal/, 'no result was ever wrong');
  });
});

/** Functions of the program by the names that symbols/ lists; one name an address. */
async function functionsOf(lab: Lab, pid: number): Promise<string[]> {
  const { out } = await lab.sh(`cat ${lab.proc(pid, 'symbols', 'goroutines')}`);
  const byAddr = new Map<string, string>();
  for (const line of out.trimEnd().split('\n')) {
    const [addr = '', size, , ...name] = line.split(' ');
    if (size !== '0' && !byAddr.has(addr)) byAddr.set(addr, name.join(' '));
  }
  return [...byAddr.values()];
}

await t.test('functions of program and runtime take a probe, or it is known why not', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('goroutines.go'), ['100']);
    const { pid } = target;
    t.ok(await target.says(/ready/));
    const before = codeHash(pid);
    // Each is an operation of its own on a busy process: here a part of them, `SWEEP=all` for all.
    const step = process.env['SWEEP'] === 'all' ? 1 : 12;
    const functions = (await functionsOf(lab, pid)).filter((_, i) => i % step === 0);
    target.child.stdin!.write('start\n');
    const object = lab.bpf('entry');
    const refused = new Map<string, string[]>();
    const taken: string[] = [];
    for (const name of functions) {
      try {
        await copyFile(object, lab.proc(pid, 'uprobe', name));
        taken.push(name);
      } catch {
        const said = lab.read(pid, 'last_error').trim();
        const why = said.slice(said.indexOf(': ') + 2);
        refused.set(why, [...(refused.get(why) ?? []), name]);
      }
    }
    for (const [why, names] of refused) t.comment(`${names.length} ${why}: ${names.join(' ')}`);
    t.comment(`${taken.length} of ${functions.length}`);
    t.ok(taken.length >= functions.length * (step === 1 ? 0.995 : 0.98), 'nearly all take a probe');
    t.ok(await target.advances(), 'works on');
    for (const name of taken) await unlink(lab.proc(pid, 'uprobe', name));
    await sameCode(t, pid, before, 'in the end');
    t.ok(await target.advances(), 'works on');
    t.notMatch(target.text, /WRONG|panic|fatal/, 'no result was ever wrong');
  });
});
