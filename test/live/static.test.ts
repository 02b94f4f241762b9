// Programs without names or without a movable address: stripped, not position-independent, static;
// functions named by their address.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const fine = { code: 0, out: '', err: '' };

/** Attaches at `place`, waits until it is hit, detaches: the same code as before. */
async function probe(t: Test, lab: Lab, pid: number, place: string): Promise<void> {
  const before = codeHash(pid);
  t.same(await lab.attach(pid, lab.bpf('probe'), `uprobe/${place}`), fine, `on ${place}`);
  const seen = () => lab.hooks(pid).length === 2 && lab.hooks(pid).every((h) => h['hits'] !== '0');
  t.ok(await eventually(seen), `${place}: entries and returns are seen`);
  t.same(await lab.detach(pid, `uprobe/${place}`), fine, `off ${place}`);
  await sameCode(t, pid, before, place);
}

/** Address of a function in the file; where it is not position-independent, also in memory. */
function addressOf(program: string, name: string): string {
  const lines = execFileSync('nm', [program], { encoding: 'utf8' }).split('\n');
  const line = lines.find((one) => one.endsWith(` ${name}`)) ?? '';
  return `0x${BigInt(`0x${line.split(' ')[0]}`).toString(16)}`;
}

const MAKES = [
  { name: 'not-pie', flags: ['-no-pie'] },
  { name: 'static', flags: ['-static'] },
  { name: 'static-pie', flags: ['-static-pie'] },
];

for (const { name, flags } of MAKES) {
  await t.test(`by name and by address: ${flags[0]}`, async (t) => {
    await Lab.run(t, async (lab) => {
      const program = lab.build('lives.c', flags, { name });
      const target = lab.start(program);
      t.ok(await target.says(/round/));
      await probe(t, lab, target.pid, 'work');
      if (name !== 'static-pie') await probe(t, lab, target.pid, addressOf(program, 'work'));
      t.ok(await target.advances(), 'works on');
    });
  });
}

await t.test('stripped: a name is refused, nothing is changed', async (t) => {
  await Lab.run(t, async (lab) => {
    const program = lab.build('lives.c', ['-static'], { name: 'stripped' });
    const address = addressOf(program, 'work');
    execFileSync('strip', [program]);
    const target = lab.start(program);
    t.ok(await target.says(/round/));
    const before = codeHash(target.pid);
    for (const [place, errno] of [
      ['work', 'ENOENT'],
      ['stripped:work', 'ENOENT'],
      [address, 'EOPNOTSUPP'],
      ['0x10', 'ENOENT'],
    ] as const) {
      const put = await lab.attach(target.pid, lab.bpf('probe'), `uprobe/${place}`);
      t.not(put.code, 0, `${place}: cp fails`);
      const said = readFileSync(lab.proc(target.pid, 'last_error'), 'utf8');
      t.match(said, new RegExp(`${errno} ${place}: `), `${place}: says why`);
    }
    t.same(lab.hooks(target.pid), [], 'nothing is attached');
    t.same(
      readdirSync(lab.proc(target.pid, 'uprobe')).filter((n) => n !== 'README'),
      [],
    );
    await sameCode(t, target.pid, before, 'after all');
    t.ok(await target.advances(), 'works on');
  });
});
