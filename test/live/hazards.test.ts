// Unlucky and hostile targets: whatever they do while probes come and go, they live on, and their
// code is what it was. Each case once killed a process or left something behind.
import { readdirSync, readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { codeHashBecomes } from '../helpers/code-hash.js';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };

async function start(lab: Lab, mode: string, ...rest: string[]): Promise<Running> {
  return lab.start(lab.build('hazards.c', ['-ldl']), [mode, ...rest]);
}

async function worksOn(t: Test, target: Running, when: string): Promise<void> {
  t.ok(await target.advances(), `${when}: works on`);
  t.notMatch(target.text, /WRONG/, `${when}: no wrong result`);
}

/** Attaches, lets the target work, detaches, and compares the code. */
async function roundTrip(t: Test, lab: Lab, target: Running, files: string[]): Promise<void> {
  t.ok(await target.says(/round/), 'the target works');
  const before = codeHash(target.pid);
  for (const file of files) {
    t.same(await lab.attach(target.pid, lab.bpf('probe'), file), OK, `cp ${file}`);
  }
  await worksOn(t, target, 'probed');
  for (const file of files) t.same(await lab.detach(target.pid, file), OK, `rm ${file}`);
  await sameCode(t, target.pid, before, 'after rm');
  await worksOn(t, target, 'after rm');
}

await t.test(
  'probed functions that tail-call each other, deeper than the shadow stack looks',
  (t) =>
    Lab.run(t, async (lab) => {
      const target = await start(lab, 'tail');
      await roundTrip(t, lab, target, ['uretprobe/tail_f', 'uretprobe/tail_g']);
    }),
);

await t.test('a loop back to the first instruction keeps its red zone and flags', (t) =>
  Lab.run(t, async (lab) => {
    const target = await start(lab, 'loop');
    t.ok(await target.says(/round/));
    const before = codeHash(target.pid);
    t.same(await lab.attach(target.pid, lab.bpf('probe'), 'uretprobe/red_loop'), OK, 'its return');
    const [hook] = lab.hooks(target.pid).filter((one) => one['kind'] === 'uretprobe');
    t.match(lab.read(target.pid, `hooks/by-id/${hook?.['id']}/info`), /^exit_form +ret$/m);
    const passes = () => lab.hits(target.pid, 'uretprobe/red_loop');
    await worksOn(t, target, 'its return probed');
    t.ok(await eventually(() => passes() > 0), 'each call returns');
    t.ok(passes() < 100 * (target.round + 2), 'once');
    t.same(await lab.detach(target.pid, 'uretprobe/red_loop'), OK);
    await sameCode(t, target.pid, before, 'after rm');
    const entry = lab.bpf('entry');
    t.same(await lab.attach(target.pid, entry, 'uprobe/red_loop'), OK, 'its entry is not');
    await worksOn(t, target, 'probed');
    t.ok(lab.hits(target.pid, 'uprobe/red_loop') >= 100, 'every pass is a hit');
  }),
);

await t.test('a signal handler that interrupted the very bytes that change', (t) =>
  Lab.run(t, async (lab) => {
    const target = await start(lab, 'signal');
    t.ok(await target.says(/in handler/), 'it sits in its handler');
    t.same(await lab.attach(target.pid, lab.bpf('probe'), 'uprobe/fault_inside'), OK);
    target.child.kill('SIGUSR1');
    await worksOn(t, target, 'after the handler returned');
  }),
);

await t.test('a seccomp filter that came after us', (t) =>
  Lab.run(t, async (lab) => {
    const target = await start(lab, 'sandbox');
    t.ok(await target.says(/round/));
    t.same(await lab.attach(target.pid, lab.bpf('probe'), 'uprobe/work'), OK);
    target.child.kill('SIGUSR1');
    t.ok(await target.says(/sandboxed/));
    t.same(await lab.attach(target.pid, lab.bpf('probe'), 'uprobe/tail_f'), OK, 'one more');
    await worksOn(t, target, 'sandboxed and probed');
    t.same(await lab.detach(target.pid, 'uprobe/work'), OK);
    t.same(await lab.detach(target.pid, 'uprobe/tail_f'), OK);
    await worksOn(t, target, 'after rm');
  }),
);

