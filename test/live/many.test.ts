// Thousands of hooks in one process: more than one arena has room and counters for. Every call is
// counted, also by the hooks that came last, and the next daemon finds all of them.
import { writeFileSync } from 'node:fs';
import t from 'tap';
import { Dynasty } from '../helpers/dynasty.js';
import { codeHash, Lab, type Running, sameCode } from '../helpers/lab.js';
import { aimed, functionsOf, template } from '../helpers/sweep.js';

t.setTimeout(240_000);

const OK = { code: 0, out: '', err: '' };
const FUNCTIONS = 5000;
const BATCH = 50;
/** On a function whose arena has no counters left by then. */
const STACKED = 24;

async function call(target: Running, times: number): Promise<boolean> {
  const from = target.text.length;
  target.child.stdin?.write(`${times}\n`);
  const said = new RegExp(`[^]{${from}}called ${times}\\n`);
  return (await target.says(said, 60_000)) !== undefined;
}

await t.test(`${FUNCTIONS} functions probed, and one of them ${STACKED} times more`, async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('crowd.c'));
    const { pid } = target;
    t.ok(await target.says(/ready/));
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    const functions = functionsOf(lab, pid, 'crowd').filter(({ name }) => /^f_\d{4}$/.test(name));
    t.equal(functions.length, FUNCTIONS);
    const object = template(lab, BATCH);
    for (let at = 0; at < FUNCTIONS; at += BATCH) {
      const file = line.file(pid, `hooks/many${at}.o`);
      writeFileSync(file, aimed(object, functions.slice(at, at + BATCH)));
    }
    for (let i = 0; i < STACKED; i++) {
      t.same(await line.cp(lab.bpf('entry'), pid, `uprobe/f_0000,${i}`), OK, `one more: ${i}`);
    }
    /** How often each hook was hit, without repetitions. */
    const hits = () => [...new Set(line.hooks(pid).map((row) => row[3]))];
    t.equal(line.hooks(pid).length, FUNCTIONS + STACKED, 'all are attached');
    t.ok(await call(target, 7), 'every function works');
    t.same(hits(), ['7'], 'each hook counted each call');
    await line.kill();
    t.ok(await call(target, 2), 'every function works without a daemon');
    t.ok(await line.next(), 'the next one mounts');
    t.equal(line.errors, '', 'without a complaint');
    t.equal(line.hooks(pid).length, FUNCTIONS + STACKED, 'all are there');
    t.ok(await call(target, 1), 'every function works');
    t.same(hits(), ['10'], 'and nothing was missed');
    const files = [...new Set(line.hooks(pid).map((row) => row.at(-1) ?? ''))];
    const names = files.map((file) => `'${line.file(pid, file)}'`);
    t.same(await lab.sh(`rm ${names.join(' ')}`), OK, 'rm all of them');
    await sameCode(t, pid, before, 'after rm');
    t.ok(await call(target, 3), 'every function works');
    t.same(await line.end(), [], 'no mount is left');
  });
});
