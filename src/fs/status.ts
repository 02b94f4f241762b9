// What the daemon says about itself: `last_error`, `error_log`, `log`, `status`, `version`. All of
// it is published, so that it can be read while JavaScript is busy.
import { readFileSync } from 'node:fs';
import {
  ERROR_HISTORY_PROCESSES,
  ERROR_LOG_ENTRIES,
  LOG_RETAINED_BYTES,
  PROCESS_LOG_RETAINED_BYTES,
  STATUS_REFRESH_MS,
  STREAM_RETAINED_BYTES,
} from '../config.js';
import type { FsError } from '../errors.js';
import { type FuseRequest, native } from '../native.js';
import { asPid } from '../types.js';
import type { ControlFs } from './control-fs.js';
import { keyedLines, oneLine, timestamp } from './format.js';
import { caretLines } from './line.js';
import type { Row } from './node.js';

type Subject = Pick<FuseRequest, 'op' | 'path' | 'uid' | 'pid' | 'data'>;

const packageUrl = new URL('../../../package.json', import.meta.url);
/** The version of package.json. */
export const VERSION: string = JSON.parse(readFileSync(packageUrl, 'utf8')).version;

const processOf = (path: string): string | undefined => /^\/procs\/(\d+)\//.exec(path)?.[1];

// A pid may be another process tomorrow: its history must not be inherited.
function startTicksOf(pid: string): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

/** The error history of the whole mount and of each process. */
export class ErrorBook {
  readonly #fs: ControlFs;
  readonly #entries = new Map<string, string[]>();

  constructor(fs: ControlFs) {
    this.#fs = fs;
  }

  /** A change was made: audit it, and `last_error` is `ok` again. */
  recordSuccess(request: Subject): void {
    this.#audit(request, 'ok');
    for (const scope of this.#scopes(request.path)) {
      if (this.#fs.tree.rowOf(scope.cls('last_error'))) {
        this.#fs.publish(`${scope.dir}/last_error`, scope.cls('last_error'), 'ok\n');
      }
    }
  }

  /** Something changed that nobody asked for just now: it is audited. */
  recordChange(subject: Subject, result: string): void {
    this.#audit(subject, result);
  }

  /** Something was refused: both books get the sentence. */
  recordFailure(request: Subject, error: FsError): void {
    const reason = oneLine(error.reason);
    const line = `${timestamp()} ${oneLine(request.path)} ${error.errno} ${reason}\n`;
    const entry = `[${line.slice(0, 24)}] uid=${request.uid} pid=${request.pid}${line.slice(24)}`;
    const caret = error.offence ? caretLines(error.offence.line, error.offence.column) : '';
    const story = error.story.map((told) => `  ${oneLine(told)}\n`).join('');
    const told = `${line.slice(24)}${caret}${story}`;
    // Who looks again and again for what is not there must not fill the books.
    const isAgain = (one: string) => request.op === 'lookup' && one.endsWith(told);
    if (!this.#entries.get('')?.some(isAgain)) this.#audit(request, `${error.errno} ${reason}`);
    for (const scope of this.#scopes(request.path)) {
      this.#fs.publish(`${scope.dir}/last_error`, scope.cls('last_error'), line);
      const entries = this.#history(scope.key);
      const earlier = entries.findIndex(isAgain);
      if (earlier >= 0) entries.splice(earlier, 1);
      entries.push(entry + caret + story);
      if (entries.length > ERROR_LOG_ENTRIES) entries.shift();
      this.#fs.publish(`${scope.dir}/error_log`, scope.cls('error_log'), entries.join(''));
    }
  }

  /** `echo > error_log` forgets. */
  clear(path: string): void {
    const dir = path.slice(0, path.lastIndexOf('/'));
    const scope = this.#scopes(`${dir}/error_log`).find((candidate) => candidate.dir === dir);
    if (scope === undefined) return;
    this.#entries.delete(scope.key);
    this.#fs.publish(path, scope.cls('error_log'), '');
  }

  #scopes(path: string): { key: string; dir: string; cls: (name: string) => string }[] {
    const scopes = [{ key: '', dir: '', cls: (name: string) => `/${name}` }];
    const pid = processOf(path);
    if (pid !== undefined && this.#fs.tree.rowOf('/procs/<pid>/error_log')) {
      const key = `${pid}:${startTicksOf(pid)}`;
      const cls = (name: string) => `/procs/<pid>/${name}`;
      scopes.push({ key, dir: `/procs/${pid}`, cls });
    }
    return scopes.filter((scope) => this.#fs.tree.rowOf(scope.cls('error_log')));
  }

  #history(key: string): string[] {
    const entries = this.#entries.get(key) ?? [];
    this.#entries.delete(key);
    this.#entries.set(key, entries);
    for (const oldest of this.#entries.keys()) {
      if (this.#entries.size <= ERROR_HISTORY_PROCESSES) break;
      if (oldest !== '') this.#entries.delete(oldest);
    }
    return entries;
  }

  #audit(request: Subject, result: string): void {
    const size = request.data === undefined ? '' : ` ${request.data.length}B`;
    const what = `${request.op} ${oneLine(request.path)}${size}`;
    const line = `${timestamp()} uid=${request.uid} pid=${request.pid} ${what} ${result}\n`;
    this.#fs.append('/log', line);
    const pid = processOf(request.path);
    if (pid !== undefined && this.#fs.tree.rowOf('/procs/<pid>/log')) {
      this.#fs.append(`/procs/${pid}/log`, line);
    }
  }
}

