// Whole applications under load, as workload trials see them: a server pinned to the last core, a
// client beside it on the first, and one round of that load as a figure.
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Unavailable } from './stats.js';

const START_ATTEMPTS = 200;
const START_PAUSE_MS = 20;
const CONNECTIONS = '16';

const run = promisify(execFile);

/** One round of load. */
export interface Round {
  perSecond: number;
  /** CPU time of the server per request, microseconds. */
  cpuUs: number;
}

/** A server under load. */
export interface Server {
  /** The process that does the work. */
  pid: number;
  round(): Promise<Round>;
  end(): Promise<void>;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** First word of schedstat: nanoseconds on a CPU, of the main thread. */
const cpuNs = (pid: number) =>
  Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ', 1)[0]);

/** A round of `load`, which returns requests and requests per second. */
async function roundOf(pid: number, load: () => Promise<[number, number]>): Promise<Round> {
  const before = cpuNs(pid);
  const [requests, perSecond] = await load();
  return { perSecond, cpuUs: (cpuNs(pid) - before) / requests / 1000 };
}

async function started<T>(what: string, probe: () => Promise<T | undefined>): Promise<T> {
  for (let i = 0; i < START_ATTEMPTS; i++) {
    const got = await probe().catch(() => undefined);
    if (got !== undefined) return got;
    await sleep(START_PAUSE_MS);
  }
  throw new Unavailable(`${what} does not start`);
}

function launch(cpu: number, command: string, args: string[]): ChildProcess {
  return spawn('taskset', ['-c', String(cpu), command, ...args], { stdio: 'ignore' });
}

async function endOf(child: ChildProcess, dir: string): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    await exited;
  }
  rmSync(dir, { recursive: true });
}

function nginxFiles(dir: string, port: number, bodyBytes: number): void {
  mkdirSync(join(dir, 'html'));
  writeFileSync(join(dir, 'html/body'), 'x'.repeat(bodyBytes));
  const files = ['-keyout', join(dir, 'key.pem'), '-out', join(dir, 'cert.pem')];
  const kind = ['-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=localhost', '-days', '2'];
  execFileSync('openssl', ['req', '-x509', ...kind, ...files], { stdio: 'ignore' });
  const temps = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${dir}/tmp_${name};`)
    .join(' ');
  writeFileSync(
    join(dir, 'nginx.conf'),
    `daemon off; worker_processes 1; pid ${dir}/nginx.pid; error_log ${dir}/error.log;
     user root; events { worker_connections 256; }
     http { access_log off; ${temps} open_file_cache max=16;
       server { listen 127.0.0.1:${port} ssl; root ${dir}/html; keepalive_requests 100000000;
         ssl_certificate ${dir}/cert.pem; ssl_certificate_key ${dir}/key.pem; } }\n`,
  );
}

/** nginx with one worker, TLS, keep-alive, and wrk; `seconds` a round. */
export async function startNginx(cpu: number, bodyBytes: number, seconds: number): Promise<Server> {
  const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-nginx-'));
  const port = await freePort();
  nginxFiles(dir, port, bodyBytes);
  const master = launch(cpu, 'nginx', ['-p', dir, '-c', join(dir, 'nginx.conf')]);
  const children = `/proc/${master.pid}/task/${master.pid}/children`;
  const pid = await started('nginx', async () => {
    return Number(readFileSync(children, 'utf8').split(' ')[0]) || undefined;
  });
  const url = `https://127.0.0.1:${port}/body`;
  const wrk = (duration: number) =>
    run('taskset', ['-c', '0', 'wrk', '-t1', '-c', CONNECTIONS, '-d', `${duration}s`, url]);
  const load = async (): Promise<[number, number]> => {
    const { stdout } = await wrk(seconds);
    const requests = Number(/(\d+) requests in/.exec(stdout)?.[1]);
    const perSecond = Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
    if (!(requests > 0) || /Socket errors|Non-2xx/.test(stdout)) throw new Error(`wrk: ${stdout}`);
    return [requests, perSecond];
  };
  await wrk(1);
  return { pid, round: () => roundOf(pid, load), end: () => endOf(master, dir) };
}

/** redis-server and redis-benchmark: GET of 10,000 keys, 16 at a time. */
export async function startRedis(cpu: number, requests: number): Promise<Server> {
  const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-redis-'));
  const socket = join(dir, 'socket');
  const args = ['--port', '0', '--unixsocket', socket, '--save', '', '--dir', dir];
  const server = launch(cpu, 'redis-server', args);
  const pid = server.pid!; // taskset has become it
  await started('redis', async () => {
    const { stdout } = await run('redis-cli', ['-s', socket, 'ping']);
    return stdout === 'PONG\n' ? true : undefined;
  });
  const benchmark = (test: string, count: number) =>
    run('taskset', [
      ...['-c', '0', 'redis-benchmark', '-s', socket, '-P', '16', '-c', '32', '-r', '10000'],
      ...['-t', test, '-n', String(count), '--csv'],
    ]);
  const load = async (): Promise<[number, number]> => {
    const { stdout } = await benchmark('get', requests);
    const perSecond = Number(/"GET","([\d.]+)"/.exec(stdout)?.[1]);
    if (!(perSecond > 0)) throw new Error(`redis-benchmark: ${stdout}`);
    return [requests, perSecond];
  };
  await benchmark('set', requests);
  return { pid, round: () => roundOf(pid, load), end: () => endOf(server, dir) };
}
