// Servers that fork: the reload of nginx, and a pre-fork server, under each `follow` of `info`.
// Every answer of a process that has hooks is counted once, in one map for all of them.
import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { codeHash, eventually, Lab, type Running, sameCode } from '../helpers/lab.js';
import { freePort, tempPaths } from '../helpers/nginx.js';

t.setTimeout(180_000);

const OK = { code: 0, out: '', err: '' };

/** What a server answers on a connection of its own. */
function ask(port: number, question = ''): Promise<string> {
  return new Promise((done, failed) => {
    let text = '';
    const socket = connect(port, '127.0.0.1', () => socket.write(question));
    socket.setEncoding('utf8').on('data', (data) => {
      text += data;
    });
    socket.on('error', failed).on('end', () => done(text));
  });
}

/** Asks until it is told to stop; counts the answers by `who`. */
class Client {
  readonly answers = new Map<string, number>();
  readonly wrong: string[] = [];
  total = 0;
  #stopping = false;
  readonly #done: Promise<void>;

  constructor(ask: () => Promise<string>, who: RegExp) {
    this.#done = this.#run(ask, who);
  }

  async #run(ask: () => Promise<string>, who: RegExp): Promise<void> {
    while (!this.#stopping) {
      const text = await ask().catch(String);
      const key = who.exec(text)?.[1];
      if (key === undefined) this.wrong.push(text);
      else this.answers.set(key, (this.answers.get(key) ?? 0) + 1);
      this.total++;
    }
  }

  async more(count: number): Promise<boolean> {
    const from = this.total;
    return (await eventually(() => this.total >= from + count, 60_000)) === true;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }
}

const counted = (lab: Lab, pid: number, map: string) =>
  Number(/\bentries\W+(\d+)/.exec(lab.read(pid, `maps/${map}/entries`))?.[1]);

const childrenOf = (pid: number) =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);

async function follow(t: Test, lab: Lab, pid: number, value: string): Promise<void> {
  t.same(await lab.sh(`echo follow=${value} > ${lab.proc(pid, 'info')}`), OK, `follow=${value}`);
}

async function nginx(lab: Lab): Promise<{ master: Running; port: number }> {
  const dir = lab.scratch;
  const port = await freePort();
  writeFileSync(
    join(dir, 'nginx.conf'),
    `daemon off; worker_processes 2; pid ${dir}/nginx.pid; error_log ${dir}/error.log notice;
     user root; events { worker_connections 64; }
     http { log_format who '$pid'; access_log ${dir}/access.log who; ${tempPaths(dir)}
       server { listen 127.0.0.1:${port}; return 200 "it is $pid\\n"; } }\n`,
  );
  const master = lab.start('nginx', ['-p', dir, '-c', join(dir, 'nginx.conf')]);
  await eventually(() => childrenOf(master.pid).length === 2);
  return { master, port };
}

