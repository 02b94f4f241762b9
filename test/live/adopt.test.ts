// A daemon that is killed (SIGKILL): its targets work on, and the next daemon finds every hook, map
// and stream, and takes them out as if it had put them in.
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { Dynasty } from '../helpers/dynasty.js';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(180_000);

const OK = { code: 0, out: '', err: '' };
/** Of daemons, in the storm. */
const DEATHS = 20;
/** Of daemons that are killed while they take over. */
const ADOPTERS = 10;
async function caller(lab: Lab, threads: number): Promise<Running> {
  const target = lab.start(lab.build('caller.c'), [String(threads)]);
  await target.says(/round/);
  return target;
}

async function calls(target: Running): Promise<number> {
  target.child.stdin?.write('stop\n');
  return Number((await target.says(/calls (\d+)\n/, 30_000))?.[1]);
}

const entry = (text: string, name: string) =>
  Number(new RegExp(`\\b${name}\\W+(\\d+)`).exec(text)?.[1]);

await t.test('a process that may not be stopped stays so', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start('setarch', ['-R', lab.build('storm.c'), '4', '2']);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    const nostop = () => /^nostop +(\w+)$/m.exec(line.read(pid, 'info'))?.[1];
    t.same(await lab.sh(`echo nostop=on > ${line.file(pid, 'info')}`), OK);
    t.same(await line.cp(lab.bpf('probe'), pid, 'uprobe/storm_1'), OK);
    await line.kill();
    t.ok(await line.next(), 'the next one mounts');
    t.equal(line.errors, '', 'without a complaint');
    t.equal(nostop(), 'on', 'the setting is there');
    t.same(await lab.sh(`rm ${line.file(pid, 'uprobe/storm_1')}`), OK);
    t.match(line.read(pid, 'info'), /^pause_ns_total +0$/m, 'and was kept');
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'it works on');
    t.same(await line.end(), [], 'unmounted');
  });
});

await t.test('the next daemon goes on with hooks of every kind', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 2);
    const { pid } = target;
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    t.same(await line.cp(lab.bpf('tally'), pid, 'uprobe/work'), OK);
    t.same(await line.cp(lab.bpf('reader'), pid, 'uprobe/write,reads'), OK);
    t.same(await line.cp(lab.bpf('probe'), pid, 'uprobe/usleep'), OK, 'return probes');
    const listed = line.hooks(pid).map(([id, kind, , , , ...rest]) => [id, kind, ...rest]);
    // Signal masks are followed a moment after the first reader.
    await eventually(() => !/^reads +guarded$/m.test(line.read(pid, 'info')));
    const info = line.read(pid, 'info');
    target.child.stdin?.write('go\n');
    await eventually(() => entry(line.read(pid, 'maps/hashed/entries'), '7') > 100);
    await line.kill();
    t.ok(await target.advances(), 'the target works without a daemon');

    t.ok(await line.next(), 'the next one mounts');
    t.equal(line.errors, '', 'without a complaint');
    t.same(
      line.hooks(pid).map(([id, kind, , , , ...rest]) => [id, kind, ...rest]),
      listed,
      'the same hooks with the same ids',
    );
    t.ok(
      line.hooks(pid).some(([, , , hits]) => Number(hits) > 100),
      'with their hits',
    );
    for (const key of ['reads', 'hooks', 'sites']) {
      const of = (text: string) => new RegExp(`^${key} .*$`, 'm').exec(text)?.[0];
      const now = () => of(line.read(pid, 'info'));
      await eventually(() => now() === of(info));
      t.equal(now(), of(info), `info: ${key}`);
    }
    const same = await lab.sh(`cmp ${lab.bpf('tally')} ${line.file(pid, 'uprobe/work')}`);
    t.equal(same.code, 0, 'files read back');
    const events = lab.follow(line.file(pid, 'maps/notes/stream'));
    t.ok(await events.says(/"number":/), 'events go on');
    const total = await calls(target);
    const counted = entry(line.read(pid, 'maps/work.bss/entries'), 'entries');
    t.equal(counted, total, 'every call was counted, also without a daemon');
    const hits = line.hooks(pid).find((row) => row[8] === 'uprobe/work')?.[3];
    t.equal(Number(hits), total, 'hits, too');

    t.same(await line.cp(lab.bpf('tally', ['-DEDITION=2'], 'new'), pid, 'uprobe/work'), OK);
    t.equal(entry(line.read(pid, 'maps/work.bss/entries'), 'entries'), total, 'replaced');
    for (const file of ['uprobe/write,reads', 'uprobe/work', 'uprobe/usleep']) {
      t.same(await line.rm(pid, file), OK, `rm ${file}`);
    }
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'the target works on');
    t.same(await line.end(), [], 'no mount is left');
  });
});

