// Frames that end without returning: what their return probes did not see is counted for each hook,
// exactly, where return addresses are replaced.
import t from 'tap';
import { codeHash, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
const JUMP = 'uprobe/by_jump';
const RET = 'uprobe/by_ret';
const DEEP = 'uprobe/descend';

const word = (text: string, key: string) => new RegExp(`^${key} +(\\S+)$`, 'm').exec(text)?.[1];

class Told {
  readonly #lab: Lab;
  readonly target: Running;

  constructor(lab: Lab, target: Running) {
    this.#lab = lab;
    this.target = target;
  }

  get pid(): number {
    return this.target.pid;
  }

  async does(what: string): Promise<boolean> {
    const before = this.target.text.length;
    this.target.child.stdin?.write(`${what}\n`);
    if (!(await this.target.says(new RegExp(`^[^]{${before}}[^]*did ${what}\n`)))) return false;
    return this.target.alive;
  }

  /** The info of a file's hook at entry, or at return. */
  info(file: string, kind: string): string {
    const hook = this.#lab
      .hooks(this.pid)
      .find((one) => one['file'] === file && one['kind'] === kind);
    return this.#lab.read(this.pid, `hooks/by-id/${hook?.['id']}/info`);
  }

  /** Calls, returns and returns cut short of a probed function. */
  figures(file: string): [number, number, string | undefined] {
    const returns = this.info(file, 'uretprobe');
    const hits = (text: string) => Number(word(text, 'hits'));
    return [hits(this.info(file, 'uprobe')), hits(returns), word(returns, 'unwound')];
  }
}

/** An entered target with both kinds of probe on each function. */
async function told(t: import('tap').Test, lab: Lab): Promise<Told> {
  const target = lab.start(lab.build('unwound.cc'));
  t.ok(await target.says(/ready/), 'the target works');
  for (const file of [JUMP, RET, DEEP]) {
    t.same(await lab.attach(target.pid, lab.bpf('probe'), file), OK, file);
  }
  const one = new Told(lab, target);
  t.equal(word(one.info(JUMP, 'uretprobe'), 'exit_form'), 'balanced');
  t.equal(word(one.info(RET, 'uretprobe'), 'exit_form'), 'ret');
  return one;
}

await t.test('exceptions, longjmp and cancelled threads, for each hook', async (t) => {
  await Lab.run(t, async (lab) => {
    const one = await told(t, lab);
    const { pid } = one;
    t.ok(await one.does('return 5'));
    t.same(one.figures(JUMP), [5, 5, '0'], 'all return');
    t.same(one.figures(RET), [5, 5, '-'], 'a ret site cannot tell');
    t.ok(await one.does('throw 3'));
    t.same(one.figures(JUMP), [8, 5, '3'], 'exceptions');
    t.same(one.figures(RET), [8, 5, '-'], 'calls without a return are what is known');
    t.ok(await one.does('cancel 2'));
    t.same(one.figures(JUMP), [10, 5, '5'], 'cancelled threads');
    t.ok(await one.does('deep 20'));
    t.same(one.figures(JUMP), [10, 5, '5'], 'hooks count for themselves');
    const [calls, returns, unwound] = one.figures(DEEP);
    const deep = word(one.info(DEEP, 'uretprobe'), 'exit_form');
    t.same([calls, returns], [21, 0], `an exception through 21 frames (${deep})`);
    if (deep === 'balanced') t.equal(unwound, '21');
    t.ok(await one.does('jump 4'));
    // The look asks for it; the thread counts at its next call.
    one.figures(JUMP);
    t.ok(await one.does('return 1'));
    t.same(one.figures(JUMP), [15, 6, '9'], 'longjmp');
    t.equal(word(lab.read(pid, 'info'), 'unwound'), String(deep === 'balanced' ? 30 : 9));
    t.notMatch(one.target.text, /WRONG/);
  });
});

await t.test(
  'a hook that comes later counts from then on; a daemon after it goes on',
  async (t) => {
    await Lab.run(t, async (lab) => {
      const target = lab.start(lab.build('unwound.cc'));
      const { pid } = target;
      t.ok(await target.says(/ready/));
      const before = codeHash(pid);
      const one = new Told(lab, target);
      t.same(await lab.attach(pid, lab.bpf('probe'), JUMP), OK);
      t.ok(await one.does('throw 2'));
      t.same(await lab.attach(pid, lab.bpf('probe'), `${JUMP},later`), OK);
      t.ok(await one.does('throw 3'));
      t.same(one.figures(JUMP), [5, 0, '5']);
      t.same(one.figures(`${JUMP},later`), [3, 0, '3']);
      t.same(await lab.attach(pid, lab.bpf('entry'), JUMP), OK, 'another object in its place');
      t.same(await lab.attach(pid, lab.bpf('probe'), JUMP), OK);
      t.same(one.figures(JUMP), [0, 0, '0'], 'begins anew');
      t.same(one.figures(`${JUMP},later`), [3, 0, '3']);
      for (const file of [JUMP, `${JUMP},later`]) t.same(await lab.detach(pid, file), OK);
      await sameCode(t, pid, before, 'after rm');
    });
  },
);
