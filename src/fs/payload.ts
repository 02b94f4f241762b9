// What a payload is, told from its first bytes, before anything expensive looks at it. Pure.
import { fail } from '../errors.js';

/** ELF header facts that decide who handles a payload. */
export interface ElfHeader {
  bits: 32 | 64;
  littleEndian: boolean;
  /** e_type: 1 relocatable, 2 executable, 3 shared. */
  type: number;
  /** e_machine: 62 x86-64, 247 eBPF. */
  machine: number;
}

const EM_X86_64 = 62;
const EM_BPF = 247;
const ELF64_HEADER_BYTES = 64;

/** The header of an ELF file, or undefined for anything else. */
export function readElfHeader(data: Buffer): ElfHeader | undefined {
  if (data.length < 20 || data.readUInt32BE(0) !== 0x7f454c46) return undefined;
  const littleEndian = data[5] === 1;
  const u16 = (at: number) => (littleEndian ? data.readUInt16LE(at) : data.readUInt16BE(at));
  return { bits: data[4] === 2 ? 64 : 32, littleEndian, type: u16(16), machine: u16(18) };
}

/**
 * Accepts what looks like an eBPF object and names what is wrong with anything else.
 * @throws {FsError} ENOEXEC
 */
export function expectBpfObject(what: string, data: Buffer): void {
  const hint = 'compile with clang -g -O2 --target=bpf -c';
  const header = readElfHeader(data);
  if (header === undefined) {
    fail('ENOEXEC', `${what}: not an ELF file, ${data.length} bytes (${hint})`);
  }
  if (header.bits !== 64) fail('ENOEXEC', `${what}: a 32-bit ELF file (${hint})`);
  if (header.machine === EM_X86_64) fail('ENOEXEC', `${what}: an x86-64 object (${hint})`);
  if (!header.littleEndian) {
    fail('ENOEXEC', `${what}: a big-endian object (use --target=bpfel)`);
  }
  if (header.machine !== EM_BPF) {
    fail('ENOEXEC', `${what}: an ELF file for machine ${header.machine}, not eBPF (${hint})`);
  }
  if (header.type !== 1) {
    fail('ENOEXEC', `${what}: not a relocatable object, e_type ${header.type} (${hint})`);
  }
  if (data.length < ELF64_HEADER_BYTES) {
    fail(
      'ENOEXEC',
      `${what}: truncated, ${data.length} bytes of a ${ELF64_HEADER_BYTES} byte header`,
    );
  }
  const sections = Number(data.readBigUInt64LE(40)) + data.readUInt16LE(58) * data.readUInt16LE(60);
  if (sections > data.length) {
    fail('ENOEXEC', `${what}: truncated, ${data.length} of at least ${sections} bytes`);
  }
}
