// SHA-256 over the code that a process can execute right now: proof that a detach left no trace.
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** An executable mapping. */
export interface CodeRange {
  start: bigint;
  end: bigint;
  path: string;
}

/** The executable mappings of a process; [vsyscall] cannot be read and is left out. */
export function codeRanges(pid: number): CodeRange[] {
  const ranges: CodeRange[] = [];
  for (const line of readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) ..x. \S+ \S+ \d+ *(.*)$/.exec(line);
    if (!match || match[3] === '[vsyscall]') continue;
    ranges.push({ start: BigInt(`0x${match[1]}`), end: BigInt(`0x${match[2]}`), path: match[3]! });
  }
  return ranges;
}

const CHUNK_BYTES = 1 << 20;

/**
 * One digest over address, length and bytes of every executable mapping.
 * @param wanted leaves mappings out, e.g. those that a JIT of the target itself rewrites
 */
export function codeHash(pid: number, wanted: (range: CodeRange) => boolean = () => true): string {
  const hash = createHash('sha256');
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (const range of codeRanges(pid).filter(wanted)) {
      hash.update(`${range.start}-${range.end}\n`);
      for (let at = range.start; at < range.end; ) {
        const left = range.end - at;
        const size = left < BigInt(CHUNK_BYTES) ? Number(left) : CHUNK_BYTES;
        const got = readSync(fd, chunk, 0, size, at);
        if (got <= 0) throw new Error(`cannot read ${range.path} of ${pid}`);
        hash.update(chunk.subarray(0, got));
        at += BigInt(got);
      }
    }
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex');
}

/**
 * Waits until the code hashes to `want` again: after `rm` the probed code is as before at once, and
 * our own mappings go as soon as no thread sleeps in them. Returns the last digest seen.
 */
export async function codeHashBecomes(
  pid: number,
  want: string,
  wanted?: (range: CodeRange) => boolean,
  timeoutMs = 20_000,
): Promise<string> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const last = digestIfStill(pid, wanted);
    if (last === want || Date.now() > end) return last;
    await sleep(20);
  }
}

/** A mapping that goes away between being listed and being read is no error here. */
function digestIfStill(pid: number, wanted?: (range: CodeRange) => boolean): string {
  try {
    return codeHash(pid, wanted);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EIO') return 'changing';
    throw error;
  }
}
