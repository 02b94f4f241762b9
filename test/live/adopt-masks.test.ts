// A daemon that is killed while a process changes its signal masks in every way there is, and bad
// addresses are read behind each change: before masks are followed, while they begin to be, and
// long after. Reads stay right without a daemon, and the next one goes on where it was.
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { Dynasty } from '../helpers/dynasty.js';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(400_000);

const OK = { code: 0, out: '', err: '' };
const OBJECT = 'uprobe/touch';
const PATIENCE_MS = 90_000;
/** Milliseconds from each attach to the kill; the last comes once masks are followed. */
const KILLS = [0, 60, 150, 400, 'followed'] as const;

await t.test('killed in a storm of masks', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('masks.c'));
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/, PATIENCE_MS), 'the storm blows');
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    const reads = () => /^reads (.*)$/m.exec(line.read(pid, 'info'))?.[1]?.trim();
    const follows = () => eventually(() => reads() === 'followed', PATIENCE_MS);
    const livesOn = async () => {
      const until = target.round + 4;
      await eventually(() => target.round > until || !target.alive, PATIENCE_MS);
      return target.alive && target.round > until;
    };
    const outcome = (of: number, what: number) => {
      const lines = line.read(pid, 'maps/results/entries').trimEnd().split('\n');
      return Number(lines[of * 8 + what]?.split(': ')[1]);
    };
    for (const kill of KILLS) {
      t.same(await line.cp(lab.bpf('reader'), pid, OBJECT), OK, 'programs read memory');
      const hooks = line.hooks(pid).length;
      if (kill === 'followed') t.ok(await follows(), 'without a system call');
      else await sleep(kill);
      await line.kill();
      t.ok(await livesOn(), `killed ${kill}: the storm blows on`);
      t.ok(await line.next(), `killed ${kill}: the next one mounts`);
      t.equal(line.errors, '', `killed ${kill}: without a complaint`);
      t.equal(line.hooks(pid).length, hooks, `killed ${kill}: the hooks are there`);
      t.ok(await follows(), `killed ${kill}: reads need no system call again`);
      t.ok(await livesOn(), `killed ${kill}: and the storm blows on`);
    }
    for (const [of, who] of [
      [0, 'good'],
      [2, 'bad'],
    ] as const) {
      t.ok(outcome(of, of === 0 ? 0 : 1) > 0, `${who} addresses were read`);
      t.ok(outcome(of, of === 0 ? 4 : 5) > 0, `${who} addresses of text, too`);
      const wrong = [0, 1, 2, 3, 4, 5, 6, 7].filter((what) => what % 4 !== (of === 0 ? 0 : 1));
      t.same(
        wrong.filter((what) => outcome(of, what) > 0),
        [],
        `every read of a ${who} address was as it should be`,
      );
    }
    // A thread that does not get the processor in time does not stop in time.
    const off = async () => (await line.rm(pid, OBJECT)).code === 0;
    t.ok(await eventually(off, PATIENCE_MS), 'detached');
    await sameCode(t, pid, before, 'after rm');
    t.ok(await livesOn(), 'the storm blows on without us');
    t.notMatch(target.text, /WRONG/, 'every mask was as the program had set it');
    t.same(await line.end(), [], 'no mount is left');
  });
});
