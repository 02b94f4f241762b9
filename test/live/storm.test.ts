// The patch storm: probes come and go two thousand times on functions that sixteen of sixty-four
// threads call without pause, and no result is ever wrong. And its negative control: the same
// functions, spinners and jumps, put there with nobody stopped, end the process.
import { readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { codeHash, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(900_000);

const THREADS = '64';
const SPINNERS = '16';
const CYCLES = 2_000;
const FUNCTIONS = 8;
/** Probes that are attached at any time: one comes when the oldest goes. */
const ATTACHED = 3;
const CONTROL_TRIES = 3;
/** A machine with much else to do ends early; the spinners alone keep both cores busy. */
const STORM_MS = 600_000;
const CYCLES_AT_LEAST = 2_000;

/** A change that met a machine too busy to stop sixteen spinners in time changed nothing. */
function insist(change: () => void): number {
  for (let late = 0; ; late++) {
    try {
      change();
      return late;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ETIMEDOUT' || late >= 3) throw error;
    }
  }
}

await t.test('2,000 cycles on functions that are always being called', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('storm.c'), [THREADS, SPINNERS]);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(pid);
    const object = readFileSync(lab.bpf('probe'));
    const file = (n: number) => lab.proc(pid, 'uprobe', `storm_${n % FUNCTIONS}`);
    const end = Date.now() + STORM_MS;
    let seen = 0;
    let late = 0;
    let cycles = 0;
    for (; cycles < CYCLES && Date.now() < end && target.alive; cycles++) {
      late += insist(() => writeFileSync(file(cycles), object));
      if (cycles < ATTACHED) continue;
      if (cycles % 32 === 0) seen += lab.hits(pid, `uprobe/storm_${(cycles - 1) % FUNCTIONS}`);
      late += insist(() => unlinkSync(file(cycles - ATTACHED)));
      if (cycles % 50 === 0) await sleep(1); // what the target says is read, and its end noticed
    }
    t.ok(target.alive, `it lives: ${target.text.slice(-100)}`);
    for (let left = cycles - ATTACHED; left < cycles; left++) {
      late += insist(() => unlinkSync(file(left)));
    }
    t.ok(cycles >= CYCLES_AT_LEAST, `${cycles} cycles, ${late} changes were late`);
    t.ok(seen > 0, 'probes were hit');
    await sameCode(t, pid, before, `after ${cycles} cycles`);
    t.ok(await target.advances(), 'it works on');
    t.notMatch(target.text, /WRONG/, 'no result was ever wrong');
  });
});

await t.test('without a stop the same changes end the process', async (t) => {
  await Lab.run(t, async (lab) => {
    const program = lab.build('storm.c');
    let text = '';
    for (let i = 0; i < CONTROL_TRIES && !/crashed|wrong/.test(text); i++) {
      text = (await lab.sh(`${program} naive ${SPINNERS}`)).out;
    }
    t.match(text, /crashed by signal|wrong results/, `the naive order: ${text.trim()}`);
  });
});
