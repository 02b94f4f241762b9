// From the programs of an object and the place that a user named to the hooks that are wanted.
// Pure: no process is looked at here.
import { fail } from '../errors.js';
import type { BpfProgInfo } from '../native.js';

/** The directories that take objects. */
export type AttachDir = 'uprobe' | 'uretprobe' | 'replace' | 'hooks';

/** One hook that is wanted: which program, where, at entry or return. */
export interface HookPlan {
  program: BpfProgInfo;
  /** As a user would write it; resolved in the live process. */
  place: string;
  onReturn: boolean;
}

interface Section {
  kind: 'entry' | 'return' | 'replace' | 'other';
  /** Path of the binary in `uprobe//path:sym`; undefined when the section names none. */
  binary: string | undefined;
  /** `sym+off` part. */
  where: string | undefined;
}

const PROBE = /^(uprobe|kprobe|uretprobe|kretprobe|replace)(?:\.s|\.multi|\.session)?(?:\/(.*))?$/;

const KINDS: Record<string, Section['kind']> = {
  uretprobe: 'return',
  kretprobe: 'return',
  replace: 'replace',
};

/** Reads a SEC() string of libbpf's conventions. */
export function parseSection(section: string): Section {
  const match = PROBE.exec(section);
  if (!match) return { kind: 'other', binary: undefined, where: undefined };
  const kind = KINDS[match[1]!] ?? 'entry';
  const rest = match[2];
  if (rest === undefined || rest === '') return { kind, binary: undefined, where: undefined };
  const colon = rest.lastIndexOf(':');
  if (colon < 0) return { kind, binary: undefined, where: rest };
  return { kind, binary: rest.slice(0, colon), where: rest.slice(colon + 1) };
}

function placeOfSection(program: BpfProgInfo, section: Section): string {
  const { binary, where } = section;
  const name = section.kind === 'replace' ? 'replace' : 'uprobe';
  if (where === undefined || where === '') {
    return fail(
      'EINVAL',
      `${program.name}: its section "${program.section}" names no function (write SEC("${name}//path:function"), or copy the object to ${name}/<function>)`,
    );
  }
  // libbpf also takes a bare library name, and `self` style paths; the place grammar covers both.
  if (binary === undefined || binary === '' || binary === '/proc/self/exe') return where;
  const isLibrary = binary.startsWith('/') || binary.includes('.so');
  return `${isLibrary ? binary : binary}:${where}`;
}

/** What a program in replace/ does not need to say, and what it must not say. */
function planForReplacement(programs: BpfProgInfo[], place: string): HookPlan[] {
  if (programs.length > 1) {
    fail(
      'ENOEXEC',
      `${place}: the object has ${programs.length} programs, a function one result (leave one, or copy it to hooks/ with SEC("replace/FUNCTION") for each)`,
    );
  }
  return programs.map((program) => {
    if (parseSection(program.section).kind === 'return') {
      fail(
        'ENOEXEC',
        `${program.name}: section "${program.section}" is a return probe (want SEC("replace") here)`,
      );
    }
    if (!program.replaces) {
      fail(
        'ENOEXEC',
        `${program.name}: a program of section "${program.section}" has no registers`,
      );
    }
    return { program, place, onReturn: false };
  });
}

function planForPlace(programs: BpfProgInfo[], dir: 'uprobe' | 'uretprobe', place: string) {
  const plans: HookPlan[] = [];
  for (const program of programs) {
    const { kind } = parseSection(program.section);
    if (kind === 'replace') {
      fail(
        'ENOEXEC',
        `${program.name}: section "${program.section}" gives a function's result (copy the object to replace/${place})`,
      );
    }
    if (kind === 'other') {
      fail(
        'ENOEXEC',
        `${program.name}: section "${program.section}" is no function probe (want uprobe, kprobe, uretprobe or kretprobe here)`,
      );
    }
    // One program alone in uretprobe/ means the return, whatever its section says.
    const onReturn = kind === 'return' || (dir === 'uretprobe' && programs.length === 1);
    plans.push({ program, place, onReturn });
  }
  return plans;
}

/** What lies in a program array is called from there, unless its section says where it belongs. */
function isOnlyTail(program: BpfProgInfo, dir: AttachDir): boolean {
  const names = dir === 'hooks' && parseSection(program.section).where !== undefined;
  return program.isTailCalled === true && !names;
}

/**
 * The hooks that an object asks for. Programs in a program array are attached only where they say.
 * @param place what the file is named, for uprobe/ and uretprobe/; unused for hooks/
 * @throws {FsError} ENOEXEC no program or not a probe; EINVAL a section names no place
 */
export function planObject(programs: BpfProgInfo[], dir: AttachDir, place: string): HookPlan[] {
  if (programs.length === 0) fail('ENOEXEC', `${place}: the object has no program`);
  const attached = programs.filter((program) => !isOnlyTail(program, dir));
  if (attached.length === 0) {
    fail('ENOEXEC', `${place}: all its programs lie in a program array (one has to call them)`);
  }
  if (dir === 'replace') return planForReplacement(attached, place);
  if (dir !== 'hooks') return planForPlace(attached, dir, place);
  return attached.map((program) => {
    const section = parseSection(program.section);
    if (section.kind === 'other') {
      fail(
        'EOPNOTSUPP',
        `${program.name}: section "${program.section}" cannot be attached by us (want uprobe//path:function, uretprobe//path:function or replace//path:function)`,
      );
    }
    return {
      program,
      place: placeOfSection(program, section),
      onReturn: section.kind === 'return',
    };
  });
}

/**
 * Functions whose return cannot be followed: they return twice, swap stacks, or look at their own
 * return address. Kept as a table so that the refusal can name the reason.
 */
const NO_RETURN_PROBE: Record<string, string> = {
  setjmp: 'it returns twice',
  _setjmp: 'it returns twice',
  __setjmp: 'it returns twice',
  sigsetjmp: 'it returns twice',
  __sigsetjmp: 'it returns twice',
  vfork: 'it returns twice on one stack',
  __vfork: 'it returns twice on one stack',
  clone: 'it returns on another stack',
  __clone: 'it returns on another stack',
  clone3: 'it returns on another stack',
  __clone3: 'it returns on another stack',
  getcontext: 'it saves its own return address',
  swapcontext: 'it returns on another stack',
  setcontext: 'it does not return',
  makecontext: 'it builds return addresses',
  longjmp: 'it does not return',
  siglongjmp: 'it does not return',
  __longjmp: 'it does not return',
  _longjmp: 'it does not return',
  ____longjmp_chk: 'it does not return',
  dlopen: 'it looks at its return address to find its caller',
  dlmopen: 'it looks at its return address to find its caller',
  dlsym: 'it looks at its return address to find its caller',
  dlvsym: 'it looks at its return address to find its caller',
  _dl_runtime_resolve_xsavec: 'it is not called like a function',
  _dl_runtime_resolve_xsave: 'it is not called like a function',
  _dl_runtime_resolve_fxsave: 'it is not called like a function',
  __restore_rt: 'it is not called like a function',
  _start: 'it is not called like a function',
};

/** Why the return of a function cannot be probed, or undefined when it can. */
export function returnProbeRefusal(symbol: string): string | undefined {
  if (symbol.startsWith('_Unwind_')) return 'it walks the stack that return probes change';
  return Object.hasOwn(NO_RETURN_PROBE, symbol) ? NO_RETURN_PROBE[symbol] : undefined;
}
