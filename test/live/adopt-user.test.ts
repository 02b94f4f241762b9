// A daemon without root, killed: what the next one can do depends on whether it may open
// /proc/PID/map_files (CAP_CHECKPOINT_RESTORE). /dev/fuse is root's on many machines: here the user
// has one of his own, in a mount namespace of its own.
import { once } from 'node:events';
import { chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Ran, type Running, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const OK = { code: 0, out: '', err: '' };
const NOBODY = 65534;
const main = fileURLToPath(new URL('../../src/main.js', import.meta.url));

const DOCTOR = `${process.execPath} ${main} doctor`;

/** A user with a /dev/fuse that is open to all, and his mount. */
class Guest {
  readonly mountpoint: string;
  readonly #lab: Lab;
  readonly #prefix: string[];
  #daemon: Running | undefined;

  private constructor(lab: Lab, holder: Running, caps: string) {
    this.#lab = lab;
    this.mountpoint = join(lab.scratch, 'mnt');
    mkdirSync(this.mountpoint);
    chownSync(this.mountpoint, NOBODY, NOBODY);
    const user = ['--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups'];
    const more = caps === '' ? [] : ['--inh-caps', caps, '--ambient-caps', caps];
    this.#prefix = ['--mount', `--target=${holder.pid}`, 'setpriv', ...user, ...more];
  }

  static async arrive(lab: Lab, caps = ''): Promise<Guest> {
    const node = join(lab.scratch, 'fuse');
    const open = `mknod -m 666 ${node} c 10 229 && mount --bind ${node} /dev/fuse && echo open`;
    const holder = lab.start('unshare', ['--mount', 'bash', '-c', `${open} && read`]);
    await holder.says(/open/);
    return new Guest(lab, holder, caps);
  }

  /** Runs a shell command as he would type it. */
  async sh(command: string): Promise<Ran> {
    const quoted = `'${command.replaceAll("'", "'\\''")}'`;
    return await this.#lab.sh(`cd / && nsenter ${this.#prefix.join(' ')} bash -c ${quoted}`);
  }

  async read(name: string): Promise<string> {
    return (await this.sh(`cat '${join(this.mountpoint, name)}'`)).out;
  }

  async mount(): Promise<boolean> {
    await this.sh(`${process.execPath} ${main} umount ${this.mountpoint}`);
    const command = [process.execPath, main, 'mount', this.mountpoint];
    this.#daemon = this.#lab.start('nsenter', [...this.#prefix, ...command], { cwd: '/' });
    return (await this.#daemon.says(/is mounted on/, 20_000)) !== undefined;
  }

  async kill(): Promise<void> {
    const child = this.#daemon?.child;
    child?.kill('SIGKILL');
    if (child?.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }

  async leave(): Promise<void> {
    await this.#daemon?.end('SIGTERM');
  }
}

/** A process of his, with two objects in it, whose daemon is killed. */
async function bereaved(t: Test, lab: Lab, guest: Guest) {
  const program = lab.build('caller.c');
  const target = lab.start(program, ['2'], { uid: NOBODY, cwd: '/' });
  t.ok(await target.says(/round/), 'his process works');
  const before = codeHash(target.pid);
  t.ok(await guest.mount(), 'he mounts, without root');
  const procs = `${guest.mountpoint}/procs/${target.pid}`;
  for (const [name, fn] of [
    ['tally', 'work'],
    ['probe', 'usleep'],
  ] as const) {
    t.same(await guest.sh(`cp ${lab.bpf(name)} ${procs}/uprobe/${fn}`), OK, `cp onto ${fn}`);
  }
  target.child.stdin?.write('go\n');
  t.ok(await target.advances(), 'calls are made');
  await guest.kill();
  t.ok(await target.advances(), 'it works without a daemon');
  return { target, before, procs };
}

await t.test('a plain user: the next daemon takes the hooks out, and says so', async (t) => {
  await Lab.run(t, async (lab) => {
    const guest = await Guest.arrive(lab);
    t.match((await guest.sh(DOCTOR)).out, /^no {2}adoption +hooks .* are taken out \(CAP_/m);
    const { target, before, procs } = await bereaved(t, lab, guest);
    t.ok(await guest.mount(), 'the next one mounts');
    const said = /does not go on: its maps cannot be opened by this daemon/;
    t.match(await guest.read('error_log'), said, 'error_log says what is lost, and why');
    await sameCode(t, target.pid, before, 'at once');
    t.ok(await target.advances(), 'the process works on');
    t.same(await guest.sh(`cp ${lab.bpf('tally')} ${procs}/uprobe/work`), OK, 'he begins anew');
    t.same(await guest.sh(`rm ${procs}/uprobe/work`), OK);
    await sameCode(t, target.pid, before, 'after rm');
    await guest.leave();
  });
});

await t.test('a user who may open map_files: the next daemon goes on', async (t) => {
  await Lab.run(t, async (lab) => {
    const guest = await Guest.arrive(lab, '+checkpoint_restore');
    t.match((await guest.sh(DOCTOR)).out, /^ok {2}adoption +hooks .* go on$/m);
    const { target, before, procs } = await bereaved(t, lab, guest);
    const proc = (name: string) => guest.read(`procs/${target.pid}/${name}`);
    t.ok(await guest.mount(), 'the next one mounts');
    t.equal(await guest.read('error_log'), '', 'without a complaint');
    const hooks = (await proc('hooks/list')).trim().split('\n').slice(1);
    t.equal(hooks.length, 4, 'every hook is there');
    target.child.stdin?.write('stop\n');
    const calls = (await target.says(/calls (\d+)\n/, 30_000))?.[1];
    const counted = /entries\W+(\d+)/.exec(await proc('maps/work.bss/entries'))?.[1];
    t.equal(counted, calls, 'every call was counted');
    t.same(await guest.sh(`rm ${procs}/uprobe/work ${procs}/uprobe/usleep`), OK);
    await sameCode(t, target.pid, before, 'after rm');
    t.ok(await eventually(() => target.alive), 'the process lives');
    await guest.leave();
  });
});
