// Two minutes of the soak that `npm run soak` does for an hour.
import t from 'tap';
import { Lab } from '../helpers/lab.js';
import { soak } from '../helpers/soak.js';

const SECONDS = Number(process.env['BPFTIMEFS_SOAK_SECONDS'] ?? 120);
const SEED = Number(process.env['BPFTIMEFS_SOAK_SEED'] ?? Date.now() % 1_000_000);
/** What a process may grow between the first look and the last: caches, stacks, arenas. */
const GROWTH = 1.5;
const GROWTH_KIB = 32 * 1024;

t.setTimeout((SECONDS + 120) * 1000);

await t.test(`${SECONDS} seconds of random changes, seed ${SEED}`, async (t) => {
  await Lab.run(t, async (lab) => {
    const say = (line: string) => t.comment(line);
    const soaked = await soak(lab, { seconds: SECONDS, seed: SEED, say });
    t.same(soaked.troubles, [], 'all results were right, all loads went on');
    t.same([...soaked.errors], [], `no operation failed (${soaked.late} were late)`);
    t.ok(soaked.operations > SECONDS, `${soaked.operations} operations`);
    for (const [name, [first, last]] of soaked.memory) {
      t.ok(last < first * GROWTH + GROWTH_KIB, `${name}: ${first} KiB, then ${last} KiB`);
    }
    t.same(soaked.differing, [], 'every byte of code is as before');
  });
});
