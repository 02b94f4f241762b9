// Stacks of code without frame pointers, in a live process, against what its own backtrace(3) says,
// address by address: functions, libc, signal handlers, landing pads, threads, modules that come
// later, code that no table knows, replaced return addresses; and that nobody else pays for it.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
const FILE = 'stacks.o';
const PLAIN = ['-fomit-frame-pointer', '-rdynamic'];

const CASES: Record<number, string> = {
  1: 'functions',
  2: 'through qsort of libc',
  3: 'through a signal handler',
  4: 'while an exception passes',
  5: 'a thread, to its end',
  6: 'through a module that was loaded later',
  7: 'through code that no table knows',
  8: 'through a return address that we replaced',
};

/** The last addresses that the target printed for a case. */
function told(target: Running, number: number): number[] {
  const lines = target.text.split('\n').filter((line) => line.startsWith(`case ${number}: `));
  return (lines.at(-1) ?? '').split(' ').slice(2).map(Number);
}

const tables = (pid: number) =>
  readFileSync(`/proc/${pid}/maps`, 'utf8').split('bpftime-unwind').length - 1;

class Stacks {
  readonly #lab: Lab;
  readonly target: Running;
  #rounds = 0;

  constructor(lab: Lab, target: Running) {
    this.#lab = lab;
    this.target = target;
  }

  /** One of each case. */
  async round(): Promise<boolean> {
    this.target.child.stdin?.write('go\n');
    const wanted = ++this.#rounds;
    return !!(await eventually(() => this.target.text.split('\ntold\n').length > wanted));
  }

  walk(number: number, map = 'walks'): number[] {
    const line = this.#lab
      .read(this.target.pid, `maps/${map}/entries`)
      .split('\n')
      .find((one) => one.startsWith(`${number}: `));
    const value = JSON.parse(line?.replace(/^\d+: /, '') ?? '{}') as { ips?: number[] };
    return (value.ips ?? []).filter((ip) => ip !== 0);
  }

  compare(t: Test, number: number): void {
    const [ours, theirs] = [this.walk(number), told(this.target, number)];
    const name = CASES[number]!;
    t.ok(theirs.length > 2, `${name}: the target knows`);
    // Its unwinder ends where no table leads on; frame pointers do.
    const shown = number === 7 ? ours.slice(0, theirs.length + 1) : ours;
    t.equal(shown.length, theirs.length + 1, `${name}: as many frames`);
    t.same(shown.slice(2), theirs.slice(1), `${name}: the same addresses`);
    t.ok(Math.abs(shown[1]! - theirs[0]!) < 400, `${name}: from where write was called`);
  }
}

await t.test('stacks without frame pointers', async (t) => {
  await Lab.run(t, async (lab) => {
    const library = lab.build('calls_back.c', [...PLAIN, '-shared', '-fPIC'], { name: 'late.so' });
    const target = lab.start(lab.build('stacks.cc', PLAIN), [library]);
    const { pid } = target;
    const first = await target.says(/unknown (0x[0-9a-f]+)/);
    const unknown = Number(first?.[1]);
    const stacks = new Stacks(lab, target);
    const before = codeHash(pid);
    t.same(await lab.attach(pid, lab.bpf('facts'), 'uprobe/puts'), OK, 'another object');
    t.equal(tables(pid) > 0, true, 'which asks for stacks');
    t.equal((await lab.detach(pid, 'uprobe/puts')).code, 0);
    t.same(await lab.attach(pid, lab.bpf('stacks'), `hooks/${FILE}`), OK);
    t.ok(await stacks.round());
    for (const number of [1, 2, 3, 4, 5, 6, 8]) stacks.compare(t, number);

    const through = stacks.walk(7);
    const at = through.indexOf(unknown + 6);
    t.ok(at > 1, `${CASES[7]}: it is there`);
    const above = stacks.walk(1).slice(-3);
    t.same(through.slice(at + 2), above, `${CASES[7]}: and all above main`);

    const form = /^exit_form +balanced/m;
    const infos = lab.hooks(pid).map((hook) => lab.read(pid, `hooks/by-id/${hook['id']}/info`));
    t.ok(
      infos.some((info) => form.test(info)),
      'a return address is replaced',
    );
    const back = stacks.walk(0, 'returns');
    t.same(back.slice(1), above, 'at a return the stack is the caller’s');

    const lines = lab.read(pid, 'maps/stacks/entries');
    const text = /"0x[0-9a-f]+ (__)?write\+0x0 \(libc\.so\.6\+0x[0-9a-f]+\)","0x[0-9a-f]+ tell\+0x/;
    t.match(lines, text, 'the text of a stack has symbols and modules');
    t.match(lines, /followed\+0x[0-9a-f]+ \(stacks\+0x[0-9a-f]+\)/);
    const id = execFileSync('readelf', ['-n', `/proc/${pid}/exe`], { encoding: 'utf8' });
    const bytes = /Build ID: ([0-9a-f]{40})/.exec(id)?.[1] ?? '';
    const files = lab.read(pid, 'maps/files/entries');
    t.ok(bytes !== '' && files.includes(bytes), `by build-id, too: ${files}`);

    t.equal((await lab.detach(pid, `hooks/${FILE}`)).code, 0);
    await sameCode(t, pid, before, 'after rm');
    t.ok(await eventually(() => tables(pid) === 0), 'tables go with the last hook');
    t.ok(await stacks.round(), 'the target works on');
  });
});

await t.test('tables are shared, and only made for whom they serve', async (t) => {
  await Lab.run(t, async (lab) => {
    const program = lab.build('stacks.cc', PLAIN);
    const [one, two] = [lab.start(program), lab.start(program)];
    t.ok((await one.says(/unknown/)) && (await two.says(/unknown/)));
    t.same(await lab.attach(one.pid, lab.bpf('entry'), 'uprobe/puts'), OK);
    t.equal(tables(one.pid), 0, 'a program that asks for no stack brings none');
    for (const { pid } of [one, two]) {
      t.same(await lab.attach(pid, lab.bpf('stacks'), `hooks/${FILE}`), OK);
    }
    const inodes = (pid: number) =>
      readFileSync(`/proc/${pid}/maps`, 'utf8')
        .split('\n')
        .filter((line) => line.includes('bpftime-unwind'))
        .map((line) => line.split(/ +/)[4])
        .sort();
    t.ok(inodes(one.pid).length > 2);
    t.same(inodes(one.pid), inodes(two.pid), 'two processes have the same tables');
    const writable = readFileSync(`/proc/${one.pid}/maps`, 'utf8').match(/ rw.. .*bpftime-unwind/);
    t.equal(writable, null, 'which they cannot write');
  });
});
