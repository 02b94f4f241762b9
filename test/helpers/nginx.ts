// nginx with TLS and one worker, for tests that probe it under load.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { eventually, type Lab, type Running } from './lab.js';

/** A port of the loopback that nobody uses right now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** A server with one worker. */
export interface Nginx {
  port: number;
  worker: number;
  master: Running;
}

/** Where nginx keeps what it would keep in the system's directories. */
export const tempPaths = (dir: string): string =>
  ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${dir}/tmp_${name};`)
    .join(' ');

/** Starts nginx with TLS; `/page.html` answers with `body`. */
export async function startNginx(lab: Lab, body: string): Promise<Nginx> {
  const dir = lab.scratch;
  mkdirSync(join(dir, 'html'));
  writeFileSync(join(dir, 'html/page.html'), body);
  const subject = ['-subj', '/CN=localhost', '-days', '2'];
  const files = ['-keyout', join(dir, 'key.pem'), '-out', join(dir, 'cert.pem')];
  const kind = ['-newkey', 'rsa:2048', '-nodes'];
  execFileSync('openssl', ['req', '-x509', ...kind, ...subject, ...files], { stdio: 'ignore' });
  const port = await freePort();
  writeFileSync(
    join(dir, 'nginx.conf'),
    `daemon off; worker_processes 1; pid ${dir}/nginx.pid; error_log ${dir}/error.log;
     user root; events { worker_connections 256; }
     http { access_log off; ${tempPaths(dir)}
       server { listen 127.0.0.1:${port} ssl; root ${dir}/html; keepalive_requests 100000000;
         ssl_certificate ${dir}/cert.pem; ssl_certificate_key ${dir}/key.pem; } }\n`,
  );
  const master = lab.start('nginx', ['-p', dir, '-c', join(dir, 'nginx.conf')]);
  const children = `/proc/${master.pid}/task/${master.pid}/children`;
  const worker = await eventually(
    () => Number(readFileSync(children, 'utf8').split(' ')[0]) || undefined,
  );
  if (worker === undefined) throw new Error(`nginx does not start: ${master.text}`);
  lab.watch(worker);
  return { port, worker, master };
}
