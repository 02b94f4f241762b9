// Cases of the public bpf_conformance suite on each engine of build/vm-plugin: what
// scripts/conformance.sh runs. A case is assembler text (`-- asm`, uBPF's syntax) or instructions
// (`-- raw`), maybe memory (`-- mem`), and a result or the word that a refusal has to say.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { assemble } from './ubpf-asm.js';

const plugin = fileURLToPath(new URL('../../build/vm-plugin', import.meta.url));
const ENGINES = ['interp', 'checked', 'jit', 'aot'] as const;

/** A case by its sections; comments and empty lines are gone. */
export function sectionsOf(text: string): Map<string, string[]> {
  const sections = new Map<string, string[]>();
  let lines: string[] = [];
  for (const raw of text.split('\n')) {
    const line = raw.replace(/#.*/, '').trim();
    if (line.startsWith('-- ')) {
      lines = [];
      sections.set(line.slice(3).trim(), lines);
    } else if (line !== '') {
      lines.push(line);
    }
  }
  return sections;
}

const hexOf = (slots: readonly bigint[]) => {
  const bytes = Buffer.alloc(slots.length * 8);
  slots.forEach((slot, i) => {
    bytes.writeBigUInt64LE(BigInt.asUintN(64, slot), i * 8);
  });
  return bytes.toString('hex');
};

/** "" if the engine does what the case says, else what it did. */
function outcomeOf(engine: string, sections: ReadonlyMap<string, string[]>): string {
  const raw = sections.get('raw');
  const slots = raw ? raw.map((word) => BigInt(word)) : assemble(sections.get('asm') ?? []);
  const memory = (sections.get('mem') ?? []).join(' ');
  const args = [memory, '--engine', engine, '--program', hexOf(slots)];
  const { stdout, stderr, status } = spawnSync(plugin, args, { encoding: 'utf8', timeout: 10_000 });
  const error = sections.get('error');
  if (error !== undefined) return status === 0 ? `gives ${stdout.trim()}, and is refused` : '';
  const want = BigInt(sections.get('result')?.[0] ?? '0');
  if (status !== 0) return stderr.trim();
  const got = BigInt(`0x${stdout.trim()}`);
  return got === BigInt.asUintN(64, want) ? '' : `gives ${stdout.trim()}, not ${want.toString(16)}`;
}

/** Runs the directory's cases; the number of those that some engine failed. */
function main(directory: string): number {
  const files = readdirSync(directory).filter((name) => name.endsWith('.data'));
  const passed = new Map<string, number>(ENGINES.map((engine) => [engine, 0]));
  let failures = 0;
  for (const file of files.sort()) {
    const sections = sectionsOf(readFileSync(join(directory, file), 'utf8'));
    for (const engine of ENGINES) {
      let why: string;
      try {
        why = outcomeOf(engine, sections);
      } catch (error) {
        why = `is not understood: ${(error as Error).message}`;
      }
      if (why === '') {
        passed.set(engine, passed.get(engine)! + 1);
      } else {
        failures += 1;
        process.stdout.write(`${file} ${engine}: ${why}\n`);
      }
    }
  }
  for (const [engine, count] of passed) {
    process.stdout.write(`${engine}: ${count} of ${files.length}\n`);
  }
  return failures;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = main(process.argv[2] ?? '.') === 0 ? 0 : 1;
}
