// Part of the native surface (src/native.ts): the virtual machine by itself.

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

/** The virtual machine by itself: nothing is kept or attached. */
export interface NativeVm {
  /** The verifier's answer about each program, or about the one named; on a worker thread. */
  bpfVerify(request: { bytes: Buffer; program?: string }): Promise<ProgramVerdict[]>;
}
