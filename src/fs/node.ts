// The words of the tree table: what a row says about a file, and what its handlers get.
import type { NodeKind } from '../native.js';
import type { Caller } from '../types.js';

/** What a handler knows about its request. */
export interface Context {
  /** Path below the mount point, e.g. `/procs/12/uprobe/main`. */
  path: string;
  /** Values of the pattern's `<name>` parts, e.g. `{ pid: '12', fn: 'main' }`. */
  params: Readonly<Record<string, string>>;
  caller: Caller;
  /** Aborted when the caller went away (Ctrl-C), the deadline passed or the process died. */
  signal: AbortSignal;
}

type Awaitable<T> = T | Promise<T>;

/** What a file does. Each handler refuses by throwing an FsError (see `fail`). */
export interface Handlers {
  /** Content of a snapshot, generated or line file that has none published. */
  read?(context: Context): Awaitable<string | Buffer>;
  /**
   * line: all complete lines of one write, without newlines; all or nothing.
   * `replaces` is true for the first lines after `>`, false for `>>` and later lines.
   */
  line?(context: Context, lines: string[], replaces: boolean): Awaitable<void>;
  /** payload: the whole new content. Success arms it; failure leaves the former one in force. */
  commit?(context: Context, data: Buffer): Awaitable<void>;
  /** `rm` of a published or committed name. */
  unlink?(context: Context): Awaitable<void>;
  /** `mv` within the directory; `to` is the new path. */
  rename?(context: Context, to: string): Awaitable<void>;
  /** Is there such a name? Its presence makes the directory ask for names that it does not know. */
  lookup?(context: Context): Awaitable<void>;
  /** Its presence makes `mkdir` possible in the parent directory. */
  mkdir?(context: Context): Awaitable<void>;
  rmdir?(context: Context): Awaitable<void>;
}

/** One row of the table: a file, or a family of files when the pattern has `<name>` parts. */
export interface Row {
  /** `/procs/<pid>/uprobe/<fn>`; also the name of the row's class. */
  pattern: string;
  kind: NodeKind;
  /** Permission bits; by default 0755 for directories, 0644 for writable kinds, 0444 otherwise. */
  mode?: number;
  /** One line for README files, the man page and the listing of the tree. */
  doc: string;
  /** payload, line: EFBIG beyond. stream, log: bytes retained. */
  maxBytes?: number;
  /** Text of a file that never changes, or before anything was published. */
  content?: string;
  /** dir: children are the live processes that the caller may see. */
  listsProcesses?: true;
  handlers?: Handlers;
}
