// What a thread can see is as before: every register, the flags with the direction flag, x87,
// vectors, control words and the red zone, across entry, return (both forms) and a site in the
// middle, whatever the programs there do.
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
/** Rounds of 100 comparisons each that pass with a program in place. */
const ROUNDS = 20;

await t.test('registers, flags and red zone', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('preserve.c'));
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'without probes everything is kept');
    const middle = `keep_mid${/mid (\+0x[0-9a-f]+)/.exec(target.text)?.[1]}`;
    const before = codeHash(pid);
    const objects: [name: string, both: string, entry: string][] = [
      ['counting', lab.bpf('probe'), lab.bpf('entry')],
      ['heavy', lab.bpf('heavy'), lab.bpf('heavy', ['-DENTRY_ONLY'], 'heavy_entry')],
    ];
    for (const [name, both, entry] of objects) {
      const sites = { keep_ret: both, keep_tail: both, [middle]: entry };
      for (const [site, object] of Object.entries(sites)) {
        t.same(await lab.attach(pid, object, `uprobe/${site}`), OK, `${name} on ${site}`);
        t.ok(await target.advances(), `and keeps ${/WRONG.*/.exec(target.text)?.[0] ?? 'all'}`);
      }
      const forms = lab
        .hooks(pid)
        .filter((hook) => hook['kind'] === 'uretprobe')
        .map(
          (hook) => /exit_form (\w+)/.exec(lab.read(pid, `hooks/by-id/${hook['id']}/info`))?.[1],
        );
      t.same(forms, ['ret', 'balanced'], 'returns are caught both ways');
      const from = target.round;
      await eventually(() => target.round > from + ROUNDS || !target.alive);
      for (const hook of lab.hooks(pid)) {
        t.ok(Number(hook['hits']) > 100, `${hook['kind']} ${hook['target']}: ${hook['hits']} hits`);
      }
      t.notMatch(target.text, /WRONG/, `${name}: everything is kept`);
      t.ok(target.alive);
      for (const site of Object.keys(sites)) {
        t.same(await lab.detach(pid, `uprobe/${site}`), OK, `off ${site}`);
      }
      await sameCode(t, pid, before, `after ${name}`);
    }
  });
});
