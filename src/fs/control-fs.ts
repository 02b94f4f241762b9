// ControlFs: the mounted tree as the rest of the daemon sees it: publish, append, count, unmount.
// Rows are built against it before it is mounted; their handlers run afterwards.
import { REQUEST_DEADLINE_MS } from '../config.js';
import { refusalOf } from '../errors.js';
import { native } from '../native.js';
import { Dispatcher } from './dispatch.js';
import { Gone } from './gone.js';
import type { Row } from './node.js';
import { ErrorBook } from './status.js';
import { buildTree, type Tree } from './tree.js';

/** Adds rows (with handlers that use `fs`) to the tree. */
export type RowsFactory = (fs: ControlFs) => Row[];

/** How to mount. */
export interface MountOptions {
  mountpoint: string;
  allowOther?: boolean;
  /** Milliseconds; REQUEST_DEADLINE_MS unless given. */
  deadlineMs?: number;
}

/** A counter of the `status` file: read when the file is refreshed. */
export type StatusValue = () => string | number | bigint;

/** One mounted (or about to be mounted) control file system. */
export class ControlFs {
  readonly tree: Tree;
  readonly errors: ErrorBook;
  readonly gone = new Gone();
  readonly #status = new Map<string, StatusValue>();
  #mount = 0;
  #mountpoint = '';
  readonly #starters: (() => Promise<void>)[] = [];
  readonly #closers: (() => Promise<void>)[] = [];

  constructor(factories: readonly RowsFactory[]) {
    this.errors = new ErrorBook(this);
    this.tree = buildTree(factories.flatMap((factory) => factory(this)));
  }

  /** The mount's number for native calls (`find_stream`), 0 before and after. */
  get mount(): number {
    return this.#mount;
  }

  /** Where it is mounted; empty before. */
  get mountpoint(): string {
    return this.#mountpoint;
  }

  /**
   * Mounts and serves.
   * @throws {FsError} ENOENT, EBUSY, EPERM, ... with a reason
   */
  start(options: MountOptions): void {
    const dispatcher = new Dispatcher(this);
    this.#mountpoint = options.mountpoint;
    try {
      this.#mount = native.fuseMount(
        {
          mountpoint: options.mountpoint,
          allowOther: options.allowOther ?? false,
          root: '/',
          classes: this.tree.classes,
          deadlineMs: options.deadlineMs ?? REQUEST_DEADLINE_MS,
        },
        (request) => dispatcher.handle(request),
      );
    } catch (error) {
      throw refusalOf(error, options.mountpoint) ?? error;
    }
  }

  /** Runs `callback` when the mount ended from outside. */
  onEnd(callback: () => void): void {
    native.fuseOnEnd(this.#mount, callback);
  }

  /** Runs `action` once it is mounted, before `started` resolves. */
  afterStart(action: () => Promise<void>): void {
    this.#starters.push(action);
  }

  /** Resolves when everything is in place that was there before. */
  async started(): Promise<void> {
    for (const start of this.#starters.splice(0)) await start();
  }

  /** Runs `action` before unmounting, while files are still served. */
  beforeStop(action: () => Promise<void>): void {
    this.#closers.push(action);
  }

  /** Unmounts; idempotent. */
  async stop(): Promise<void> {
    for (const close of this.#closers.splice(0)) await close();
    const mount = this.#mount;
    this.#mount = 0;
    if (mount !== 0) await native.fuseUnmount(mount);
  }

  /**
   * Creates a file or directory, or gives it new content. The class is the row's pattern.
   * @returns false when its parent is gone (the process died): nothing to tell anybody
   */
  publish(path: string, cls: string, content?: string | Buffer): boolean {
    const node = { path, cls };
    return this.#reaches(() =>
      native.fusePublish(
        this.#mount,
        content === undefined ? node : { ...node, content: Buffer.from(content) },
      ),
    );
  }

  /** Removes what was published at `path` and everything below it; false when it was gone. */
  unpublish(path: string): boolean {
    return this.#reaches(() => native.fuseUnpublish(this.#mount, path));
  }

  /** Appends whole lines to a stream or log; false when its process is gone. */
  append(path: string, text: string): boolean {
    return this.#reaches(() => native.fuseAppend(this.#mount, path, Buffer.from(text)));
  }

  /** Adds a line to the `status` file. */
  addStatus(key: string, value: StatusValue): void {
    this.#status.set(key, value);
  }

  /** The `status` file's lines, in order of addition. */
  statusEntries(): [string, string | number | bigint][] {
    return [...this.#status].map(([key, value]) => [key, value()]);
  }

  // ENOENT is the world's business (a process died); everything else is a bug of the caller.
  #reaches(action: () => void): boolean {
    if (this.#mount === 0) return false;
    try {
      action();
      return true;
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false;
      throw error;
    }
  }
}
