// Wherever a process lives and whatever it was written in: other namespaces, another root, another
// user, hundreds of threads, python, java, node. Attached to, seen, detached, code as before.
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { type CodeRange, codeHash, codeHashBecomes } from '../helpers/code-hash.js';
import { eventually, Lab, type Running } from '../helpers/lab.js';

const OK = { code: 0, out: '', err: '' };
const NOBODY = 65534;
const THREADS = 512;

t.setTimeout(180_000);

/** Code of files: what a JIT compiler makes changes by itself. */
const ofFiles = (range: CodeRange) => range.path.startsWith('/');

const childrenOf = (pid: number): number[] => {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
    return text.trim().split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
};

/** The descendant of a process that runs the program of this name. */
function descendant(pid: number, comm: string): number | undefined {
  try {
    if (readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === comm) return pid;
  } catch {
    return undefined;
  }
  for (const child of childrenOf(pid)) {
    const found = descendant(child, comm);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** Attaches at entry and return, waits for hits and progress, detaches, compares the code. */
async function roundTrip(
  t: Test,
  lab: Lab,
  {
    target,
    pid,
    fn,
    object = 'probe',
  }: {
    target: Running;
    pid: number;
    fn: string;
    object?: string;
  },
): Promise<void> {
  const before = codeHash(pid, ofFiles);
  const where = `uprobe/${fn}`;
  const put = await lab.attach(pid, lab.bpf(object), where);
  t.same(put, OK, `cp ${where}${put.code === 0 ? '' : `: ${lab.read(pid, 'last_error')}`}`);
  t.ok(await eventually(() => lab.hits(pid, where) > 0), 'calls are seen');
  t.ok(await target.advances(), 'it works on');
  t.same(await lab.detach(pid, where), OK, `rm ${where}`);
  t.equal(await codeHashBecomes(pid, before, ofFiles), before, 'every byte of code is as before');
  t.ok(await target.advances(), 'and on');
}

const NAMESPACES: readonly (readonly [string, string[]])[] = [
  ['mount and pid', ['--mount', '--pid', '--fork', '--mount-proc']],
  ['user', ['--user', '--map-root-user', '--fork']],
  ['network, host name and ipc', ['--net', '--uts', '--ipc', '--fork']],
  ['all at once', ['--mount', '--pid', '--fork', '--mount-proc', '--user', '--map-root-user']],
];

for (const [name, flags] of NAMESPACES) {
  await t.test(`another namespace: ${name}`, async (t) => {
    await Lab.run(t, async (lab) => {
      const program = lab.build('lives.c');
      const target = lab.start('unshare', [...flags, program]);
      t.ok(await target.says(/round/), 'it works');
      const pid = (await eventually(() => descendant(target.pid, 'lives'))) ?? 0;
      lab.watch(pid);
      await roundTrip(t, lab, { target, pid, fn: 'work' });
    });
  });
}

await t.test('another root', async (t) => {
  await Lab.run(t, async (lab) => {
    const root = join(lab.scratch, 'root');
    mkdirSync(root);
    copyFileSync(lab.build('lives.c', ['-static']), join(root, 'lives'));
    const target = lab.start('chroot', [root, '/lives']);
    t.ok(await target.says(/round/), 'it works');
    await roundTrip(t, lab, { target, pid: target.pid, fn: 'work' });
  });
});

await t.test("another user's process", async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('lives.c'), [], { uid: NOBODY, cwd: '/' });
    t.ok(await target.says(/round/), 'it works');
    await roundTrip(t, lab, { target, pid: target.pid, fn: 'work' });
  });
});

await t.test(`${THREADS} threads`, async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('churner.c'), ['4', '100000']);
    t.ok(await target.says(/round/), 'threads come and go');
    await roundTrip(t, lab, { target, pid: target.pid, fn: 'work' });
    const crowd = lab.start(lab.build('caller.c'), [String(THREADS)]);
    t.ok(await crowd.says(/round/), 'a crowd works');
    crowd.child.stdin?.write('go\n');
    await roundTrip(t, lab, { target: crowd, pid: crowd.pid, fn: 'work' });
  });
});

await t.test('threads that the kernel made: of io_uring', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('io_uring.c'));
    t.ok(await target.says(/round [1-9]/), 'poller and worker answer');
    for (let i = 0; i < 3; i++) await roundTrip(t, lab, { target, pid: target.pid, fn: 'work' });
    t.notMatch(target.text, /WRONG/, 'they answer on');
  });
});

