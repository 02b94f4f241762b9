// Branded numbers: a process id is not an address is not an offset. No runtime cost.

declare const brand: unique symbol;
type Brand<Base, Name extends string> = Base & { readonly [brand]: Name };

/** Process (thread group) id. */
export type Pid = Brand<number, 'Pid'>;
/** Thread id. */
export type Tid = Brand<number, 'Tid'>;
/** Address in a target process. */
export type Addr = Brand<bigint, 'Addr'>;
/** Offset in a file. */
export type FileOff = Brand<bigint, 'FileOff'>;
/** Index of an eBPF instruction slot. */
export type InsnIndex = Brand<number, 'InsnIndex'>;

/** Names a number as a process id. */
export const asPid = (value: number): Pid => value as Pid;
/** Names a number as a thread id. */
export const asTid = (value: number): Tid => value as Tid;
/** Names a bigint as a target address. */
export const asAddr = (value: bigint): Addr => value as Addr;
/** Names a bigint as a file offset. */
export const asFileOff = (value: bigint): FileOff => value as FileOff;

/** Who made a request. `pid` is a thread group id. */
export interface Caller {
  uid: number;
  gid: number;
  pid: number;
  /** Why the caller, who asks for a change of itself, could not be made to stand still. */
  stuck?: string;
}

/** Says what stands at an address; at a return address: which call comes before it. */
export type DescribeAddress = (addr: bigint, isReturn: boolean) => string;
