// From the bytes of an object file to loaded programs and maps; what is refused is said in a
// sentence that a person can use.
import { FsError, refusalOf } from '../errors.js';
import { type BpfObjectInfo, type NativeError, native } from '../native.js';
import type { AttachDir } from './plan.js';
import type { AttachedObject } from './state.js';

/**
 * Loads the object of a file called `file` in `dir`. Maps of `former`, the object that it
 * replaces, that are of one make with its own become its own.
 * @throws {FsError} ENOEXEC it is none, or was refused; EFBIG, ENOSPC
 */
export async function loadObject(
  file: string,
  bytes: Buffer,
  dir: AttachDir,
  former: AttachedObject | undefined,
): Promise<BpfObjectInfo> {
  const name = objectName(file);
  try {
    return await native.bpfLoad({
      name,
      bytes,
      asReplacement: dir === 'replace',
      ...(former && { replaces: former.info.id }),
    });
  } catch (error) {
    const { log } = error as NativeError;
    const refusal = refusalOf(error, file);
    if (!refusal) throw error;
    const { reason, story } = log ? told(log) : { reason: undefined, story: [] };
    const detail = reason === undefined ? hintFor(refusal) : `: ${reason}`;
    throw new FsError(refusal.errno, refusal.reason + detail, { cause: error, story });
  }
}

/** Loads the bytes of a file again over the maps with which they once were loaded. */
export async function reloadObject(
  file: string,
  bytes: Buffer,
  dir: AttachDir,
  adopts: number[],
): Promise<BpfObjectInfo> {
  const asReplacement = dir === 'replace';
  return await native.bpfLoad({ name: objectName(file), bytes, adopts, asReplacement });
}

/** What to do about bytes that are no object of ours, where the sentence does not say it. */
function hintFor({ errno, reason }: FsError): string {
  const isSaid = errno !== 'ENOEXEC' || reason.includes('clang');
  return isSaid ? '' : ' (compile with clang -g -O2 -target bpf -c)';
}

/**
 * What a person needs of libbpf's log: the last word on the program, and the path that led there;
 * else libbpf's first.
 */
function told(log: string): { reason: string; story: string[] } {
  const lines = log.trimEnd().split('\n');
  const begin = lines.findIndex((line) => line.includes('-- BEGIN PROG LOAD LOG --'));
  const end = lines.findIndex((line) => line.includes('-- END PROG LOAD LOG --'));
  if (end <= 0) return { reason: lines[0] ?? '', story: [] };
  const program = /prog '([^']*)'/.exec(lines[0] ?? '')?.[1];
  return {
    reason: `${program === undefined ? '' : `program ${program}, `}${lines[end - 1]}`,
    story: begin < 0 ? [] : lines.slice(begin + 1, end - 1),
  };
}

/** libbpf names internal maps after the object; keep it short and plain. */
function objectName(file: string): string {
  return (
    file
      .replace(/\.bpf\.o$|\.o$/, '')
      .replace(/[^A-Za-z0-9_]/g, '_')
      .slice(0, 15) || 'object'
  );
}
