// From a request of the kernel to a handler of a row, and from what the handler threw to an errno:
// the one catch block. Nothing a handler does can bring the daemon down.
import { errnoNumber, FsError, fail, refusalOf } from '../errors.js';
import { type FuseRequest, type NativeError, native } from '../native.js';
import type { ControlFs } from './control-fs.js';
import { splitLines } from './line.js';
import type { Context, Row } from './node.js';
import { paramsOf } from './tree.js';

/** Operations that change something: they are audited and settle `last_error`. */
const CHANGES: readonly string[] = ['line', 'commit', 'unlink', 'rename', 'mkdir', 'rmdir'];

/** The name that users' tools probe by themselves; its absence is no error worth keeping. */
const isProbe = (path: string) => path.slice(path.lastIndexOf('/') + 1).startsWith('.');

/** Answers the requests of one mount. */
export class Dispatcher {
  readonly #fs: ControlFs;
  readonly #running = new Map<number, AbortController>();

  constructor(fs: ControlFs) {
    this.#fs = fs;
  }

  /** Starts to answer one request; never throws. */
  handle(request: FuseRequest): void {
    if (request.op === 'cancel') {
      this.#running.get(request.id)?.abort(new FsError('ECANCELED', `${request.path}: given up`));
      return;
    }
    void this.#answer(request);
  }

  async #answer(request: FuseRequest): Promise<void> {
    const controller = new AbortController();
    this.#running.set(request.id, controller);
    const stuck = await this.#hold(request);
    let reply: { errno: number; data?: Buffer } = { errno: 0 };
    try {
      const data = await this.#run(request, controller.signal, stuck);
      if (CHANGES.includes(request.op)) this.#fs.errors.recordSuccess(request);
      if (data !== undefined) reply = { errno: 0, data };
    } catch (error) {
      const refusal = refusalOf(error, request.path) ?? this.#reportBug(request, error);
      if (request.op !== 'lookup' || !isProbe(request.path)) {
        this.#fs.errors.recordFailure(request, refusal);
      }
      reply = { errno: errnoNumber(refusal.errno) };
    } finally {
      this.#running.delete(request.id);
    }
    native.fuseReply(this.#fs.mount, { id: request.id, ...reply });
    if (request.selfTid !== undefined) await native.selfRelease(request.selfTid, reply.errno);
  }

  /** A process that changes itself has to stand still first; why it does not, if it does not. */
  async #hold({ pid, selfTid }: FuseRequest): Promise<string | undefined> {
    // Nobody stops the init process, whatever it writes.
    if (selfTid === undefined || pid === 1) return undefined;
    try {
      await native.selfHold(selfTid);
      return undefined;
    } catch (error) {
      return (error as NativeError).reason;
    }
  }

  #reportBug(request: FuseRequest, error: unknown): FsError {
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.#fs.append('/log', `bug in ${request.op} ${request.path}:\n${stack}\n`);
    const message = error instanceof Error ? error.message : String(error);
    return new FsError('EIO', `${request.path}: ${message} (a bug: the stack is in log)`, {
      cause: error,
    });
  }

  async #run(
    request: FuseRequest,
    signal: AbortSignal,
    stuck: string | undefined,
  ): Promise<Buffer | undefined> {
    const { tree } = this.#fs;
    const row = request.op === 'lookup' ? tree.lookupRowOf(request.cls) : tree.rowOf(request.cls);
    if (row === undefined) throw new Error(`${request.cls}: no row answers ${request.op}`);
    const context: Context = {
      path: request.path,
      params: paramsOf(row.pattern, request.path),
      caller: {
        uid: request.uid,
        gid: request.gid,
        pid: request.pid,
        ...(stuck === undefined ? {} : { stuck }),
      },
      signal,
    };
    return await runHandler(row, request, context);
  }
}

async function runHandler(
  row: Row,
  request: FuseRequest,
  context: Context,
): Promise<Buffer | undefined> {
  const handlers = row.handlers ?? {};
  switch (request.op) {
    case 'lookup':
      await handlers.lookup?.(context);
      return undefined;
    case 'read':
      return Buffer.from((await handlers.read?.(context)) ?? row.content ?? '');
    case 'line': {
      if (!handlers.line) break;
      const lines = splitLines(request.data ?? Buffer.alloc(0));
      await handlers.line(context, lines, request.truncate ?? false);
      return undefined;
    }
    case 'commit':
      if (!handlers.commit) break;
      if (request.truncate) {
        fail('EFBIG', `${request.path}: over the limit of ${row.maxBytes ?? 0} bytes`);
      }
      await handlers.commit(context, request.data ?? Buffer.alloc(0));
      return undefined;
    case 'rename':
      if (!handlers.rename) break;
      await handlers.rename(context, request.to ?? '');
      return undefined;
    case 'unlink':
    case 'mkdir':
    case 'rmdir': {
      const run = handlers[request.op];
      if (!run) break;
      await run(context);
      return undefined;
    }
    case 'cancel':
      return undefined;
  }
  fail('EPERM', `${request.path}: ${request.op} is not possible here (see README)`);
}
