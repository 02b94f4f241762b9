// Compiles test/targets/bpf/NAME.bpf.c and returns the object's bytes.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const sources = fileURLToPath(new URL('../../../test/targets/bpf/', import.meta.url));

/** The bytes of a compiled sample program, e.g. `maps` for test/targets/bpf/maps.bpf.c. */
export function compileBpf(name: string, defines: string[] = []): Buffer {
  const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-bpf-'));
  try {
    const object = join(dir, `${name}.bpf.o`);
    const flags = ['-O2', '-g', '-target', 'bpf', '-D__TARGET_ARCH_x86', ...defines];
    const include = '-I/usr/include/x86_64-linux-gnu';
    execFileSync('clang', [...flags, include, '-c', join(sources, `${name}.bpf.c`), '-o', object]);
    return readFileSync(object);
  } finally {
    rmSync(dir, { recursive: true });
  }
}
