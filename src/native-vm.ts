// Part of the native surface (src/native.ts): the virtual machine by itself.
import type { BpfObjectInfo } from './native.js';

/** What the verifier says of a program (native/bpf/verify_object.h). */
export interface ProgramVerdict {
  name: string;
  section: string;
  insnCount: number;
  /** Undefined: accepted. Else the errno name, and what is wrong. */
  code?: string;
  insn: number;
  reason: string;
  /** "file.c:12 `source`", or empty. */
  where: string;
  path: string[];
  /** Instructions that were walked, over all paths; states that were kept; CPU time. */
  walked: number;
  states: number;
  timeUs: number;
}

/** One program, run in this process over a context of its own. */
export interface TestRun {
  progId: number;
  /** Copied to the front of a zeroed context; at most a page. */
  ctx: Buffer;
  engine: 'jit' | 'interpreter' | 'checked';
  /** How often; 1 if it is not given. */
  repeat?: number;
}

/** What the last of them returned, and what all took together, by the monotonic clock. */
export interface TestRunResult {
  result: bigint;
  totalNs: bigint;
}

/** The virtual machine by itself: nothing is kept or attached. */
export interface NativeVm {
  /** The verifier's answer about each program, or about the one named; on a worker thread. */
  bpfVerify(request: { bytes: Buffer; program?: string }): Promise<ProgramVerdict[]>;
  /** The bytes of an image file of a loaded object; `source` is the SHA-256 of its object file. */
  bpfImageOf(objectId: number, source: Buffer): Buffer;
  /**
   * An image file as a loaded object, with new maps.
   * @throws EINVAL it is none, or damaged, or of another build or processor; ESTALE: made from
   * something else than `source`
   */
  bpfLoadImage(bytes: Buffer, source?: Buffer): BpfObjectInfo;
  /** BPF_PROG_TEST_RUN. The caller waits. @throws E2BIG, ENOENT, ENOMEM, EFAULT (checked) */
  bpfTestRun(request: TestRun): TestRunResult;
}
