// ifuncs by their public name: the probe goes to the implementation which the process has chosen,
// in dynamic and static programs, with and without symbols for it.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

const OK = { code: 0, out: '', err: '' };
const CALLS = 1000;
const FLAGS = ['-fno-builtin', '-Wl,-z,lazy'];

t.setTimeout(120_000);

/** Lets the target make one round of calls. */
async function round(target: Running, line = 'c'): Promise<boolean> {
  const from = target.round;
  target.child.stdin!.write(`${line}\n`);
  return await target.advances(from);
}

/** Attaches at entry and return, lets the target call, and counts. */
async function counted(t: Test, lab: Lab, target: Running, place: string, line = 'c') {
  const { pid } = target;
  const before = codeHash(pid);
  t.same(await lab.attach(pid, lab.bpf('probe'), `uprobe/${place}`), OK, `on ${place}`);
  t.ok(await round(target, line), `${place}: a round`);
  const hits = () => lab.hooks(pid).map((hook) => Number(hook['hits']));
  await eventually(() => hits().every((n) => n >= CALLS), 2000);
  t.same(hits(), [CALLS, CALLS], `${place}: every entry and every return`);
  const where = lab.hooks(pid)[0]?.['target'];
  t.same(await lab.detach(pid, `uprobe/${place}`), OK, `off ${place}`);
  await sameCode(t, pid, before, place);
  return where;
}

/** Asserts that a place is refused, with the sentence in last_error, and nothing changes. */
async function refused(t: Test, lab: Lab, pid: number, place: string, sentence: RegExp) {
  const before = codeHash(pid);
  const put = await lab.attach(pid, lab.bpf('probe'), `uprobe/${place}`);
  t.match(put.err, /not supported/, `${place}: EOPNOTSUPP`);
  t.match(lab.read(pid, 'last_error'), sentence, `${place}: says why`);
  t.same(lab.hooks(pid), [], `${place}: nothing is attached`);
  await sameCode(t, pid, before, `${place}, refused`);
}

for (const { name, flags } of [
  { name: 'dynamic', flags: [] },
  { name: 'bound-now', flags: ['-Wl,-z,now', '-no-pie'] },
  { name: 'static', flags: ['-static'] },
  { name: 'static-pie', flags: ['-static-pie'] },
]) {
  await t.test(`memcpy, strlen, memset: ${name}`, async (t) => {
    await Lab.run(t, async (lab) => {
      const target = lab.start(lab.build('ifuncs.c', [...FLAGS, ...flags], { name }));
      t.ok(await target.says(/round/), 'the target works');
      for (const place of ['memcpy', 'strlen', 'memset']) {
        const where = await counted(t, lab, target, place);
        t.match(lab.read(target.pid, `disasm/${place}`), /ret/, `${place}: disasm`);
        t.match(where, /:(__)?(memcpy|memmove|strlen|memset)\w*$/, `${place}: hooks/list`);
        t.comment(`${name} ${place}: ${where}`);
      }
      t.notMatch(target.text, /WRONG/, 'every call does its work');
      t.ok(await round(target), 'works on');
    });
  });
}

await t.test('what the process has not chosen, or the kernel has', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('ifuncs.c', FLAGS));
    t.ok(await target.says(/round/), 'the target works');
    const { pid } = target;
    await refused(t, lab, pid, 'time', /EOPNOTSUPP time: .*has not been chosen yet/);
    await refused(t, lab, pid, 'gettimeofday', /EOPNOTSUPP gettimeofday: .*in the vDSO/);
    t.ok(await round(target), 'works on');
  });
});

