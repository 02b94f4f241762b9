// Whatever is wrong with an object, a name or a process: an errno, a sentence, and nothing changed.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode, targetSource } from '../helpers/lab.js';

t.setTimeout(120_000);

/** What `cp` prints for an errno. */
const ERRNO_TEXT: Record<string, RegExp> = {
  EACCES: /Permission denied/,
  EBUSY: /Device or resource busy/,
  EFBIG: /File too large/,
  EINVAL: /Invalid argument/,
  ENOENT: /No such file or directory/,
  ENOEXEC: /Exec format error/,
  ENOTUNIQ: /Name not unique/,
  EOPNOTSUPP: /Operation not supported/,
  EPERM: /Operation not permitted/,
  ESRCH: /No such process/,
};

interface Refusal {
  what: string;
  /** Path of the object. */
  object: (lab: Lab) => string;
  where?: string;
  errno: string;
  sentence: RegExp;
}

const file = (lab: Lab, name: string, bytes: Buffer | string): string => {
  const path = join(lab.scratch, name);
  writeFileSync(path, bytes);
  return path;
};

const good = (lab: Lab) => lab.bpf('probe');

const compile = (lab: Lab, name: string, command: string, flags: string[], source: string) => {
  const path = join(lab.scratch, name);
  execFileSync(command, [...flags, '-c', targetSource(source), '-o', path]);
  return path;
};

const BPF_INCLUDE = '-I/usr/include/x86_64-linux-gnu';

