// redis-server, as Debian ships it (stripped), counted by command name; its own statistics agree.
import { join } from 'node:path';
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(120_000);

const WANTED = ['get', 'set', 'incr', 'lpush', 'ping'];

/** Calls by name of `INFO commandstats`; `config|get` is declared as `get`, too. */
function statistics(info: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const match of info.matchAll(/^cmdstat_(?:[a-z]+\|)?([a-z]+):calls=(\d+)/gm)) {
    const name = match[1]!;
    if (WANTED.includes(name)) counts[name] = (counts[name] ?? 0) + Number(match[2]);
  }
  return counts;
}

/** The map's lines `{"text":"get"}: 12` as counts by name. */
function counted(entries: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const match of entries.matchAll(/"([a-z]+)"\}?: (\d+)$/gm)) {
    if (WANTED.includes(match[1]!)) counts[match[1]!] = Number(match[2]);
  }
  return counts;
}

await t.test('commands by name, exactly', async (t) => {
  await Lab.run(t, async (lab) => {
    const socket = join(lab.scratch, 'redis.sock');
    const server = lab.start('redis-server', [
      ...['--port', '0', '--unixsocket', socket, '--save', '', '--dir', lab.scratch],
    ]);
    const cli = async (command: string) => (await lab.sh(`redis-cli -s ${socket} ${command}`)).out;
    t.ok(await eventually(async () => (await cli('ping')) === 'PONG\n'), 'redis answers');
    const before = codeHash(server.pid);

    const put = await lab.attach(server.pid, lab.bpf('rediscmd'), 'uprobe/call');
    t.same(put, { code: 0, out: '', err: '' }, 'attached to call');
    t.equal(await cli('config resetstat'), 'OK\n');
    const load = `redis-benchmark -s ${socket} -q -n 20000 -c 8 -P 16 -t get,set,incr,lpush`;
    const bench = await lab.sh(load);
    t.equal(bench.code, 0, 'redis-benchmark is content');
    t.notMatch(bench.out + bench.err, /error/i);
    for (let i = 0; i < 7; i++) await cli('ping');
    t.equal(await cli('get counter:__rand_int__'), '20000\n', 'the answers are right');

    const oracle = statistics(await cli('info commandstats'));
    t.equal(oracle['set'], 20_000);
    t.ok((oracle['get'] ?? 0) > 20_000);
    t.equal(oracle['ping'], 7);
    const seen = counted(lab.read(server.pid, 'maps/commands/entries'));
    t.same(seen, oracle, 'the map counts what redis counts');
    t.match(lab.read(server.pid, 'maps/call.bss/entries'), /"unreadable":0\b/);

    // The same again while the probe comes and goes: no command may fail.
    const busy = lab.sh(load);
    for (let cycle = 0; cycle < 10; cycle++) {
      t.equal((await lab.detach(server.pid, 'uprobe/call')).code, 0);
      t.equal((await lab.attach(server.pid, lab.bpf('rediscmd'), 'uprobe/call')).code, 0);
    }
    t.equal((await busy).code, 0, 'redis-benchmark is content again');
    t.equal(await cli('get counter:__rand_int__'), '40000\n', 'nothing was lost');
    t.equal((await lab.detach(server.pid, 'uprobe/call')).code, 0);
    await sameCode(t, server.pid, before, 'after rm');
    await cli('shutdown nosave');
    t.ok(await eventually(() => !server.alive), 'redis ends as ever');
    t.equal(server.child.exitCode, 0);
  });
});