await t.test('no descriptor left in the target: an errno, and nothing left in its memory', (t) =>
  Lab.run(t, async (lab) => {
    const target = await start(lab, 'full');
    t.ok(await target.says(/round/));
    const mappings = () => readFileSync(`/proc/${target.pid}/maps`, 'utf8').split('\n').length;
    const before = mappings();
    for (let i = 0; i < 5; i++) {
      t.equal((await lab.attach(target.pid, lab.bpf('probe'), 'uprobe/work')).code, 1);
    }
    t.match(lab.read(target.pid, 'last_error'), /ENOSPC work: .*EMFILE/);
    t.equal(mappings(), before, 'no mapping of ours is left');
    await worksOn(t, target, 'afterwards');
  }),
);

await t.test('a probed library that is unloaded', (t) =>
  Lab.run(t, async (lab) => {
    const library = lab.build('library.c', ['-shared', '-fPIC']);
    const target = await start(lab, 'unload', library);
    t.ok(await target.says(/round/));
    t.same(await lab.attach(target.pid, lab.bpf('probe'), 'uprobe/qfun'), OK);
    await worksOn(t, target, 'probed');
    target.child.kill('SIGUSR1');
    t.ok(await target.says(/unloaded/));
    t.same(await lab.detach(target.pid, 'uprobe/qfun'), OK, 'rm forgets what is gone');
    t.same(lab.hooks(target.pid), []);
    const left = () => /^entered 0$/m.test(lab.read(target.pid, 'info'));
    t.ok(await eventually(left), 'and we leave the process');
    await worksOn(t, target, 'unloaded');
  }),
);

await t.test('the first thread ends while the process lives on', (t) =>
  Lab.run(t, async (lab) => {
    const target = await start(lab, 'leader');
    t.ok(await target.says(/round/));
    t.same(await lab.attach(target.pid, lab.bpf('probe'), 'uprobe/work'), OK);
    target.child.kill('SIGUSR1');
    const isZombie = () => /^State:\s+Z/m.test(readFileSync(`/proc/${target.pid}/status`, 'utf8'));
    t.ok(await eventually(isZombie), 'the leader is a zombie');
    const hits = lab.hits(target.pid, 'uprobe/work');
    t.ok(await eventually(() => lab.hits(target.pid, 'uprobe/work') > hits), 'hits go on');
    t.same(await lab.detach(target.pid, 'uprobe/work'), OK, 'rm still restores it');
    await worksOn(t, target, 'after rm');
    // /proc shows its memory under the other threads' numbers only.
    const [other] = readdirSync(`/proc/${target.pid}/task`).filter((id) => id !== `${target.pid}`);
    const before = codeHash(Number(other));
    for (const object of [lab.bpf('probe'), lab.bpf('reader')]) {
      t.same(await lab.attach(target.pid, object, 'uprobe/work'), OK, 'it can be attached anew');
      t.ok(await eventually(() => lab.hits(target.pid, 'uprobe/work') > 0), 'and is hit');
      t.match(lab.read(target.pid, 'info'), /^comm hazards$/m);
      t.same(await lab.detach(target.pid, 'uprobe/work'), OK);
    }
    t.equal(
      await codeHashBecomes(Number(other), before),
      before,
      'every byte of code is as before',
    );
    await worksOn(t, target, 'after all');
  }),
);

await t.test('a signal during our stop still ends an epoll_wait', (t) =>
  Lab.run(t, async (lab) => {
    const target = await start(lab, 'epoll');
    t.ok(await target.says(/waiting/));
    const object = lab.bpf('probe');
    // Many stops, and one signal somewhere among them.
    const loop = lab.sh(
      `for i in $(seq 30); do cp ${object} ${lab.proc(target.pid, 'uprobe/work')}; rm ${lab.proc(target.pid, 'uprobe/work')}; done`,
    );
    target.child.kill('SIGUSR1');
    t.ok(await target.says(/left the loop/), 'the handler was seen');
    t.equal((await loop).code, 0);
    await worksOn(t, target, 'afterwards');
  }),
);
