// Probes on modules that are not loaded yet: attached before the first instruction of the module
// runs, pending again when it is unloaded, and of no cost to a process whose daemon is gone.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';
import { startMount } from '../helpers/mount.js';

t.setTimeout(120_000);

const fine = { code: 0, out: '', err: '' };
const FILE = 'uprobe/libplugin.so:plugin_work';
/** Calls that the library's constructor makes. */
const AT_LOAD = 5;

interface Libc {
  name: string;
  compiler: string;
  unloads: boolean;
}
const LIBCS: Libc[] = [
  { name: 'glibc', compiler: 'gcc', unloads: true },
  { name: 'musl', compiler: 'musl-gcc', unloads: false },
];

async function loader(lab: Lab, compiler: string): Promise<{ target: Running; library: string }> {
  const how = { compiler, name: 'libplugin.so' };
  const library = lab.build('plugin.c', ['-shared', '-fPIC'], how);
  const target = lab.start(lab.build('loads.c', ['-ldl'], { compiler }));
  await target.says(/ready/);
  return { target, library };
}

let said = 0;
/** Gives an order and waits until it was carried out. */
async function order(t: Test, target: Running, line: string, answer: RegExp) {
  said = target.text.length;
  target.child.stdin?.write(`${line}\n`);
  t.ok(await eventually(() => answer.test(target.text.slice(said))), line);
}

const stateOf = (lab: Lab, pid: number) => lab.hooks(pid).map((hook) => hook['state']);

for (const { name, compiler, unloads } of LIBCS) {
  await t.test(`${name}: a probe waits for its library`, async (t) => {
    await Lab.run(t, async (lab) => {
      const { target, library } = await loader(lab, compiler);
      const { pid } = target;
      const before = codeHash(pid);
      t.same(await lab.attach(pid, lab.bpf('full'), FILE), fine, 'cp succeeds');
      t.same(stateOf(lab, pid), ['pending']);
      t.equal(lab.hooks(pid)[0]?.['target'], 'libplugin.so:plugin_work');
      const id = lab.hooks(pid)[0]?.['id'];
      t.match(lab.read(pid, `hooks/by-id/${id}/info`), /^state pending$/m);
      t.match(lab.read(pid, 'info'), /^pending 1\nloader hooked$/m);

      await order(t, target, `open ${library}`, /opened/);
      t.same(stateOf(lab, pid), ['attached'], 'attached when it is loaded');
      t.equal(lab.hits(pid, FILE), AT_LOAD, 'before its constructor ran');
      t.equal(lab.hooks(pid)[0]?.['id'], id, 'the hook is the same');
      await order(t, target, 'call 7', /called 70/);
      t.equal(lab.hits(pid, FILE), AT_LOAD + 7);
      await order(t, target, 'close', /closed 0/);
      t.same(stateOf(lab, pid), [unloads ? 'pending' : 'attached']);
      if (unloads) {
        await order(t, target, `open ${library}`, /opened/);
        t.same(stateOf(lab, pid), ['attached'], 'a second life');
        t.equal(lab.hits(pid, FILE), AT_LOAD, 'whose constructor is seen, too');
        await order(t, target, 'close', /closed 0/);
      }
      t.same(await lab.detach(pid, FILE), fine, 'rm');
      t.same(lab.hooks(pid), []);
      if (unloads) await sameCode(t, pid, before, 'after rm');
      await order(t, target, `open ${library}`, /opened/);
      await order(t, target, 'call 7', /called 70/);
      t.same(lab.hooks(pid), [], 'nothing waits any more');
    });
  });
}

await t.test('a library in a name space of its own', async (t) => {
  await Lab.run(t, async (lab) => {
    const { target, library } = await loader(lab, 'gcc');
    const { pid } = target;
    t.same(await lab.attach(pid, lab.bpf('full'), FILE), fine);
    await order(t, target, `newspace ${library}`, /opened/);
    t.equal(lab.hits(pid, FILE), AT_LOAD);
    t.same(await lab.detach(pid, FILE), fine);
  });
});

await t.test('part of an object waits', async (t) => {
  await Lab.run(t, async (lab) => {
    const { target, library } = await loader(lab, 'gcc');
    const { pid } = target;
    const before = codeHash(pid);
    const object = lab.bpf('pending', [`-DLIBRARY="${library}"`]);
    t.same(await lab.sh(`cp ${object} ${lab.proc(pid, 'hooks')}/`), fine);
    t.same(
      lab.hooks(pid).map((hook) => `${hook['program']} ${hook['state']} ${hook['kind']}`),
      ['by_name pending uprobe', 'by_path pending uretprobe', 'at_once attached uprobe'],
    );
    const [first] = lab.hooks(pid);
    const enabled = lab.proc(pid, `hooks/by-id/${first?.['id']}/enabled`);
    t.same(await lab.sh(`echo 0 > ${enabled}`), fine, 'a pending hook can be switched off');
    await order(t, target, `open ${library}`, /opened/);
    t.same(
      lab.hooks(pid).map((hook) => `${hook['state']} ${hook['hits']} ${hook['target']}`),
      [
        'attached 0 libplugin.so:plugin_work',
        `attached ${AT_LOAD} libplugin.so:plugin_work`,
        'attached 0 loads:call',
      ],
    );
    t.same(await lab.sh(`echo 1 > ${enabled}`), fine, 'and on');
    await order(t, target, 'call 7', /called 70/);
    t.same(
      lab.hooks(pid).map((hook) => hook['hits']),
      ['7', `${AT_LOAD + 7}`, '1'],
    );
    await order(t, target, 'close', /closed/);
    t.same(stateOf(lab, pid), ['pending', 'pending', 'attached']);
    t.same(await lab.detach(pid, 'hooks/pending.bpf.o'), fine);
    await sameCode(t, pid, before, 'after rm');
  });
});

