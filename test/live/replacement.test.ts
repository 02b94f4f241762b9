// `cp prog.o replace/FUNCTION`: the program's result is the function's, or it lets the function
// run, with the arguments that it left. Probes on the same function go on seeing calls and returns.
import { readdirSync } from 'node:fs';
import t, { type Test } from 'tap';
import { Dynasty } from '../helpers/dynasty.js';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
const PLAIN = 'plain 8 4 seven 7654321 pair 5 10 jump 108';

function answer(lab: Lab, how: string, ...defines: string[]): string {
  const flags = [`CASE=${how}`, ...defines].map((one) => `-D${one}`);
  return lab.bpf('answer', flags, `answer${flags.join('')}`.replace(/\W/g, '_'));
}

/** What the functions return in a round that begins from now on. */
async function results(target: Running): Promise<string> {
  const from = target.text.length;
  const rounds = new RegExp(`^[^]{${from}}[^]*?round[^]*?round \\d+ (.*)\\n`);
  return (await target.says(rounds, 10_000))?.[1] ?? 'nothing';
}

async function start(t: Test, lab: Lab, threads = 0): Promise<Running> {
  const target = lab.start(lab.build('replaced.c'), [String(threads)]);
  t.ok(await target.says(/round/), 'the target works');
  t.equal(await results(target), PLAIN);
  return target;
}

/** The last refusal of a process. */
const refusal = (lab: Lab, pid: number) => lab.read(pid, 'last_error');