await t.test('killed at any moment: nothing is lost, nothing is left', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 3);
    const { pid } = target;
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    target.child.stdin?.write('go\n');
    const storm = [
      `cp ${lab.bpf('tally')} uprobe/work`,
      `cp ${lab.bpf('probe')} uprobe/usleep`,
      `cp ${lab.bpf('tally', ['-DEDITION=2'], 'new')} uprobe/work`,
      `cp ${lab.bpf('reader')} uprobe/write,reads`,
      'rm uprobe/usleep',
      'rm uprobe/work',
      'rm uprobe/write,reads',
    ].join('; ');
    let adopted = 0;
    for (let death = 1; death <= DEATHS; death++) {
      const busy = lab.sh(`cd ${line.file(pid)} && while ${storm}; do :; done 2> /dev/null`);
      await sleep(20 + Math.random() * 120);
      await line.kill();
      await busy;
      if (!(await target.advances())) return void t.fail(`death ${death}: the target ended`);
      if (!(await line.next())) return void t.fail(`death ${death}: no successor`);
      if (line.errors !== '') t.fail(`death ${death}: ${line.errors}`);
      const isThere = () => readFileSync(`/proc/${pid}/maps`, 'latin1').includes('bpftime-state');
      const isTaken = () => /^entered +1$/m.test(line.read(pid, 'info')) || !isThere();
      if (!(await eventually(isTaken))) t.fail(`death ${death}: it was not taken over`);
      const files = new Set(line.hooks(pid).map((row) => row.at(-1) ?? ''));
      if (files.size > 0) adopted++;
      for (const file of files) {
        const ran = await line.rm(pid, file);
        if (ran.code !== 0) t.fail(`death ${death}: rm ${file}: ${ran.err}`);
      }
      if (death % 5 === 0) await sameCode(t, pid, before, `after death ${death}`);
    }
    t.ok(adopted > 0, `${adopted} of ${DEATHS} left hooks behind`);
    const end = await calls(target);
    t.ok(end > 1000, `the target made ${end} calls`);
    t.same(await line.end(), [], 'no mount is left');
    await sameCode(t, pid, before, 'at the end');
  });
});

await t.test('killed while it adopts: the one after it adopts as well', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 2);
    const { pid } = target;
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    for (const name of ['work', 'work,more', 'usleep', 'write']) {
      t.same(await line.cp(lab.bpf('tally'), pid, `uprobe/${name}`), OK, `cp onto ${name}`);
    }
    const listed = line.hooks(pid).map(([id, kind, , , , ...rest]) => [id, kind, ...rest]);
    target.child.stdin?.write('go\n');
    await line.kill();
    for (let death = 1; death <= ADOPTERS; death++) {
      await line.begins(Math.random() * 150);
      await line.kill();
    }
    t.ok(await line.next(), 'at last one lives');
    t.equal(line.errors, '', 'without a complaint');
    t.same(
      line.hooks(pid).map(([id, kind, , , , ...rest]) => [id, kind, ...rest]),
      listed,
      'the same hooks with the same ids',
    );
    const total = await calls(target);
    t.equal(entry(line.read(pid, 'maps/work.bss/entries'), 'entries'), total, 'maps are theirs');
    const hits = line.hooks(pid).find((row) => row[8] === 'uprobe/work,more')?.[3];
    t.equal(Number(hits), total, 'and every call was counted');
    for (const file of new Set(listed.map((row) => row.at(-1) ?? ''))) {
      t.same(await line.rm(pid, file), OK, `rm ${file}`);
    }
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'the target works on');
    t.same(await line.end(), [], 'no mount is left');
  });
});

await t.test('the tracer of a killed daemon is at a job: the next one waits for it', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 1);
    const { pid } = target;
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    t.same(await line.cp(lab.bpf('probe'), pid, 'uprobe/work'), OK);
    const { tracer } = line;
    // As slow as a job can be.
    process.kill(tracer, 'SIGSTOP');
    await line.kill();
    const mounted = line.next();
    await sleep(3000);
    t.ok(existsSync(`/proc/${tracer}`), 'it is still there');
    process.kill(tracer, 'SIGCONT');
    t.ok(await mounted, 'the next one mounts');
    t.equal(line.errors, '', 'without a complaint');
    t.equal(line.hooks(pid).length, 2, 'and goes on');
    t.same(await line.rm(pid, 'uprobe/work'), OK);
    await sameCode(t, pid, before, 'after rm');
    t.same(await line.end(), []);
  });
});