await t.test('what cannot come is refused', async (t) => {
  await Lab.run(t, async (lab) => {
    const { target, library } = await loader(lab, 'gcc');
    const { pid } = target;
    const before = codeHash(pid);
    const refused = async (where: string, sentence: RegExp) => {
      const ran = await lab.attach(pid, lab.bpf('full'), where);
      t.match(ran.err, /No such file or directory/, where);
      t.match(lab.read(pid, 'last_error'), sentence);
    };
    await refused('uprobe/plugin_wrok', /ENOENT plugin_wrok: no such function/);
    await refused('uprobe/laods:call', /no module laods .*a library to come is named like/);
    await refused('uprobe/libc.so.6:plugin_work', /no such function in libc\.so\.6/);
    const inSections = async (path: string, sentence: RegExp) => {
      const object = lab.bpf('pending', [`-DLIBRARY="${path}"`]);
      const ran = await lab.sh(`cp ${object} ${lab.proc(pid, 'hooks')}/; rm ${object}`);
      t.match(ran.err, /No such file or directory/, path);
      t.match(lab.read(pid, 'last_error'), sentence);
    };
    await inSections(`${library}.2`, /libplugin\.so\.2: no such file/);
    await inSections(
      lab.build('library.c', ['-shared', '-fPIC'], { name: 'libother.so' }),
      /no such function in .*libother\.so, which is not loaded/,
    );
    t.same(lab.hooks(pid), []);
    await sameCode(t, pid, before, 'after all');
  });
});

await t.test('a library that comes without the function is said to', async (t) => {
  await Lab.run(t, async (lab) => {
    const { target, library } = await loader(lab, 'gcc');
    const { pid } = target;
    const where = 'uprobe/libplugin.so:plugin_wrok';
    t.same(await lab.attach(pid, lab.bpf('full'), where), fine, 'nobody can know yet');
    await order(t, target, `open ${library}`, /opened/);
    t.same(stateOf(lab, pid), ['refused']);
    const id = lab.hooks(pid)[0]?.['id'];
    const sentence = /ENOENT libplugin\.so:plugin_wrok: no such function .*mean plugin_work/;
    t.match(lab.read(pid, `hooks/by-id/${id}/info`), sentence);
    t.match(lab.read(pid, 'last_error'), sentence);
    t.same(await lab.detach(pid, where), fine);
  });
});

await t.test('an unwinder that is loaded later finds true return addresses', async (t) => {
  await Lab.run(t, async (lab) => {
    const { target } = await loader(lab, 'gcc');
    const { pid } = target;
    const library = lab.build('thrower.cc', ['-shared', '-fPIC'], { name: 'libthrower.so' });
    t.same(await lab.attach(pid, lab.bpf('full'), 'uretprobe/through'), fine);
    const id = lab.hooks(pid)[0]?.['id'];
    t.match(lab.read(pid, `hooks/by-id/${id}/info`), /^exit_form balanced$/m);
    t.notMatch(lab.read(pid, 'modules'), /libgcc_s/, 'the unwinder is not there yet');
    await order(t, target, `open ${library}`, /opened/);
    t.match(lab.read(pid, 'modules'), /libgcc_s/);
    await order(t, target, 'throw', /caught 1/);
    t.same(await lab.detach(pid, 'uretprobe/through'), fine);
    await order(t, target, 'throw', /caught 1/);
    t.ok(await eventually(() => /^entered 0$/m.test(lab.read(pid, 'info'))), 'we are out again');
  });
});

await t.test('a daemon that is gone costs one wait, not one per load', async (t) => {
  await Lab.run(t, async (lab) => {
    const { target, library } = await loader(lab, 'gcc');
    const other = await startMount({ tree: 'real' });
    const file = (name: string) => join(other.mountpoint, 'procs', String(target.pid), name);
    t.same(await lab.sh(`cp ${lab.bpf('full')} ${file(FILE)}`), fine);
    t.match(readFileSync(file('hooks/list'), 'utf8'), /pending/);
    other.daemon.kill('SIGKILL');
    await once(other.daemon, 'exit');
    // Three changes of the list per turn: at 100 ms each this would take longer than we wait.
    await order(t, target, `many 100 ${library}`, /many done/);
    await order(t, target, `open ${library}`, /opened/);
    await order(t, target, 'call 7', /called 70/);
    t.same(await lab.sh(`umount ${other.mountpoint}`), fine);
    await other.stop();
  });
});