const errorRows = (fs: ControlFs, dir: string): Row[] => [
  {
    pattern: `${dir}/last_error`,
    kind: 'snapshot',
    doc: 'ok, or the time, path, errno and reason of the last failure',
    content: 'ok\n',
  },
  {
    pattern: `${dir}/error_log`,
    kind: 'line',
    doc: `the last ${ERROR_LOG_ENTRIES} failures, with a caret or the path that led there; any write clears it`,
    content: '',
    handlers: { line: ({ path }) => fs.errors.clear(path) },
  },
];

/** The rows of the root directory. */
export function rootRows(fs: ControlFs): Row[] {
  return [
    {
      pattern: '/',
      kind: 'dir',
      doc: 'bpftimefs: a file system for live processes; begin with cat procs/self/README',
    },
    {
      pattern: '/version',
      kind: 'snapshot',
      doc: 'version of the daemon',
      content: `${VERSION}\n`,
    },
    { pattern: '/status', kind: 'snapshot', doc: 'the daemon in `key value` lines' },
    ...errorRows(fs, ''),
    {
      pattern: '/log',
      kind: 'log',
      doc: 'one line per change: time, uid, pid, what, result',
      maxBytes: LOG_RETAINED_BYTES,
    },
    {
      pattern: '/events',
      kind: 'stream',
      doc: 'what all traced processes say, as JSON lines; blocks, poll works',
      maxBytes: STREAM_RETAINED_BYTES,
    },
  ];
}

/** The directory of processes, and what each process has whatever is done to it. */
export function processBaseRows(fs: ControlFs): Row[] {
  return [
    {
      pattern: '/procs',
      kind: 'dir',
      doc: 'live processes that you may trace, by pid',
      listsProcesses: true,
    },
    { pattern: '/procs/self', kind: 'symlink', doc: 'the process that looks' },
    {
      pattern: '/procs/<pid>',
      kind: 'dir',
      doc: 'one live process',
      handlers: { lookup: (context) => fs.gone.refuse(asPid(Number(context.params['pid']))) },
    },
    ...errorRows(fs, '/procs/<pid>'),
    {
      pattern: '/procs/<pid>/log',
      kind: 'log',
      doc: 'one line per change to this process: time, uid, pid, what, result',
      maxBytes: PROCESS_LOG_RETAINED_BYTES,
    },
    {
      pattern: '/procs/<pid>/events',
      kind: 'stream',
      doc: 'what programs in this process say, as JSON lines; blocks, poll works',
      maxBytes: STREAM_RETAINED_BYTES,
    },
  ];
}

/** Keeps `status` fresh. @returns a function that ends it */
export function startStatus(fs: ControlFs): () => void {
  const started = Date.now();
  fs.addStatus('version', () => VERSION);
  fs.addStatus('pid', () => process.pid);
  fs.addStatus('uptime_s', () => Math.floor((Date.now() - started) / 1000));
  fs.addStatus('requests', () => native.fuseStats(fs.mount).requests);
  fs.addStatus('open_files', () => native.fuseStats(fs.mount).openFiles);
  fs.addStatus('pending_requests', () => native.fuseStats(fs.mount).pendingRequests);
  const refresh = () => {
    if (fs.mount !== 0) fs.publish('/status', '/status', keyedLines(fs.statusEntries()));
  };
  refresh();
  const timer = setInterval(refresh, STATUS_REFRESH_MS);
  timer.unref();
  return () => clearInterval(timer);
}