const REFUSALS: Refusal[] = [
  {
    what: 'text',
    object: (lab) => file(lab, 'text.o', 'int main(void) { return 0; }\n'),
    errno: 'ENOEXEC',
    sentence: /not an ELF file/,
  },
  {
    what: 'an x86-64 object',
    object: (lab) => compile(lab, 'x86.o', 'gcc', [], 'twin.c'),
    errno: 'ENOEXEC',
    sentence: /x86-64 object/,
  },
  {
    what: 'a big-endian object',
    object: (lab) =>
      compile(
        lab,
        'be.o',
        'clang',
        ['-O2', '-target', 'bpfeb', '-D__TARGET_ARCH_x86', BPF_INCLUDE],
        'bpf/probe.bpf.c',
      ),
    errno: 'ENOEXEC',
    sentence: /big-endian/,
  },
  {
    what: 'half of an object',
    object: (lab) => {
      const bytes = readFileSync(good(lab));
      return file(lab, 'half.o', bytes.subarray(0, bytes.length / 2));
    },
    errno: 'ENOEXEC',
    sentence: /truncated/,
  },
  {
    what: 'a header and nothing else',
    object: (lab) => file(lab, 'header.o', readFileSync(good(lab)).subarray(0, 40)),
    errno: 'ENOEXEC',
    sentence: /truncated/,
  },
  {
    what: 'an object without a program',
    object: (lab) => lab.bpf('empty'),
    errno: 'ENOEXEC',
    sentence: /no program/,
  },
  {
    what: 'a helper that does not exist',
    object: (lab) => lab.bpf('broken'),
    errno: 'ENOEXEC',
    sentence: /program broken, insn 1: no helper has this id/,
  },
  {
    what: 'a lookup without a null check',
    object: (lab) => lab.bpf('unsafe'),
    errno: 'ENOEXEC',
    sentence:
      /program no_null_check, insn \d+: .* may be null \(test it first: .*\), at unsafe\.bpf\.c:\d+ `/,
  },
  {
    what: 'an object over the limit',
    object: (lab) => {
      const path = file(lab, 'huge.o', readFileSync(good(lab)));
      truncateSync(path, 17 * 1024 * 1024);
      return path;
    },
    errno: 'EFBIG',
    sentence: /over the limit of 16777216 bytes/,
  },
  {
    what: 'a missing symbol',
    object: good,
    where: 'uprobe/wrok',
    errno: 'ENOENT',
    sentence: /wrok: no such function in .*did you mean work/,
  },
  {
    what: 'a missing module',
    object: good,
    where: 'uprobe/nothing:work',
    errno: 'ENOENT',
    sentence: /no module nothing/,
  },
  {
    what: 'an ambiguous symbol',
    object: good,
    where: 'uprobe/twin',
    errno: 'ENOTUNIQ',
    sentence: /2 candidates: shapes:twin@0x[0-9a-f]+ shapes:twin@0x[0-9a-f]+/,
  },
  {
    what: 'a function too short for a jump',
    object: good,
    where: 'uprobe/tiny',
    errno: 'EOPNOTSUPP',
    sentence: /tiny: /,
  },
  {
    what: 'an ifunc that nobody has called',
    object: good,
    where: 'uprobe/libc.so.6:time',
    errno: 'EOPNOTSUPP',
    sentence: /ifunc .*has not been chosen yet/,
  },
  {
    what: 'an offset inside of an instruction',
    object: (lab) => lab.bpf('full'),
    where: 'uprobe/steps+0x5',
    errno: 'EINVAL',
    sentence: /steps\+0x5: /,
  },
  {
    what: 'an offset behind the function',
    object: (lab) => lab.bpf('full'),
    where: 'uprobe/steps+0x400',
    errno: 'EINVAL',
    sentence: /outside of steps/,
  },
  {
    what: 'a return probe in the middle of a function',
    object: good,
    where: 'uprobe/steps+0x4',
    errno: 'EINVAL',
    sentence: /whole function/,
  },
  {
    what: 'an address that is nowhere',
    object: good,
    where: 'uprobe/0x10',
    errno: 'ENOENT',
    sentence: /no executable code/,
  },
  {
    what: 'sections that name no function',
    object: good,
    where: 'hooks/probe.o',
    errno: 'EINVAL',
    sentence: /names no function/,
  },
];

async function refused(t: Test, lab: Lab, pid: number, refusal: Refusal): Promise<void> {
  const { what, errno, sentence } = refusal;
  const put = await lab.attach(pid, refusal.object(lab), refusal.where ?? 'uprobe/work');
  t.equal(put.code, 1, `${what}: cp fails`);
  t.match(put.err, ERRNO_TEXT[errno]!, `${what}: ${errno}`);
  const last = lab.read(pid, 'last_error');
  t.match(last, new RegExp(` ${errno} `), `${what}: last_error names ${errno}`);
  t.match(last, sentence, `${what}: last_error says why`);
}

async function shapes(lab: Lab): Promise<Running> {
  const program = lab.build('shapes.c', ['-fno-lto', targetSource('twin.c')]);
  const target = lab.start(program);
  await target.says(/round/);
  return target;
}

await t.test('objects and names', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await shapes(lab);
    const before = codeHash(target.pid);
    for (const refusal of REFUSALS) await refused(t, lab, target.pid, refusal);
    t.same(lab.hooks(target.pid), [], 'nothing is attached');
    await sameCode(t, target.pid, before, 'after all refusals');
    const told = lab.read(target.pid, 'error_log');
    t.match(
      told,
      /no_null_check.*\n(?: {2}.*\n)* {2}\d+: if .*taken\) at unsafe\.bpf\.c/,
      'the path',
    );
    t.match(told, / {2}with r0 = .* or null/, 'and what the registers held');

    const empty = await lab.attach(target.pid, '/dev/null', 'uprobe/work');
    t.equal(empty.code, 0, 'a file without bytes attaches nothing and is no error');
    t.same(lab.hooks(target.pid), []);

    t.equal((await lab.attach(target.pid, good(lab), 'uprobe/work')).code, 0);
    t.equal(lab.read(target.pid, 'last_error'), 'ok\n', 'a success settles last_error');
    await refused(t, lab, target.pid, REFUSALS[3]!);
    t.equal(lab.hooks(target.pid).length, 2, 'a bad object leaves the former one armed');
    const hits = lab.hits(target.pid, 'uprobe/work');
    t.ok(await eventually(() => lab.hits(target.pid, 'uprobe/work') > hits), 'and running');
    t.equal((await lab.detach(target.pid, 'uprobe/work')).code, 0);
    await sameCode(t, target.pid, before, 'after rm');
    t.ok(await target.advances(), 'the target works on');
  });
});

await t.test('processes', async (t) => {
  await Lab.run(
    t,
    async (lab) => {
      const object = good(lab);
      const target = await shapes(lab);
      const { pid } = target;
      const before = codeHash(pid);

      const gone = lab.start('true');
      await eventually(() => !gone.alive);
      const dead = await lab.attach(gone.pid, object, 'uprobe/work');
      t.equal(dead.code, 1, 'a dead pid: cp fails');
      t.match(dead.err, /No such (file|process)/);

      const init = await lab.attach(1, object, 'uprobe/main');
      t.match(init.err, ERRNO_TEXT['EPERM']!, 'pid 1: EPERM');
      t.match(lab.read(1, 'last_error'), /EPERM .*init process/);

      const own = lab.mount.daemon.pid!;
      const daemon = await lab.attach(own, object, 'uprobe/main');
      t.match(daemon.err, ERRNO_TEXT['EPERM']!, 'the daemon itself: EPERM');
      t.match(lab.read(own, 'last_error'), /EPERM .*this daemon/);

      const thread = kernelThread();
      if (thread === undefined) {
        t.comment('no kernel thread is visible here');
      } else {
        const kernel = await lab.attach(thread, object, 'uprobe/main');
        t.match(kernel.err, ERRNO_TEXT['EOPNOTSUPP']!, 'a kernel thread: EOPNOTSUPP');
        t.match(lab.read(thread, 'last_error'), /EOPNOTSUPP .*kernel thread/);
      }

      const gdb = lab.start('gdb', ['-q', '-nx', '-p', String(pid)]);
      const tracer = () => /^TracerPid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
      t.ok(await eventually(() => tracer()?.[1] === String(gdb.pid)), 'gdb holds the target');
      const traced = await lab.attach(pid, object, 'uprobe/work');
      t.match(traced.err, ERRNO_TEXT['EBUSY']!, 'a process under gdb: EBUSY');
      t.match(lab.read(pid, 'last_error'), new RegExp(`EBUSY .*process ${gdb.pid} traces it`));
      gdb.child.stdin!.write('detach\nquit\n');
      t.ok(await eventually(() => !gdb.alive), 'gdb lets go');
      await sameCode(t, pid, before, 'after gdb');

      const nobody = { uid: 65534 };
      const listed = await lab.sh('ls $M/procs', nobody);
      t.equal(listed.code, 0, 'nobody may look');
      t.notOk(listed.out.split('\n').includes(String(pid)), 'but does not see our process');
      const copy = await lab.sh(`cp ${object} $M/procs/${pid}/uprobe/work`, nobody);
      t.equal(copy.code, 1, "another user's process: cp fails");
      t.match(copy.err, /Permission denied|No such file/);
      await sameCode(t, pid, before, "after another user's try");
      t.ok(await target.advances(), 'the target works on');
    },
    { allowOther: true },
  );
});

/** Any thread of the kernel: PF_KTHREAD in field 9 of stat. */
function kernelThread(): number | undefined {
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1');
      const flags = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[6]);
      if ((flags & 0x00200000) !== 0) return Number(name);
    } catch {
      // It ended meanwhile.
    }
  }
  return undefined;
}

await t.test('a full map', async (t) => {
  await Lab.run(t, async (lab) => {
    const { pid } = await shapes(lab);
    t.equal((await lab.attach(pid, lab.bpf('full'), 'uprobe/work')).code, 0);
    t.ok(await eventually(() => lab.hits(pid, 'uprobe/work') > 3));
    t.equal(lab.read(pid, 'maps/small/entries').trim().split('\n').length, 2, 'two entries');
    t.match(lab.read(pid, 'maps/work.bss/entries'), /"?refusal"?: ?-7\b/, 'the program saw -E2BIG');
    const entries = lab.proc(pid, 'maps/small/entries');
    const write = await lab.sh(`echo '900: 1' >> ${entries}`);
    t.match(write.err, /Argument list too long/, 'echo sees E2BIG');
    t.match(lab.read(pid, 'last_error'), / E2BIG /);
    const key = lab.read(pid, 'maps/small/entries').split(':')[0]!;
    t.equal((await lab.sh(`echo '-${key}' >> ${entries}`)).code, 0, 'a line frees a place');
  });
});

await t.test('a hundred copies at once onto one name', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await shapes(lab);
    const before = codeHash(target.pid);
    const to = lab.proc(target.pid, 'uprobe/work');
    // A file for each: what shells write at the same time into one pipe is mixed up.
    const copy = `(cp ${good(lab)} ${to} 2> $T/err.$i; echo $? > $T/rc.$i)`;
    await lab.sh(`for i in $(seq 100); do ${copy} & done; wait`);
    const results = (kind: string) =>
      Array.from({ length: 100 }, (_, i) =>
        readFileSync(join(lab.scratch, `${kind}.${i + 1}`), 'utf8'),
      );
    const wins = results('rc').filter((code) => code === '0\n').length;
    const failures = results('err').filter((text) => text !== '');
    t.equal(wins + failures.length, 100, 'who does not win is told why');
    t.comment(`${wins} of 100 attached`, failures.slice(0, 3));
    t.ok(wins >= 1, 'somebody won');
    for (const line of failures)
      t.match(line, /File exists|No such file|Device or resource busy/, 'sane');
    const files = lab.hooks(target.pid).map((hook) => `${hook['kind']} ${hook['file']}`);
    t.same(files, ['uprobe uprobe/work', 'uretprobe uprobe/work'], 'exactly one is attached');
    const hits = lab.hits(target.pid, 'uprobe/work');
    t.ok(await eventually(() => lab.hits(target.pid, 'uprobe/work') > hits), 'and runs');
    t.equal((await lab.detach(target.pid, 'uprobe/work')).code, 0);
    await sameCode(t, target.pid, before, 'after rm');
    t.ok(await target.advances(), 'the target works on');
  });
});
