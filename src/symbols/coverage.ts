// Which functions of a module take a probe, and why the others do not: asked of the planner that
// attaches, once a file.
import { stat } from 'node:fs/promises';
import { COVERAGE_FILES_MAX, DEBUG_ROOT } from '../config.js';
import { native } from '../native.js';
import type { ModuleCoverage } from '../native-symbols.js';
import { type Module, modulePathForUs } from '../process/modules.js';
import type { Pid } from '../types.js';

/** The planner's reasons (native/rewrite) as words for programs. */
const CODES: Readonly<Record<string, string>> = {
  'a branch of the function goes into the first bytes': 'branch_inside',
  'other code jumps into the first bytes': 'branch_from_outside',
  'a branch inside the first bytes goes forward within them': 'branch_forward',
  'a jump table of the function could not be read': 'jump_unknown',
  'part of the function cannot be decoded, so a branch may be hidden': 'undecodable',
  'the bytes cannot be decoded': 'undecodable',
  'first instruction cannot be decoded': 'undecodable',
  'the function is shorter than a jump and no padding follows it': 'short',
  'other code follows the exit in the first five bytes': 'early_exit',
  'a breakpoint is set there by somebody else': 'breakpoint',
  'an indirect call in the first bytes returns into them': 'indirect_call',
  'an indirect call through the stack pointer cannot be moved': 'indirect_call',
  'xbegin cannot be moved': 'xbegin',
  'a 16-bit relative operand cannot be moved': 'relative16',
  'an operand is further than 2 GiB from the trampoline': 'out_of_reach',
};

/** A planner's reason as one word; `other` for those that no table has. */
export const codeOfRefusal = (reason: string): string => CODES[reason] ?? 'other';

const known = new Map<string, Promise<ModuleCoverage>>();

/**
 * Coverage of a mapped module.
 * @throws {NativeError} ENOEXEC, EFBIG, or what opening its file says
 */
export async function coverageOf(pid: Pid, module: Module): Promise<ModuleCoverage> {
  const path = modulePathForUs(pid, module);
  const st = await stat(path, { bigint: true });
  const key = `${st.dev}:${st.ino}:${st.size}:${st.mtimeNs}`;
  const there = known.get(key);
  if (there !== undefined) return await there;
  const reading = native.coverageRead(path, DEBUG_ROOT);
  known.set(key, reading);
  reading.catch(() => known.delete(key));
  const oldest = known.size > COVERAGE_FILES_MAX ? known.keys().next().value : undefined;
  if (oldest !== undefined) known.delete(oldest);
  return await reading;
}

/** How many functions were refused, by code, most first. */
export function refusalsByCode(coverage: ModuleCoverage): [string, number][] {
  const counts = new Map<string, number>();
  for (const { reason } of coverage.refused) {
    const code = codeOfRefusal(reason);
    counts.set(code, (counts.get(code) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1]);
}

/** Functions that take a probe, in per cent with two decimals. */
export function percentCovered({ functions, refused }: ModuleCoverage): string {
  return functions === 0 ? '-' : ((100 * (functions - refused.length)) / functions).toFixed(2);
}
