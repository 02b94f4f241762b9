// Errors: an errno and a sentence, made in one place. `fail()` is how every layer refuses; only
// src/fs/dispatch.ts turns an FsError into the errno of a reply.
import { constants } from 'node:os';

/** The vocabulary: what each errno means to a user of the file system. */
export const errnoMeaning = {
  ESRCH: 'the process is gone',
  ESTALE: 'it is another process or another build now',
  ENOENT: 'no such symbol, call, map or name',
  ENOTUNIQ: 'several candidates',
  EINVAL: 'bad verb or value',
  ENOEXEC: 'not an object of ours, an unresolved symbol, or a program that was refused',
  EBUSY: 'a thread is inside, or another owner holds the site',
  ETIMEDOUT: 'it did not happen in time',
  EOPNOTSUPP: 'the site cannot take a jump, or the target cannot be entered',
  ENOSPC: 'no room',
  EDQUOT: 'over a limit of the policy',
  E2BIG: 'over a documented limit',
  EFBIG: 'over a documented size',
  EACCES: 'the caller may not do this',
  EPERM: 'this is not allowed to anybody',
  EEXIST: 'it is there already',
  EISDIR: 'it is a directory',
  ENOTDIR: 'it is no directory',
  ENOTEMPTY: 'the directory is not empty',
  EXDEV: 'across directories',
  EROFS: 'it is locked',
  ECANCELED: 'the caller went away',
  EINTR: 'interrupted',
  EIO: 'a bug of ours: the stack is in the log',
} as const;

/** An errno name of the vocabulary. */
export type Errno = keyof typeof errnoMeaning;

/** Where in a line of input the mistake is. */
export interface Offence {
  /** The line as the user wrote it, without its newline. */
  line: string;
  /** Zero-based column of the caret. */
  column: number;
}

interface FsErrorOptions {
  cause?: unknown;
  offence?: Offence;
  story?: readonly string[];
}

/** A refusal that the user sees: errno from the system call, reason in `last_error`. */
export class FsError extends Error {
  readonly errno: Errno;
  /** One sentence: `what: why (what to do)`. */
  readonly reason: string;
  /** The offending line of a text file, if any. */
  readonly offence: Offence | undefined;
  /** Further lines for `error_log`: how it came to that. */
  readonly story: readonly string[];

  constructor(errno: Errno, reason: string, options: FsErrorOptions = {}) {
    super(`${errno}: ${reason}`, options.cause === undefined ? {} : { cause: options.cause });
    this.name = 'FsError';
    this.errno = errno;
    this.reason = reason;
    this.offence = options.offence;
    this.story = options.story ?? [];
  }
}

/**
 * Refuses: `fail('ENOENT', 'ssl_wirte: no such function in nginx (did you mean SSL_write)')`.
 * Lower case, no full stop, quotes the user's own word, gives the number.
 * @throws {FsError} always
 */
export function fail(
  errno: Errno,
  reason: string,
  options: { cause?: unknown; offence?: Offence } = {},
): never {
  throw new FsError(errno, reason, options);
}

const isErrno = (name: string): name is Errno => Object.hasOwn(errnoMeaning, name);

/** Numbers that node's own table lacks (include/uapi/asm-generic/errno.h). */
const LINUX_ERRNO: Readonly<Record<string, number>> = { ...constants.errno, ENOTUNIQ: 76 };

/** The kernel's number for an errno name; EIO's for an unknown one. */
export function errnoNumber(errno: string): number {
  return LINUX_ERRNO[errno] ?? constants.errno.EIO;
}

/** Limits of a process or of the machine: descriptors, address space, memory. */
const EXHAUSTED: readonly string[] = ['EMFILE', 'ENFILE', 'ENOMEM'];

/**
 * A native or system error (it has `code`) as a refusal about `what`; undefined when the code is
 * not in the vocabulary: then it is a bug.
 */
export function refusalOf(error: unknown, what: string): FsError | undefined {
  if (error instanceof FsError) return error;
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') {
    return undefined;
  }
  // What the kernel calls differently is one thing to users: something is full.
  const code = EXHAUSTED.includes(error.code) ? 'ENOSPC' : error.code;
  if (!isErrno(code)) return undefined;
  const reason = 'reason' in error ? String(error.reason) : error.message;
  const detail = code === error.code ? '' : ` (${error.code})`;
  return new FsError(code, `${what}: ${reason}${detail}`, { cause: error });
}
