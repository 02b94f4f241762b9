// Control files beside a C libfuse server: one client program, rounds that alternate between the
// servers. A sample is the median over the operations of one round. Nothing is pinned: the
// scheduler puts client and server together or apart as it does for users, hence the spread.
import { execFile } from 'node:child_process';
import { copyFileSync, readFileSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type Bench, built } from './bench.js';
import type { Measured } from './stats.js';

const ROUNDS = 21;
const OPERATIONS = 1000;

const run = promisify(execFile);

/** What the client does: see bench/fs-client.c. */
export type FileOp = 'stat' | 'orc';

/** Where the file is: in the root, or in the directory of a process. */
export type FileDepth = 'root' | 'process';

type Server = 'ours' | 'libfuse';

async function clientUs(op: FileOp, path: string, operations = OPERATIONS): Promise<number> {
  const { stdout } = await run(built('fs-client'), [op, path, String(operations)]);
  return Number(stdout.split(' ')[0]);
}

async function pathOf(bench: Bench, server: Server, depth: FileDepth): Promise<string> {
  const mount = await bench.mount();
  if (server === 'ours') {
    return depth === 'root' ? join(mount, 'version') : await bench.proc(process.pid, 'README');
  }
  const version = readFileSync(join(mount, 'version'));
  const rival = await bench.libfuse(version.length);
  return depth === 'root' ? join(rival, 'ctl') : join(rival, 'procs', '1', 'ctl');
}

type Pair = Record<Server, Measured>;
const pairs = new Map<string, Promise<Pair>>();

async function measurePair(bench: Bench, op: FileOp, depth: FileDepth): Promise<Pair> {
  const pair: Pair = { ours: { samples: [] }, libfuse: { samples: [] } };
  for (let i = 0; i < ROUNDS; i++) {
    for (const server of ['ours', 'libfuse'] as const) {
      pair[server].samples.push(await clientUs(op, await pathOf(bench, server, depth)));
    }
  }
  return pair;
}

/** One server's half of a pair; whoever asks first makes both be measured, alternating. */
export const fileTime = (server: Server, op: FileOp, depth: FileDepth) => async (bench: Bench) => {
  const key = `${op} ${depth}`;
  const pair = pairs.get(key) ?? measurePair(bench, op, depth);
  pairs.set(key, pair);
  return (await pair)[server];
};

/** open+read+close of hooks/list of a probed process: content that TypeScript makes at each open. */
export async function generatedFileTime(bench: Bench): Promise<Measured> {
  const target = await bench.start('target', ['-1']);
  const file = await bench.proc(target.pid, 'uprobe', 'f_push');
  copyFileSync(built('entry-empty.bpf.o'), file);
  const samples: number[] = [];
  const list = await bench.proc(target.pid, 'hooks', 'list');
  for (let i = 0; i < ROUNDS; i++) samples.push(await clientUs('orc', list, OPERATIONS / 2));
  unlinkSync(file);
  await target.end();
  return { samples };
}