await t.test('results, arguments, and the function itself', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await start(t, lab);
    const { pid } = target;
    const before = codeHash(pid);
    const rows: [string, string, string][] = [
      ['ALWAYS', 'plain', PLAIN.replace('plain 8 4', 'plain 42 42').replace('108', '42')],
      ['SOMETIMES', 'plain', PLAIN.replace('plain 8 4', 'plain -5 4')],
      ['ARGUMENTS', 'plain', PLAIN.replace('plain 8 4', 'plain 1001 1001').replace('108', '1001')],
      ['ARGUMENTS', 'seven', PLAIN.replace('7654321', '7955320')],
      ['BOTH', 'pair', PLAIN.replace('pair 5 10', 'pair 11 22')],
      ['ALWAYS', 'leaves_by_jump', PLAIN.replace('108', '42')],
      ['SOMETIMES', 'leaves_by_jump', PLAIN.replace('108', '-5')],
    ];
    for (const [how, name, want] of rows) {
      t.same(await lab.attach(pid, answer(lab, how), `replace/${name}`), OK, `${how} ${name}`);
      t.equal(await results(target), want, `${how} ${name}`);
      t.same(await lab.detach(pid, `replace/${name}`), OK);
      t.equal(await results(target), PLAIN, 'the function is back');
    }
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('probes see calls that were answered, at their return as well', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await start(t, lab);
    const { pid } = target;
    const before = codeHash(pid);
    for (const name of ['plain', 'leaves_by_jump']) {
      t.same(await lab.attach(pid, lab.bpf('probe'), `uprobe/${name}`), OK);
      t.same(await lab.attach(pid, answer(lab, 'ALWAYS'), `replace/${name}`), OK);
      const [, hook] = lab.hooks(pid).filter((one) => one['file'] === `uprobe/${name}`);
      const form = /^exit_form +(\w+)$/m.exec(lab.read(pid, `hooks/by-id/${hook!['id']}/info`));
      t.equal(form?.[1], name === 'plain' ? 'ret' : 'balanced', name);
      const counts = () => {
        const [bss] = readdirSync(lab.proc(pid, 'maps')).filter((one) =>
          /^(plain|leaves).*bss$/.test(one),
        );
        const text = lab.read(pid, `maps/${bss}/entries`);
        return ['entries', 'returns'].map((one) =>
          Number(new RegExp(`${one}\\W+(\\d+)`).exec(text)?.[1]),
        );
      };
      const hits = () => lab.hits(pid, `replace/${name}`);
      const answered = hits();
      t.ok(await eventually(() => hits() > answered + 10), `${name} is answered`);
      const [entries, returns] = counts();
      t.ok(
        entries! > 10 && Math.abs(entries! - returns!) < 10,
        `${entries} calls, ${returns} returns`,
      );
      const list = lab.hooks(pid).find((one) => one['file'] === `replace/${name}`);
      t.match(list, { kind: 'replace', program: 'answer', state: 'attached' });
      const enabled = lab.proc(pid, `hooks/by-id/${list!['id']}/enabled`);
      t.match(await results(target), /jump 42/);
      await lab.sh(`echo 0 > ${enabled}`);
      t.equal(await results(target), PLAIN, 'switched off: the function itself');
      await lab.sh(`echo 1 > ${enabled}`);
      t.match(await results(target), /jump 42/);
      t.same(await lab.detach(pid, `uprobe/${name}`), OK, 'the probe goes first');
      t.match(await results(target), /jump 42/);
      t.same(await lab.detach(pid, `replace/${name}`), OK);
      t.equal(await results(target), PLAIN);
    }
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('several on one function: the last one that answers decides', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await start(t, lab);
    const { pid } = target;
    const before = codeHash(pid);
    t.same(await lab.attach(pid, answer(lab, 'ALWAYS'), 'replace/plain'), OK);
    t.same(await lab.attach(pid, answer(lab, 'SOMETIMES'), 'replace/plain,some'), OK);
    t.match(await results(target), /^plain -5 42 /);
    t.same(await lab.detach(pid, 'replace/plain'), OK);
    t.match(await results(target), /^plain -5 4 /);
    t.same(await lab.attach(pid, answer(lab, 'ALWAYS'), 'replace/plain,some'), OK, 'a second cp');
    t.match(await results(target), /^plain 42 42 /);
    t.same(await lab.detach(pid, 'replace/plain,some'), OK);
    t.equal(await results(target), PLAIN);
    const placed = answer(lab, 'ALWAYS', 'PLACE="replace//proc/self/exe:plain"');
    t.same(await lab.attach(pid, placed, 'hooks/answer.o'), OK, 'by its section');
    t.match(await results(target), /^plain 42 42 /);
    t.same(await lab.detach(pid, 'hooks/answer.o'), OK);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('what is refused, and how it is said', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await start(t, lab);
    const { pid } = target;
    const before = codeHash(pid);
    const rows: [string, string, RegExp, RegExp][] = [
      [
        answer(lab, 'ALWAYS'),
        'replace/plain+0x4',
        /Invalid argument/,
        /belongs to a whole function/,
      ],
      [answer(lab, 'ALWAYS'), 'replace/nowhere', /No such file/, /nowhere/],
      [answer(lab, 'ALWAYS'), 'uprobe/plain', /Exec format/, /copy the object to replace\/plain/],
      [answer(lab, 'WRITES'), 'replace/plain', /Exec format/, /insn \d+: .*struct pt_regs.*read/],
      [
        answer(lab, 'ALWAYS', 'TWO_PROGRAMS'),
        'replace/plain',
        /Exec format/,
        /2 programs.*leave one/,
      ],
      [
        answer(lab, 'SOMETIMES', 'PLACE="uprobe"'),
        'uprobe/plain',
        /Exec format/,
        /bpf_override_return is not offered to probes.*copy the object to replace\/FUNCTION/,
      ],
      [lab.bpf('probe'), 'replace/plain', /Exec format/, /2 programs/],
      [
        answer(lab, 'ALWAYS', 'PLACE="uretprobe"'),
        'replace/plain',
        /Exec format/,
        /a return probe/,
      ],
      [
        answer(lab, 'ALWAYS'),
        'hooks/answer.o',
        /Invalid argument/,
        /names no function.*copy the object to replace\//,
      ],
    ];
    for (const [object, where, err, why] of rows) {
      const ran = await lab.attach(pid, object, where);
      t.match(ran.err, err, where);
      t.match(refusal(lab, pid), why, where);
    }
    const kprobe = answer(lab, 'SOMETIMES', 'PLACE="uprobe"');
    t.same(await lab.attach(pid, kprobe, 'replace/plain'), OK, 'the place counts, not the section');
    t.match(await results(target), /^plain -5 4 /);
    t.same(await lab.detach(pid, 'replace/plain'), OK);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('under threads that call without pause', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await start(t, lab, 4);
    const { pid } = target;
    const before = codeHash(pid);
    for (let cycle = 0; cycle < 40; cycle++) {
      const noStop = cycle % 4 === 3 ? 'on' : 'off';
      await lab.sh(`echo nostop=${noStop} > ${lab.proc(pid, 'info')}`);
      const ran = await lab.attach(pid, answer(lab, 'ALWAYS'), 'replace/plain');
      if (ran.code !== 0) t.match(refusal(lab, pid), /not free/, 'only for want of a place');
      else t.same(await lab.detach(pid, 'replace/plain'), OK);
    }
    t.equal(await results(target), PLAIN);
    t.notMatch(target.text, /WRONG/);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test(
  'a killed daemon leaves the results in force, the next one takes them out',
  async (t) => {
    await Lab.run(t, async (lab) => {
      const target = await start(t, lab);
      const { pid } = target;
      const before = codeHash(pid);
      const line = await Dynasty.begin(lab);
      t.same(await line.cp(answer(lab, 'SOMETIMES'), pid, 'replace/plain'), OK);
      t.same(await line.cp(answer(lab, 'ALWAYS'), pid, 'replace/leaves_by_jump'), OK);
      const answered = PLAIN.replace('plain 8 4', 'plain -5 4').replace('108', '42');
      await line.kill();
      t.equal(await results(target), answered, 'without a daemon');
      t.ok(await line.next(), 'the next one mounts');
      t.equal(line.errors, '', 'without a complaint');
      t.equal(await results(target), answered);
      t.same(
        line.hooks(pid).map(([, kind]) => kind),
        ['replace', 'replace'],
      );
      t.same(await line.cp(answer(lab, 'ALWAYS'), pid, 'replace/plain'), OK, 'a second cp');
      t.match(await results(target), /^plain 42 42 /);
      t.same(await line.rm(pid, 'replace/plain'), OK);
      t.same(await line.rm(pid, 'replace/leaves_by_jump'), OK);
      t.equal(await results(target), PLAIN);
      t.same(await line.end(), [], 'no mount is left');
      await sameCode(t, pid, before, 'after rm');
    });
  },
);
