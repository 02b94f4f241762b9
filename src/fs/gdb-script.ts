// procs/<pid>/gdb.py: gdb's half of the balanced exit form (docs/adr/0003-return-probe.md). Where a
// return address had to be replaced, gdb meets a trampoline that it knows nothing of; this teaches
// it where the caller's address is kept. It reads the process only, so it works while gdb has the
// process stopped, on a core file, and when the daemon is gone.
import { readFileSync } from 'node:fs';
import type { ShadowPlace } from '../native.js';

const UNWINDER = new URL('../../../src/fs/gdb-unwinder.py', import.meta.url); // from dist/src/fs/

/** The script for a process; without a place it was never entered, and the script says so. */
export function gdbScript(pid: number, shadows: ShadowPlace | undefined): string {
  if (!shadows) {
    const why = `nothing is attached to process ${pid} yet; source this again when something is`;
    return `print("bpftimefs: ${why}")\n`;
  }
  const { pointer, threads, depth, stackBytes, entriesOffset, entryBytes, hash } = shadows;
  return `SHADOWS_POINTER, HASH = 0x${pointer.toString(16)}, 0x${hash.toString(16)}
THREADS, DEPTH = ${threads}, ${depth}
STACK_BYTES, ENTRIES_AT, ENTRY_BYTES = ${stackBytes}, ${entriesOffset}, ${entryBytes}
${readFileSync(UNWINDER, 'utf8')}`;
}
