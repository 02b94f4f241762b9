// Threads that wait in the kernel while the process is stopped for an attach notice nothing: no
// EINTR, no early return, no lost time-out.
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(300_000);

const WAIT_MS = 2500;
const PATIENCE_MS = 60_000;
/** A stop may cost a waiting call this much; a busy machine schedules late. */
const SLACK_MS = 1200;
/** Nobody but the kernel knows how long these have waited already: they begin anew after a stop. */
const BEGIN_ANEW = [
  'epoll_wait',
  'epoll_pwait',
  'epoll_pwait2',
  'sigtimedwait',
  'semtimedop',
  'io_getevents',
  'recv_timeout',
];

/** C libraries differ in the calls that they make, and in what they do about EINTR. */
const KERNEL_HEADERS = ['/usr/include', '/usr/include/x86_64-linux-gnu'];
const inC = (compiler: string, flags: string[]): Make => ({
  build: (lab) => lab.build('sleepers.c', flags, { compiler }),
  work: 'work',
  calls: 24,
});

/** A program of sleepers: the function that is probed meanwhile, and how many calls it waits in. */
interface Make {
  build(lab: Lab): string;
  work: string;
  calls: number;
}

const MAKES: Record<string, Make> = {
  glibc: inC('gcc', []),
  'glibc, static': inC('gcc', ['-static']),
  'musl, static': inC('musl-gcc', ['-static', ...KERNEL_HEADERS.map((dir) => `-idirafter${dir}`)]),
  Go: { build: (lab) => lab.build('sleepers.go'), work: 'main.work', calls: 20 },
};

for (const [name, make] of Object.entries(MAKES)) {
  await t.test(`no system call is interrupted: ${name}`, (t) => oneMake(t, make));
}

async function oneMake(t: Test, make: Make): Promise<void> {
  await Lab.run(t, async (lab) => {
    const target = lab.start(make.build(lab));
    const { pid } = target;
    t.ok(await target.says(/asleep/));
    const before = codeHash(pid);
    let cycles = 0;
    const end = Date.now() + WAIT_MS - 700;
    while (Date.now() < end) {
      const put = await lab.attach(pid, lab.bpf('probe'), `uprobe/${make.work}`);
      const gone = await lab.detach(pid, `uprobe/${make.work}`);
      if (put.code !== 0 || gone.code !== 0) t.fail(put.err + gone.err);
      cycles++;
    }
    t.ok(cycles >= 1, `attached and detached ${cycles} times while they slept`);
    t.ok(await target.says(/all awake/), 'all came back');
    const lines = target.text.split('\n').filter((line) => / (ok|BROKEN) /.test(line));
    t.equal(lines.length, make.calls);
    for (const line of lines) {
      const [, name, state, tookMs] = /^(\S+) (ok|BROKEN .*)\s(\d+)$/.exec(line) ?? [];
      t.equal(state, 'ok', `${name}: result`);
      const took = Number(tookMs);
      const atMost = (BEGIN_ANEW.includes(name ?? '') ? 2 : 1) * WAIT_MS + SLACK_MS;
      t.ok(took >= WAIT_MS - 50 && took < atMost, `${name}: ${took} ms`);
    }
    await sameCode(t, pid, before, 'after all');
    t.ok(await eventually(() => target.alive));
  });
}

// A stop lets some waits begin anew. Who waits for a thread to leave must not look again and again.
await t.test('a detach that waits for one thread lets the others sleep', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('lingers.c'));
    const { pid } = target;
    t.ok(await target.says(/outside/, PATIENCE_MS));
    const before = codeHash(pid);
    t.equal((await lab.attach(pid, lab.bpf('probe'), 'uretprobe/linger')).code, 0, 'attached');
    const hook = lab.hooks(pid).find((one) => one['kind'] === 'uretprobe');
    const info = lab.read(pid, `hooks/by-id/${hook?.['id']}/info`);
    t.match(info, /^exit_form +balanced$/m, 'it must return to us');
    const outside = target.text.length;
    const since = () => target.text.slice(outside);
    t.ok(await eventually(() => since().includes('inside'), PATIENCE_MS), 'it lingers');
    t.equal((await lab.detach(pid, 'uretprobe/linger')).code, 0, 'detached');
    const lingering = target.text.length;
    const woke = () => [...target.text.slice(lingering).matchAll(/woke (\d+)/g)].length;
    t.ok(await eventually(() => target.text.slice(lingering).includes('outside'), PATIENCE_MS));
    t.ok(woke() >= 2, `epoll_wait came back ${woke()} times meanwhile`);
    await sameCode(t, pid, before, 'when it has returned');
    t.ok(target.alive);
  });
});
