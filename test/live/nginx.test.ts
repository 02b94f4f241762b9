// nginx with TLS under load: its requests in clear text, and not one of them fails or changes while
// programs come and go.
import { readFileSync } from 'node:fs';
import { Agent, get } from 'node:https';
import { join } from 'node:path';
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';
import { startNginx } from '../helpers/nginx.js';

t.setTimeout(120_000);

const CYCLES = 20;
const BODY = `${'0123456789abcdef'.repeat(256)}\n`;

/** A client that checks every answer until it is told to stop. */
class Checker {
  answers = 0;
  readonly wrong: string[] = [];
  #stopping = false;
  readonly #done: Promise<void>;

  constructor(port: number) {
    this.#done = this.#run(port);
  }

  async #run(port: number): Promise<void> {
    const agent = new Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false });
    while (!this.#stopping) {
      try {
        const body = await this.#ask(port, agent);
        if (body === BODY) this.answers++;
        else this.wrong.push(`a body of ${body.length} bytes`);
      } catch (error) {
        this.wrong.push(String(error));
      }
    }
    agent.destroy();
  }

  #ask(port: number, agent: Agent): Promise<string> {
    return new Promise((done, failed) => {
      get({ host: '127.0.0.1', port, path: '/page.html?checked', agent }, (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (text) => {
          body += text;
        });
        response.on('end', () => done(body));
      }).on('error', failed);
    });
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }
}

await t.test('TLS requests in clear text, twenty times on and off, under load', async (t) => {
  await Lab.run(t, async (lab) => {
    const { port, worker, master } = await startNginx(lab, BODY);
    const checker = new Checker(port);
    t.teardown(() => checker.stop());
    t.ok(await eventually(() => checker.answers > 5), 'nginx answers');
    const before = codeHash(worker);
    const seconds = 60;
    const url = `https://127.0.0.1:${port}/page.html?wrk`;
    const wrk = lab.start('wrk', ['-t', '1', '-c', '16', '-d', `${seconds}s`, url]);
    const sniff = lab.bpf('sslsniff');
    const where = 'hooks/sslsniff.bpf.o';

    const events = lab.follow(lab.proc(worker, 'events'));
    t.same(await lab.attach(worker, sniff, where), { code: 0, out: '', err: '' }, 'attached');
    const stream = lab.follow(lab.proc(worker, 'maps/requests/stream'));
    t.ok(await stream.says(/GET \/page\.html\?wrk HTTP\/1\.1/), 'stream: a request of wrk');
    t.ok(await stream.says(/GET \/page\.html\?checked HTTP\/1\.1/), 'stream: one of the client');
    t.ok(await events.says(/GET \/page\.html\?wrk HTTP\/1\.1/), 'events: a request');
    t.ok(await events.says(/HTTP\/1\.1 200 OK/), 'events: an answer');
    const line = events.text.split('\n').find((one) => one.includes('"READ"') && one.endsWith('}'));
    const record = JSON.parse(line ?? '{}') as Record<string, unknown>;
    t.match(JSON.stringify(record), new RegExp(`"pid":${worker}\\b`), 'a line is JSON');
    await stream.end();
    const kinds = lab.hooks(worker).map((hook) => `${hook['kind']} ${hook['target']}`);
    t.same(kinds, [
      'uprobe libssl.so.3:SSL_read',
      'uretprobe libssl.so.3:SSL_read',
      'uprobe libssl.so.3:SSL_write',
    ]);
    t.equal((await lab.detach(worker, where)).code, 0, 'detached');
    await events.end();
    await sameCode(t, worker, before, 'after the first cycle');

    let quiet = 0;
    for (let cycle = 2; cycle <= CYCLES; cycle++) {
      if ((await lab.attach(worker, sniff, where)).code !== 0) t.fail(`cycle ${cycle}: cp`);
      if (!(await eventually(() => lab.hits(worker, where) > 0))) quiet++;
      if ((await lab.detach(worker, where)).code !== 0) t.fail(`cycle ${cycle}: rm`);
      if (!wrk.alive) break;
    }
    t.equal(quiet, 0, `${CYCLES} cycles, each of which saw requests`);
    t.ok(wrk.alive, 'the load lasted all the time');
    await sameCode(t, worker, before, 'after all cycles');
    const answers = checker.answers;
    t.ok(await eventually(() => checker.answers > answers + 5), 'nginx answers afterwards');
    await checker.stop();
    t.same(checker.wrong, [], `all ${checker.answers} checked answers were right`);
    await wrk.end('SIGINT');
    t.match(wrk.text, /[1-9]\d* requests in/, wrk.text.match(/Requests\/sec:.*/)?.[0] ?? 'wrk');
    t.notMatch(wrk.text, /Socket errors|Non-2xx/, 'no request of wrk failed');
    t.equal(readFileSync(join(lab.scratch, 'error.log'), 'utf8'), '', 'nothing in its error log');
    await master.end('SIGQUIT');
  });
});
