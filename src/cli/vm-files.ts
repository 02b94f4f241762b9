// Files that the commands of `bpftimefs vm` are given.
import { readFileSync } from 'node:fs';
import { fail, refusalOf } from '../errors.js';

/** What to name where an object file is wanted. */
export const OBJECT_HINT = 'what clang -g -O2 -target bpf -c has made';

/** A file's bytes. @throws {FsError} with what the kernel says of it; `what` is to be named */
export function bytesOf(path: string, what: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') fail('ENOENT', `${path}: no such file (name ${what})`);
    if (code === 'EISDIR') fail('EISDIR', `${path}: a directory (name ${what})`);
    if (code === 'EACCES') fail('EACCES', `${path}: you may not read it (see ls -l)`);
    throw error;
  }
}

/**
 * Prints what a command has to say of an object.
 * @returns its exit status: 0, or 1 with the reason of a refusal on standard error
 */
export async function answered(object: string, answer: Promise<string>): Promise<number> {
  try {
    process.stdout.write(await answer);
    return 0;
  } catch (error) {
    const refusal = refusalOf(error, object);
    if (!refusal) throw error;
    process.stderr.write(`bpftimefs: ${refusal.reason}\n`);
    return 1;
  }
}
