// A probe on every function of libc, redis-server, nginx and node while they serve: nearly all take
// one, each refusal has its reason, no request fails, and every byte is as before in the end.
// node has 78,000 functions, of which every twentieth is tried; BPFTIMEFS_SWEEP=full tries them all
// (`npm run sweep`).
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { codeHash, codeHashBecomes } from '../helpers/code-hash.js';
import { eventually, Lab } from '../helpers/lab.js';
import { freePort, startNginx } from '../helpers/nginx.js';
import { functionsOf, type Listed, Sweep, type Swept } from '../helpers/sweep.js';

const COVERAGE = 0.995;
/** In a module of a few hundred functions this many are over the share. */
const REFUSED_ANYWAY = 3;
const IS_FULL = process.env['BPFTIMEFS_SWEEP'] === 'full';
const NODE_STEP = IS_FULL ? 1 : 20;

t.setTimeout(IS_FULL ? 3_600_000 : 590_000);

/** What a JIT compiler writes is not the module's code. */
const ofFiles = (range: { path: string }) => range.path.startsWith('/');

function judge(t: Test, what: string, swept: Swept): void {
  const { functions, attached, refused, hits, seconds } = swept;
  const share = ((attached / functions) * 100).toFixed(2);
  t.comment(`${what}: ${attached} of ${functions} functions (${share} %), ${seconds} s`);
  for (const [reason, names] of refused) {
    t.comment(`  ${names.length} ${reason}: ${names.slice(0, 5).join(' ')}`);
  }
  const least = Math.min(functions * COVERAGE, functions - REFUSED_ANYWAY);
  t.ok(attached >= least, `${what}: ${share} % of ${functions} take a probe`);
  const unnamed = [...refused.keys()].filter(
    (reason) => !/^(ENOTSUP|EBUSY|ENOSPC) \w/.test(reason),
  );
  t.same(unnamed, [], `${what}: every refusal has its reason`);
  t.ok(hits > 0, `${what}: probes were hit`);
}

/** Sweeps one module of a process and compares its code. */
async function sweepModule(
  t: Test,
  lab: Lab,
  pid: number,
  spec: { module: string; wanted?: (one: Listed, i: number) => boolean; isFine: () => boolean },
): Promise<void> {
  const { module, wanted = () => true, isFine } = spec;
  const before = codeHash(pid, ofFiles);
  const functions = functionsOf(lab, pid, module).filter(wanted);
  t.ok(functions.length > 100, `${module}: ${functions.length} functions`);
  judge(t, module, await new Sweep(lab, pid).run(functions, isFine));
  t.ok(isFine(), `${module}: the load lasted all the time`);
  const after = await codeHashBecomes(pid, before, ofFiles);
  t.equal(after, before, `${module}: every byte of code is as before`);
}

await t.test('libc, in a process that checks its own results', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('gauntlet.cc'), ['4']);
    t.ok(await target.says(/round [1-9]/), 'the target works');
    await sweepModule(t, lab, target.pid, { module: 'libc.so.6', isFine: () => target.alive });
    t.ok(await target.advances(), 'it works on');
    t.notMatch(target.text, /WRONG/, 'no result was ever wrong');
  });
});

await t.test('redis-server under redis-benchmark', async (t) => {
  await Lab.run(t, async (lab) => {
    const socket = join(lab.scratch, 'redis.sock');
    const server = lab.start('redis-server', [
      ...['--port', '0', '--unixsocket', socket, '--save', '', '--dir', lab.scratch],
    ]);
    const ping = async () => (await lab.sh(`redis-cli -s ${socket} ping`)).out === 'PONG\n';
    t.ok(await eventually(ping), 'redis answers');
    const load = lab.start('redis-benchmark', [
      ...['-s', socket, '-q', '-l', '-n', '200000', '-c', '8', '-P', '4'],
      ...['-t', 'get,set,incr,lpush,lpop,zadd,hset,mset'],
    ]);
    const module = 'redis-check-rdb'; // Debian's redis-server is a link to it
    await sweepModule(t, lab, server.pid, { module, isFine: () => server.alive && load.alive });
    await load.end();
    t.notMatch(load.text, /error|reset|closed/i, 'no request failed');
    t.ok(await ping(), 'redis answers afterwards');
  });
});

await t.test('nginx under wrk', async (t) => {
  await Lab.run(t, async (lab) => {
    const { port, worker, master } = await startNginx(lab, 'swept\n');
    const url = `https://127.0.0.1:${port}/page.html`;
    const wrk = lab.start('wrk', ['-t1', '-c8', '-d', '600s', '--timeout', '60s', url]);
    await sweepModule(t, lab, worker, { module: 'nginx', isFine: () => wrk.alive });
    await wrk.end('SIGINT');
    t.match(wrk.text, /[1-9]\d* requests in/);
    t.notMatch(wrk.text, /Socket errors|Non-2xx/, 'no request failed');
    await master.end('SIGQUIT');
  });
});

await t.test('Go, with goroutines that check their own results', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('goroutines.go'), ['100']);
    target.child.stdin?.write('start\n');
    t.ok(await target.says(/round [1-9]/), 'the target works');
    const module = 'goroutines';
    await sweepModule(t, lab, target.pid, { module, isFine: () => target.alive });
    t.ok(await target.advances(), 'it works on');
    t.notMatch(target.text, /WRONG/, 'no result was ever wrong');
  });
});

await t.test(`node serving HTTP, one function of ${NODE_STEP}`, async (t) => {
  await Lab.run(t, async (lab) => {
    const port = await freePort();
    const script = join(lab.scratch, 'serve.mjs');
    writeFileSync(
      script,
      `import { createServer } from 'node:http';
       createServer((request, response) => response.end(JSON.stringify({ url: request.url })))
         .listen(${port}, '127.0.0.1', () => console.log('round 1'));\n`,
    );
    const node = lab.start(process.execPath, [script]);
    t.ok(await node.says(/round/), 'node serves');
    const url = `http://127.0.0.1:${port}/`;
    const wrk = lab.start('wrk', ['-t1', '-c8', '-d', '3600s', '--timeout', '60s', url]);
    await sweepModule(t, lab, node.pid, {
      module: 'node',
      wanted: (_one, i) => i % NODE_STEP === 0,
      isFine: () => node.alive && wrk.alive,
    });
    await wrk.end('SIGINT');
    t.match(wrk.text, /[1-9]\d* requests in/);
    t.notMatch(wrk.text, /Socket errors|Non-2xx/, 'no request failed');
    t.notMatch(node.text, /Error|fatal/i, 'node has nothing to say');
  });
});