/** The mappings of a process, also of one whose first thread has ended. */
function mapsOf(pid: number): string {
  const texts = readdirSync(`/proc/${pid}/task`).map((tid) => {
    try {
      return readFileSync(`/proc/${pid}/task/${tid}/maps`, 'latin1');
    } catch {
      return '';
    }
  });
  return texts.join('');
}

await t.test('a poller is the first that is left of the threads', async (t) => {
  await Lab.run(t, async (lab) => {
    // It never runs what it is given to run.
    const target = lab.start(lab.build('io_uring.c'), ['leaves']);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'poller and worker answer');
    t.same(await lab.attach(pid, lab.bpf('reader'), 'uprobe/work'), OK, 'cp');
    target.child.kill('SIGUSR1');
    const isZombie = () => /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    t.ok(await eventually(isZombie), 'the first thread has ended');
    const hits = lab.hits(pid, 'uprobe/work');
    t.ok(await eventually(() => lab.hits(pid, 'uprobe/work') > hits), 'calls are seen');
    t.same(await lab.detach(pid, 'uprobe/work'), OK, 'rm');
    t.ok(
      await eventually(() => !mapsOf(pid).includes('memfd:bpftime')),
      'nothing of ours is left in it',
    );
    t.ok(await target.advances(), 'it works on');
    t.notMatch(target.text, /WRONG/, 'they answer on');
  });
});

await t.test('python', async (t) => {
  await Lab.run(t, async (lab) => {
    const script = join(lab.scratch, 'work.py');
    writeFileSync(
      script,
      `n = 0
while True:
    n += 1
    if sum([len(str(i)) for i in range(2000)]) != 6890: print('WRONG', flush=True)
    print('round', n, flush=True)
`,
    );
    const target = lab.start('/usr/bin/python3', [script]);
    t.ok(await target.says(/round/), 'it works');
    const { pid } = target;
    for (const fn of ['PyObject_Str', 'PyList_New', 'PyLong_FromLong']) {
      await roundTrip(t, lab, { target, pid, fn });
    }
    t.notMatch(target.text, /WRONG/);
  });
});

await t.test('java, whose safepoints and null checks are faults', async (t) => {
  if (!existsSync('/usr/bin/java')) {
    if (process.env['CI']) t.fail('needs java (openjdk-17-jdk-headless)');
    else t.pass('SKIP needs java (openjdk-17-jdk-headless)');
    return;
  }
  await Lab.run(t, async (lab) => {
    const source = join(lab.scratch, 'Work.java');
    writeFileSync(
      source,
      `public class Work {
  static int nulls(Object o) { try { return o.hashCode() & 0; } catch (NullPointerException e) { return 1; } }
  public static void main(String[] args) throws Exception {
    for (int round = 1; ; round++) {
      int caught = 0;
      for (int i = 0; i < 20000; i++) caught += nulls(i % 2 == 0 ? null : args);
      if (caught != 10000) System.out.println("WRONG " + caught);
      System.gc();
      Thread.sleep(1);
      System.out.println("round " + round);
    }
  }
}
`,
    );
    const target = lab.start('/usr/bin/java', ['-Xmx64m', source]);
    t.ok(await target.says(/round [1-9]/, 60_000), 'it works');
    const { pid } = target;
    await roundTrip(t, lab, { target, pid, fn: 'libjvm:JVM_Sleep' });
    await roundTrip(t, lab, { target, pid, fn: 'libc:write', object: 'reader' });
    t.notMatch(target.text, /WRONG/, 'no null went by');
  });
});

await t.test('node', async (t) => {
  await Lab.run(t, async (lab) => {
    const script = `let n = 0; const { readFileSync } = require('node:fs');
      setInterval(() => { readFileSync('/proc/self/stat'); console.log('round ' + ++n); }, 1);`;
    const target = lab.start(process.execPath, ['-e', script]);
    t.ok(await target.says(/round/), 'it works');
    await roundTrip(t, lab, { target, pid: target.pid, fn: 'node:uv_fs_open' });
    await roundTrip(t, lab, { target, pid: target.pid, fn: 'libc:read', object: 'reader' });
  });
});