await t.test('nginx is reloaded: new workers have hooks, old ones leave in peace', async (t) => {
  await Lab.run(t, async (lab) => {
    const { master, port } = await nginx(lab);
    const { pid } = master;
    for (const worker of childrenOf(pid)) lab.watch(worker);
    const before = codeHash(pid);
    // Workers load libraries that the master has not.
    const ownCode = (one: number) => codeHash(one, ({ path }) => path.endsWith('/nginx'));
    const own = ownCode(pid);
    const old = new Set(childrenOf(pid).map(String));
    const question = 'GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n';
    const client = new Client(() => ask(port, question), /200 OK[\s\S]*it is (\d+)\n$/);
    t.teardown(() => client.stop());
    t.ok(await client.more(20), 'it answers');
    await follow(t, lab, pid, 'fork');
    t.same(await lab.attach(pid, lab.bpf('tally'), 'uprobe/ngx_http_free_request'), OK);
    for (let reload = 1; reload <= 4; reload++) {
      const former = new Set(childrenOf(pid));
      master.child.kill('SIGHUP');
      const isNew = () => {
        const now = childrenOf(pid);
        return now.length === 2 && !now.some((worker) => former.has(worker));
      };
      t.ok(await eventually(isNew, 30_000), `reload ${reload}: only new workers`);
      for (const worker of childrenOf(pid)) {
        lab.watch(worker);
        const has = () => lab.hooks(worker).length === 2;
        t.ok(await eventually(has), `reload ${reload}: worker ${worker} has hooks of its own`);
      }
      t.ok(await client.more(50), `reload ${reload}: it answers`);
    }
    await client.stop();
    t.same(client.wrong, [], `all ${client.total} answers were right`);
    const lines = readFileSync(join(lab.scratch, 'access.log'), 'utf8').trim().split('\n');
    t.equal(lines.length, client.total, 'the access log has each');
    const hooked = lines.filter((who) => !old.has(who));
    t.equal(counted(lab, pid, 'ngx_http.bss'), hooked.length, 'the map has each of theirs');
    for (const worker of childrenOf(pid)) {
      const logged = lines.filter((who) => who === String(worker)).length;
      const [entry] = lab.hooks(worker);
      t.equal(Number(entry?.['hits']), logged, `worker ${worker} has ${logged}`);
    }
    const errors = readFileSync(join(lab.scratch, 'error.log'), 'utf8');
    t.notMatch(errors, /\[(alert|crit|emerg|error)\]|signal \d+ \(core|exited on signal/);
    t.equal(errors.match(/exited with code 0/g)?.length, 8, 'eight workers left in peace');
    for (const worker of childrenOf(pid)) {
      t.same(await lab.detach(worker, 'uprobe/ngx_http_free_request'), OK);
      const isBack = () => ownCode(worker) === own;
      t.ok(await eventually(isBack), `worker ${worker}: every byte of nginx is as before`);
    }
    t.same(await lab.detach(pid, 'uprobe/ngx_http_free_request'), OK);
    await sameCode(t, pid, before, 'the master, after rm');
    await master.end('SIGQUIT');
  });
});

/** The workers, when those that had given their last answer have been replaced. */
async function settled(pid: number): Promise<number[]> {
  for (let before = ''; ; ) {
    const workers = childrenOf(pid);
    if (workers.join() === before) return workers;
    before = workers.join();
    await sleep(300);
  }
}

/** A worker may come to its end while it is asked. */
function hasHooks(lab: Lab, worker: number): boolean {
  try {
    return lab.hooks(worker).length === 2;
  } catch {
    return false;
  }
}

for (const value of ['fork', 'all', 'none']) {
  await t.test(`a pre-fork server, follow=${value}`, async (t) => {
    await Lab.run(t, async (lab) => {
      // What it executes lies where it lay itself.
      const server = lab.start('setarch', ['-R', lab.build('prefork.c'), '40']);
      const { pid } = server;
      const port = Number((await server.says(/port (\d+)/))?.[1]);
      for (const worker of childrenOf(pid)) lab.watch(worker);
      const before = codeHash(pid);
      const client = new Client(() => ask(port), /^(\d+) \d+\n$/);
      t.teardown(() => client.stop());
      await follow(t, lab, pid, value);
      const known = () => new Set([...client.answers.keys(), ...childrenOf(pid).map(String)]);
      const early = known();
      t.same(await lab.attach(pid, lab.bpf('tally'), 'uprobe/serve'), OK);
      // Who was born meanwhile may have come before or behind it.
      const meanwhile = known();
      t.ok(await client.more(600), 'workers come and go');
      if (value === 'all') {
        server.child.kill('SIGHUP');
        t.ok(await server.says(/port[\s\S]*port/), 'it executes itself');
        t.ok(await eventually(() => lab.hooks(pid).length === 2), 'and is probed again');
        const has = () => childrenOf(pid).every((worker) => hasHooks(lab, worker));
        t.ok((await client.more(400)) && (await eventually(has)), 'so are its new workers');
      }
      await client.stop();
      const workers = await settled(pid);
      for (const worker of workers) lab.watch(worker);
      t.same(client.wrong, [], `all ${client.total} answers were right`);
      t.notMatch(server.text, /ended \d+/, 'every worker came to its good end');
      if (value === 'fork') {
        const answersOf = (isOne: (who: string) => boolean) =>
          [...client.answers].reduce((sum, [who, count]) => sum + (isOne(who) ? count : 0), 0);
        const late = answersOf((who) => !meanwhile.has(who));
        const perhaps = answersOf((who) => meanwhile.has(who) && !early.has(who));
        const seen = counted(lab, pid, 'serve.bss');
        const has = `the map has ${seen} answers of theirs, of ${late} and perhaps ${perhaps}`;
        t.ok(seen >= late && seen <= late + perhaps, has);
      }
      for (const worker of workers) {
        if (value === 'none') {
          t.ok(await eventually(() => lab.hooks(worker).length === 0), 'no hooks are in a worker');
        } else {
          t.ok(await eventually(() => lab.hooks(worker).length === 2), 'a worker has hooks');
          t.same(await lab.detach(worker, 'uprobe/serve'), OK);
        }
        await sameCode(t, worker, before, `worker ${worker}`);
      }
      t.same(await lab.detach(pid, 'uprobe/serve'), OK);
      await sameCode(t, pid, before, 'the parent, after rm');
      await server.end();
    });
  });
}
