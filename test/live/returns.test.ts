// Where returns are caught: at the function's own `ret`s nothing on the stack changes, so a
// debugger sees every caller; where the return address is replaced, exceptions still find their
// way, and what they cut short is counted.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

const OK = { code: 0, out: '', err: '' };

t.setTimeout(120_000);

/** Whose returns are probed. */
const NAMES = ['sleeps_long', 'calls_sleeper', 'goes_cold', 'leaves_by_jump'];

/** The value of a key in `key value` lines. */
const lineValue = (text: string, key: string) =>
  new RegExp(`^${key} +(\\S+)$`, 'm').exec(text)?.[1];

await t.test('gdb and the unwinder see true callers', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('returns.cc'));
    const { pid } = target;
    t.ok(await target.says(/round/), 'the target works');
    const before = codeHash(pid);
    for (const name of NAMES) {
      t.same(await lab.attach(pid, lab.bpf('entry'), `uretprobe/${name}`), OK, name);
    }
    const forms = Object.fromEntries(
      lab
        .hooks(pid)
        .map((hook) => [
          hook['file'],
          lineValue(lab.read(pid, `hooks/by-id/${hook['id']}/info`), 'exit_form'),
        ]),
    );
    t.same(forms, {
      'uretprobe/sleeps_long': 'ret',
      'uretprobe/calls_sleeper': 'ret',
      'uretprobe/goes_cold': 'ret',
      'uretprobe/leaves_by_jump': 'balanced',
    });
    const stack = await eventually(() => {
      const seen = execFileSync('gdb', ['-batch', '-nx', '-p', String(pid), '-ex', 'bt'], {
        stdio: ['ignore', 'pipe', 'ignore'],
        encoding: 'utf8',
      });
      return seen.includes('calls_sleeper') ? seen : undefined;
    });
    t.match(stack, /sleeps_long(.|\n)*calls_sleeper(.|\n)*main/, 'as gdb walks the stack');
    t.ok(await target.advances(), 'it works on');
    t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/goes_cold,both'), OK);
    const counts = () => {
      const both = lab.hooks(pid).filter((hook) => hook['file'] === 'uprobe/goes_cold,both');
      const [entries, returns] = both.map((hook) => Number(hook['hits']));
      return entries! >= 10 && Math.abs(entries! - returns!) <= 1;
    };
    t.ok(await eventually(counts), 'calls that go through the cold part return as the others do');
    t.same(await lab.detach(pid, 'uprobe/goes_cold,both'), OK);
    const unwound = () => Number(lineValue(lab.read(pid, 'info'), 'unwound'));
    t.ok(await eventually(() => unwound() > 0), 'what exceptions cut short is counted');
    t.ok(await eventually(() => lab.hits(pid, 'uretprobe/leaves_by_jump') > 0), 'returns are seen');
    for (const name of NAMES) {
      t.same(await lab.detach(pid, `uretprobe/${name}`), OK);
    }
    t.notMatch(target.text, /WRONG/);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('gdb sees through replaced return addresses by procs/PID/gdb.py', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('returns.cc'));
    const { pid } = target;
    t.ok(await target.says(/round/), 'the target works');
    const before = codeHash(pid);
    const script = lab.proc(pid, 'gdb.py');
    t.match(readFileSync(script, 'utf8'), /source this again/, 'before there is anything to say');
    for (const name of ['leaves_for_sleep', 'leaves_by_jump']) {
      t.same(await lab.attach(pid, lab.bpf('entry'), `uretprobe/${name}`), OK, name);
    }
    const backtrace = (...first: string[]) =>
      eventually(() => {
        const args = ['-batch', '-nx', '-p', String(pid), ...first, '-ex', 'bt'];
        const seen = execFileSync('gdb', args, { stdio: ['ignore', 'pipe', 2], encoding: 'utf8' });
        return seen.includes('sleeps_long') && !seen.includes('calls_sleeper') ? seen : undefined;
      });
    t.match(
      await backtrace('-ex', `source ${script}`),
      /sleeps_long.*\n.*<return probe>.*\n.*calls_leaver.*\n.*main/,
    );
    t.notMatch(await backtrace(), /sleeps_long.*\n.*calls_leaver/, 'which gdb alone does not');
    const core = `${lab.scratch}/core`;
    await backtrace('-ex', `generate-core-file ${core}`);
    const kept = `${lab.scratch}/gdb.py`;
    await lab.sh(`cat ${script} > ${kept}`);
    const { out } = await lab.sh(
      `gdb -batch -nx -ex 'source ${kept}' -ex bt /proc/${pid}/exe ${core}`,
    );
    t.match(out, /<return probe>/, 'in a core file as well');
    t.ok(await target.advances(), 'it works on');
    for (const name of ['leaves_for_sleep', 'leaves_by_jump']) {
      t.same(await lab.detach(pid, `uretprobe/${name}`), OK);
    }
    t.notMatch(target.text, /WRONG/);
    await sameCode(t, pid, before, 'after rm');
  });
});
