// What the attach engine is asked for, and who is told of what it does, so that files and streams
// can follow.
import type { FsError } from '../errors.js';
import type { Caller, Pid } from '../types.js';
import type { AttachDir } from './plan.js';
import type { AttachedObject, EnteredProcess, PendingHook } from './state.js';

/** What a `cp` asks for. */
export interface AttachRequest {
  pid: Pid;
  dir: AttachDir;
  /** File name: the place (and tag), or any name in hooks/. */
  name: string;
  path: string;
  bytes: Buffer;
  /** Who asks: the right to touch the process is checked once more when it stands still. */
  caller: Caller;
}

/** Told about every change, so that files and streams can follow. */
export interface AttachObserver {
  attached(process: EnteredProcess, object: AttachedObject): void;
  /** `object` took the place of `former`; maps of one id are one map. */
  replaced(process: EnteredProcess, former: AttachedObject, object: AttachedObject): void;
  detached(process: EnteredProcess, object: AttachedObject): void;
  /** After `detached`: nobody removed the file, the program that it was attached to is gone. */
  lost(process: EnteredProcess, object: AttachedObject): void;
  entered(process: EnteredProcess): void;
  /** A module came or went: the hook is attached or pending now, or was refused. */
  followed(
    process: EnteredProcess,
    hook: PendingHook,
    what: 'attached' | 'pending' | FsError,
  ): void;
  /** A former daemon's object goes on; `bytes` are its file's. */
  adopted(process: EnteredProcess, object: AttachedObject, bytes: Buffer): void;
  /** A file is there that nobody wrote: a child's, or of a program that was executed. */
  appeared(object: AttachedObject, bytes: Buffer): void;
  /** A program was executed, and the object cannot be attached in it. */
  notFollowed(path: string, error: FsError): void;
  /** A former daemon's hooks were taken out, or could not be: why. */
  notAdopted(pid: Pid, reason: string): void;
  /** We are out again, or the process ended (`gone`). */
  left(process: EnteredProcess, gone: boolean): void;
}
