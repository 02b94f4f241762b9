// `bpftimefs vm run`: a program of an object file in this process, its result and its time.
import { basename } from 'node:path';
import { loadObject } from '../attach/load.js';
import { fail } from '../errors.js';
import { type BpfObjectInfo, type BpfProgInfo, native } from '../native.js';
import { cachedImage, isImage, loadImage } from './vm-compile.js';
import { answered, bytesOf, OBJECT_HINT } from './vm-files.js';

/** What was typed. */
export interface RunArgs {
  object: string;
  program: string | undefined;
  mem: string | undefined;
  repeat: number;
  engine: 'jit' | 'interp' | 'checked' | 'aot';
}

const MEM_BYTES_MAX = 4096; // native/bpf/test_run.cc: a context is a page
const REPEAT_MAX = 1_000_000_000;
const ENGINES = {
  jit: 'machine code',
  interp: 'interpreter',
  checked: 'checked interpreter',
  aot: 'image',
};

/** The program that is meant. @throws {FsError} ENOENT none of that name; ENOTUNIQ which one? */
function programOf(file: string, { programs }: BpfObjectInfo, name?: string): BpfProgInfo {
  const names = programs.map((program) => program.name).join(', ');
  if (name === undefined) {
    const [only, second] = programs;
    if (only === undefined || second !== undefined) {
      fail('ENOTUNIQ', `${file}: has ${programs.length} programs (choose by --program: ${names})`);
    }
    return only;
  }
  const found = programs.find((program) => program.name === name);
  return found ?? fail('ENOENT', `--program ${name}: no such program in ${file} (it has ${names})`);
}

/** The two lines of a result. Pure. */
export function runText(result: bigint, totalNs: bigint, args: RunArgs): string {
  const perRun = (Number(totalNs) / args.repeat).toFixed(1);
  const runs = args.repeat === 1 ? '1 run' : `${args.repeat} runs`;
  const engine = ENGINES[args.engine];
  return `result  ${result} (0x${result.toString(16)})\ntime    ${perRun} ns per run, ${runs}, ${engine}\n`;
}

/** An object file, or the image of one. @throws {FsError} EINVAL an image has no bytecode */
async function load(file: string, bytes: Buffer, engine: string): Promise<BpfObjectInfo> {
  if (isImage(bytes)) {
    if (engine === 'jit' || engine === 'aot') return loadImage(file, bytes);
    fail('EINVAL', `--engine ${engine}: ${file} is machine code (name the object file)`);
  }
  if (engine === 'aot') return (await cachedImage(file, bytes)).loaded;
  return await loadObject(file, bytes, 'hooks', undefined);
}

async function run(args: RunArgs): Promise<string> {
  const { object, program, mem, repeat, engine } = args;
  if (!Number.isInteger(repeat) || repeat < 1 || repeat > REPEAT_MAX) {
    fail('EINVAL', `--repeat ${repeat}: no count of runs (1 to ${REPEAT_MAX})`);
  }
  const bytes = bytesOf(object, OBJECT_HINT);
  const ctx = mem === undefined ? Buffer.alloc(0) : bytesOf(mem, 'what the context begins with');
  if (ctx.length > MEM_BYTES_MAX) {
    fail('E2BIG', `--mem ${mem}: ${ctx.length} bytes, a context has at most ${MEM_BYTES_MAX}`);
  }
  const file = basename(object);
  const loaded = await load(file, bytes, engine);
  const { id } = programOf(file, loaded, program);
  const { result, totalNs } = native.bpfTestRun({
    progId: id,
    ctx,
    engine: engine === 'interp' ? 'interpreter' : engine === 'aot' ? 'jit' : engine,
    repeat,
  });
  return runText(result, totalNs, { ...args, engine: isImage(bytes) ? 'aot' : engine });
}

/** Runs and prints. @returns 0, or 1 with the reason on standard error */
export async function runCommand(args: RunArgs): Promise<number> {
  return await answered(args.object, run(args));
}