await t.test('two daemons: the second says who is there', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 1);
    const { pid } = target;
    t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/work'), OK);
    const other = await Dynasty.begin(lab);
    const ran = await other.cp(lab.bpf('probe'), pid, 'uprobe/usleep');
    t.match(ran.err, /Device or resource busy/);
    const who = lab.mount.daemon.pid;
    t.match(other.errors, new RegExp(`EBUSY .*another bpftimefs, process ${who}, is in it`));
    t.same(await lab.detach(pid, 'uprobe/work'), OK, 'the first detaches');
    t.ok(
      await eventually(async () => {
        return (await other.cp(lab.bpf('probe'), pid, 'uprobe/usleep')).code === 0;
      }),
      'then the second may',
    );
    t.same(await other.end(), []);
  });
});

await t.test('a daemon that is mounted already adopts at the next cp', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = await caller(lab, 1);
    const { pid } = target;
    const before = codeHash(pid);
    const other = await Dynasty.begin(lab);
    t.same(await other.cp(lab.bpf('tally'), pid, 'uprobe/work'), OK);
    await other.kill();
    t.same(await lab.attach(pid, lab.bpf('probe'), 'uprobe/usleep'), OK);
    t.same(
      [...new Set(lab.hooks(pid).map((hook) => hook['file']))].sort(),
      ['uprobe/usleep', 'uprobe/work'],
      'what was there, and what came',
    );
    t.same(await lab.detach(pid, 'uprobe/work'), OK);
    t.same(await lab.detach(pid, 'uprobe/usleep'), OK);
    await sameCode(t, pid, before, 'after rm');
    await other.next();
    t.same(await other.end(), []);
  });
});

await t.test('what is followed survives; children that nobody saw are found', async (t) => {
  for (const follow of ['fork', 'none']) {
    await Lab.run(t, async (lab) => {
      const target = lab.start(lab.build('lives.c'), ['20000']);
      await target.says(/round/);
      const { pid } = target;
      const before = codeHash(pid);
      const line = await Dynasty.begin(lab);
      t.same(await lab.sh(`echo follow=${follow} > ${line.file(pid, 'info')}`), OK);
      t.same(await line.cp(lab.bpf('probe'), pid, 'uprobe/work'), OK);
      await line.kill();
      target.child.kill('SIGUSR2');
      const orphan = Number((await target.says(/forked (\d+)/))?.[1]);
      lab.watch(orphan);
      t.ok(await line.next(), 'the next daemon');
      t.notMatch(line.errors, new RegExp(`/procs/(${pid}|${orphan})/`), 'without a complaint');
      t.match(line.read(pid, 'info'), new RegExp(`^follow ${follow}$`, 'm'));
      t.ok(await line.settles(orphan, follow === 'fork' ? 2 : 0), `${follow}: born in between`);
      if (follow === 'none') await sameCode(t, orphan, before, 'not followed');
      process.kill(orphan, 'SIGUSR1');
      t.ok(await target.says(/child ended with 0/, 30_000), 'it came to its good end');
      target.child.kill('SIGUSR2');
      const later = Number((await target.says(/forked \d+\n[\s\S]*forked (\d+)\n/))?.[1]);
      lab.watch(later);
      t.ok(await line.settles(later, follow === 'fork' ? 2 : 0), `${follow}: born afterwards`);
      process.kill(later, 'SIGUSR1');
      t.ok(await target.says(/child ended with 0[\s\S]*child ended with 0/, 30_000), 'so did it');
      t.same(await line.rm(pid, 'uprobe/work'), OK);
      await sameCode(t, pid, before, 'after rm');
      t.same(await line.end(), []);
    });
  }
});

await t.test('jumps of every form, and returns alone', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('forms.c'), ['2']);
    const { pid } = target;
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const before = codeHash(pid);
    const line = await Dynasty.begin(lab);
    const files = ['uprobe/loop_head', 'uprobe/packed_loop', 'uprobe/slots'];
    for (const file of files) t.same(await line.cp(lab.bpf('entry'), pid, file), OK, file);
    t.same(await line.cp(lab.bpf('entry'), pid, 'uretprobe/behind_it'), OK, 'its returns alone');
    await line.kill();
    t.ok(await target.advances(), 'the target works without a daemon');
    t.ok(await line.next(), 'the next one mounts');
    t.equal(line.errors, '', 'without a complaint');
    t.equal(line.hooks(pid).length, 4, 'all are there');
    const hits = () => line.hooks(pid).map((row) => Number(row[3]));
    const seen = hits();
    t.ok(await eventually(() => hits().every((now, i) => now > seen[i]!)), 'and count on');
    for (const file of [...files, 'uretprobe/behind_it']) t.same(await line.rm(pid, file), OK);
    t.ok(await target.advances());
    t.notMatch(target.text, /WRONG/);
    await sameCode(t, pid, before, 'after rm');
    t.same(await line.end(), []);
  });
});
