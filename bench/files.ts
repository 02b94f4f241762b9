// Control files beside a C libfuse server: one client program, rounds that alternate between the
// servers. A sample is the median over the operations of one round. Client and servers share one
// core, which makes rounds repeatable; left alone, the scheduler puts a pair on one core or on two
// from round to round, and the figures have two modes. The rows named `free` show that.
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

/** Which cores client and servers may use. */
export type Placement = 'one core' | 'free';

/** One operation on one file. */
export interface FileSpec {
  op: FileOp;
  depth: FileDepth;
  placement: Placement;
}

type Server = 'ours' | 'libfuse';

async function clientUs(
  op: FileOp,
  path: string,
  cpuList: string,
  operations = OPERATIONS,
): Promise<number> {
  const args = ['-c', cpuList, built('fs-client'), op, path, String(operations)];
  const { stdout } = await run('taskset', args);
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

async function measurePair(bench: Bench, spec: FileSpec): Promise<Pair> {
  const { op, depth, placement } = spec;
  const pair: Pair = { ours: { samples: [] }, libfuse: { samples: [] } };
  const paths = {
    ours: await pathOf(bench, 'ours', depth),
    libfuse: await pathOf(bench, 'libfuse', depth),
  };
  const cpuList = placement === 'free' ? bench.allCpus : String(bench.cpu);
  bench.placeServers(cpuList);
  for (let i = 0; i < ROUNDS; i++) {
    for (const server of ['ours', 'libfuse'] as const) {
      pair[server].samples.push(await clientUs(op, paths[server], cpuList));
    }
  }
  bench.placeServers(bench.allCpus);
  return pair;
}

/** One server's half of a pair; whoever asks first makes both be measured, alternating. */
export const fileTime = (server: Server, spec: FileSpec) => async (bench: Bench) => {
  const key = JSON.stringify(spec);
  const pair = pairs.get(key) ?? measurePair(bench, spec);
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
  bench.placeServers(String(bench.cpu));
  for (let i = 0; i < ROUNDS; i++) {
    samples.push(await clientUs('orc', list, String(bench.cpu), OPERATIONS / 2));
  }
  bench.placeServers(bench.allCpus);
  unlinkSync(file);
  await target.end();
  return { samples };
}
