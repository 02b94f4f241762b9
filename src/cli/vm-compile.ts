// `bpftimefs vm compile`: an object file as a file of machine code, and the directory where `vm run
// --engine aot` keeps such files by the digest of what they were made from.
import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { basename, join } from 'node:path';
import { loadObject } from '../attach/load.js';
import { FsError, fail, refusalOf } from '../errors.js';
import { type BpfObjectInfo, native } from '../native.js';
import { answered, bytesOf, OBJECT_HINT } from './vm-files.js';

/** The first bytes of an image file (native/vm/image_file.cc). */
const MAGIC = Buffer.from('BPFBVI1\n');

/** What was typed. */
interface CompileArgs {
  object: string;
  output: string | undefined;
}

const digestOf = (bytes: Buffer): Buffer => createHash('sha256').update(bytes).digest();

/** Whether these are the bytes of an image file, whole or not. */
export const isImage = (bytes: Buffer): boolean => bytes.subarray(0, MAGIC.length).equals(MAGIC);

/** The user's directory of images; others may neither read nor write there. */
function cacheDir(): string {
  const base = process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache');
  const dir = join(base, 'bpftimefs', 'images');
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  return dir;
}

/** Ours, and nobody else can write to it. */
function isPrivate(path: string): boolean {
  const { uid, mode } = lstatSync(path);
  return uid === process.getuid?.() && (mode & 0o022) === 0;
}

/** Whoever looks meanwhile sees the former file, or the new one. */
function writeWhole(path: string, bytes: Buffer): void {
  const draft = `${path}.${process.pid}.tmp`;
  writeFileSync(draft, bytes, { mode: 0o600 });
  renameSync(draft, path);
}

async function compile(file: string, bytes: Buffer): Promise<Buffer> {
  const { id } = await loadObject(file, bytes, 'hooks', undefined);
  return native.bpfImageOf(id, digestOf(bytes));
}

/**
 * An image file as a loaded object.
 * @throws {FsError} EINVAL, ESTALE: it is not to be used, and why
 */
export function loadImage(file: string, bytes: Buffer, source?: Buffer): BpfObjectInfo {
  try {
    return source === undefined ? native.bpfLoadImage(bytes) : native.bpfLoadImage(bytes, source);
  } catch (error) {
    const refusal = refusalOf(error, file);
    if (!refusal) throw error;
    throw new FsError(refusal.errno, `${refusal.reason} (compile it anew)`, { cause: error });
  }
}

/**
 * The image of an object file: the one that is kept, or a new one if it is not to be used any more.
 * @returns the loaded image, and whether it was compiled just now
 */
export async function cachedImage(
  file: string,
  bytes: Buffer,
): Promise<{ loaded: BpfObjectInfo; isNew: boolean; path: string }> {
  const source = digestOf(bytes);
  const path = join(cacheDir(), `${source.toString('hex')}.bvi`);
  try {
    if (isPrivate(path)) {
      return { loaded: loadImage(path, readFileSync(path), source), isNew: false, path };
    }
  } catch (error) {
    // None yet, or stale, damaged, of another build: it is replaced.
    const isAbsent = (error as NodeJS.ErrnoException).code === 'ENOENT';
    if (!isAbsent && !(error instanceof FsError)) throw error;
  }
  const image = await compile(file, bytes);
  writeWhole(path, image);
  return { loaded: loadImage(path, image, source), isNew: true, path };
}

function report(path: string, { programs, maps }: BpfObjectInfo, verb: string): string {
  const code = programs.reduce((sum, { jitBytes }) => sum + jitBytes, 0);
  return `${verb}  ${path}: ${programs.length} programs, ${maps.length} maps, ${code} bytes of code\n`;
}

async function run({ object, output }: CompileArgs): Promise<string> {
  const bytes = bytesOf(object, OBJECT_HINT);
  if (isImage(bytes)) fail('EINVAL', `${object}: it is an image already (name the object file)`);
  const file = basename(object);
  if (output === undefined) {
    const { loaded, isNew, path } = await cachedImage(file, bytes);
    return report(path, loaded, isNew ? 'compiled' : 'kept    ');
  }
  const image = await compile(file, bytes);
  try {
    writeWhole(output, image);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'EACCES' && code !== 'EISDIR') throw error;
    fail(code, `--output ${output}: it cannot be written (see ls -ld of its directory)`);
  }
  return report(output, loadImage(output, image), 'compiled');
}

/** Compiles and says what came of it. @returns 0, or 1 with the reason on standard error */
export async function compileCommand(args: CompileArgs): Promise<number> {
  return await answered(args.object, run(args));
}