for (const stripped of [false, true]) {
  const kind = stripped ? 'stripped' : 'with symbols';
  await t.test(`an ifunc of a library, bound at its first call: ${kind}`, async (t) => {
    await Lab.run(t, async (lab) => {
      const library = lab.build('ifuncs.c', ['-DLIBRARY', '-shared', '-fPIC'], {
        name: 'libpicked.so',
      });
      if (stripped) execFileSync('strip', [library]);
      const target = lab.start(
        lab.build('ifuncs.c', ['-DWITH_LIBRARY', ...FLAGS, '-Wl,--no-as-needed', library], {
          name: 'picks',
        }),
        [],
        { env: { LD_BIND_NOW: undefined, LD_LIBRARY_PATH: join(library, '..') } },
      );
      t.ok(await target.says(/round/), 'the target works');
      await refused(t, lab, target.pid, 'picked', /has not been chosen yet/);
      t.ok(await round(target, 'p'), 'the first call');
      await counted(t, lab, target, 'picked', 'p');
      t.match(
        lab.read(target.pid, 'disasm/picked'),
        stripped ? /:picked\+0x0/ : /:picked_here\+0x0/,
        'the function that is called',
      );
      t.notMatch(target.text, /WRONG/, 'every call does its work');
    });
  });
}

await t.test('an ifunc of which two implementations are in use', async (t) => {
  await Lab.run(t, async (lab) => {
    const library = lab.build('ifuncs.c', ['-DLIBRARY', '-DFICKLE', '-shared', '-fPIC'], {
      name: 'libpicked.so',
    });
    const target = lab.start(
      lab.build('ifuncs.c', ['-DWITH_LIBRARY', ...FLAGS, '-Wl,--no-as-needed', library], {
        name: 'picks',
      }),
      [],
      { env: { LD_BIND_NOW: '1', LD_LIBRARY_PATH: join(library, '..') } },
    );
    t.ok(await target.says(/round/), 'the target works');
    const { pid } = target;
    const before = codeHash(pid);
    const put = await lab.attach(pid, lab.bpf('probe'), 'uprobe/picked');
    t.match(put.err, /not unique/i, 'ENOTUNIQ');
    const names = /ENOTUNIQ picked: an ifunc with 2 implementations in use: (.*)\n/;
    const list = names.exec(lab.read(pid, 'last_error'))?.[1]?.split(' ').sort();
    t.same(list, ['libpicked.so:picked_here', 'libpicked.so:picked_there'], 'with their names');
    await sameCode(t, pid, before, 'after the refusal');
    const hits: number[] = [];
    for (const place of list ?? []) {
      t.same(await lab.attach(pid, lab.bpf('entry'), `uprobe/${place}`), OK, place);
    }
    t.ok(await round(target, 'p'));
    for (const place of list ?? []) {
      hits.push(lab.hits(pid, `uprobe/${place}`));
      t.same(await lab.detach(pid, `uprobe/${place}`), OK);
    }
    t.same(hits.sort(), [0, CALLS], 'the program calls one of them');
    t.notMatch(target.text, /WRONG/);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('an ifunc of a library that comes later', async (t) => {
  await Lab.run(t, async (lab) => {
    const library = lab.build(
      'ifuncs.c',
      ['-DLIBRARY', '-Dpicked=plugin_work', '-shared', '-fPIC'],
      {
        name: 'libpicked.so',
      },
    );
    const target = lab.start(lab.build('loads.c', ['-ldl']));
    t.ok(await target.says(/ready/), 'the target works');
    const { pid } = target;
    const before = codeHash(pid);
    const file = 'uprobe/libpicked.so:plugin_work';
    const orders = async (line: string, answer: RegExp) => {
      target.child.stdin!.write(`${line}\n`);
      t.ok(await target.says(answer), line);
    };
    const state = () => lab.hooks(pid).map((hook) => hook['state']);
    t.same(await lab.attach(pid, lab.bpf('entry'), file), OK);
    t.same(state(), ['pending']);
    await orders(`open ${library}`, /opened/);
    // The loader tells us before it relocates: then nobody has chosen yet.
    t.ok(await eventually(() => state()[0] === 'attached'), 'attached when it has been chosen');
    t.match(lab.hooks(pid)[0]?.['target'], /^libpicked\.so:picked_here$/);
    await orders('call 7', /called 49/);
    t.equal(lab.hits(pid, file), 7, 'each call is seen');
    await orders('close', /closed 0/);
    t.same(state(), ['pending'], 'it waits again');
    t.same(await lab.detach(pid, file), OK);
    await sameCode(t, pid, before, 'after rm');
  });
});
