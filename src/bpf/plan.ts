// How to print a value of a BTF type, as a flat program: four u32 words per operation, run on
// record bytes by native/bpf/format_plan.cc and, for tests and map entries, by format.ts.
// Offsets are bytes from the start of the value, inside arrays from the start of the element.
import type { Btf, BtfMember, BtfType } from './btf.js';

/** Operation codes; the same numbers as in native/bpf/format_plan.h. */
export const PlanCode = {
  /** `{`, keys and values until `end`. */
  object: 1,
  /** a: elements (`rest`: to the end of the record), b: bytes of one; body until `end`. */
  array: 2,
  end: 3,
  /** a, b: offset and length of the name in `strings`. */
  key: 4,
  /** a: bytes 1-8, b: 1 if signed. */
  int: 5,
  /** offset: bits; a: bits 1-64, b: 1 if signed. */
  bits: 6,
  bool: 7,
  /** a: bytes (`rest`: to the end of the record); text up to NUL, or hex. */
  chars: 8,
  /** a: bytes | signed << 8, b: word in `tables`: count, then {low, high, name offset, length}. */
  enum: 9,
  /** a: 4 or 8 bytes. */
  float: 10,
  pointer: 11,
  /** a: bytes (`rest`: to the end of the record). */
  hex: 12,
} as const;

/** In place of a length: up to the end of the record. */
export const planRest = 0xffffffff;
/** Deepest nesting of objects and arrays. */
export const planDepthMax = 32;

/** A compiled plan. */
export interface Plan {
  ops: number[];
  tables: number[];
  strings: string;
  /** Bytes of a value; a record may be shorter or longer. */
  sizeBytes: number;
}

const charNames = new Set(['char', 'unsigned char', 'signed char', '__u8', 'u8', 'uint8_t']);
const arrayElementsMax = 4096;

/** Compiles the plan for a type id; id 0 or an unprintable type is `sizeBytes` bytes of hex. */
export function compilePlan(btf: Btf, typeId: number, sizeBytes: number): Plan {
  const compiler = new Compiler(btf, sizeBytes);
  if (typeId === 0) compiler.emit(PlanCode.hex, 0, planRest, 0);
  else compiler.value(typeId, 0, 0);
  return compiler.plan;
}

/** The bytes that native takes: magic, counts, then operations, tables and strings. */
export function encodePlan(plan: Plan): Buffer {
  const strings = Buffer.from(plan.strings, 'latin1');
  const words = [0x4e4c5031, plan.ops.length / 4, plan.tables.length, strings.length];
  words.push(...plan.ops, ...plan.tables);
  const bytes = Buffer.alloc(words.length * 4);
  for (const [i, word] of words.entries()) bytes.writeUInt32LE(word >>> 0, i * 4);
  return Buffer.concat([bytes, strings]);
}

class Compiler {
  readonly plan: Plan;
  private readonly btf: Btf;

  constructor(btf: Btf, sizeBytes: number) {
    this.btf = btf;
    this.plan = { ops: [], tables: [], strings: '', sizeBytes };
  }

  emit(code: number, offset: number, a: number, b: number): void {
    this.plan.ops.push(code, offset, a >>> 0, b >>> 0);
  }

  value(typeId: number, offset: number, depth: number): void {
    const type = this.btf.resolve(typeId);
    if (depth >= planDepthMax) {
      this.emit(PlanCode.hex, offset, this.btf.sizeOf(typeId), 0);
      return;
    }
    switch (type.kind) {
      case 'int':
        if (type.bool) this.emit(PlanCode.bool, offset, type.size, 0);
        else if (type.size > 8) this.emit(PlanCode.hex, offset, type.size, 0);
        else this.emit(PlanCode.int, offset, type.size, type.signed ? 1 : 0);
        break;
      case 'enum':
      case 'enum64':
        this.emit(PlanCode.enum, offset, type.size | (type.signed ? 256 : 0), this.names(type));
        break;
      case 'float':
        if (type.size === 4 || type.size === 8) this.emit(PlanCode.float, offset, type.size, 0);
        else this.emit(PlanCode.hex, offset, type.size, 0);
        break;
      case 'ptr':
        this.emit(PlanCode.pointer, offset, 8, 0);
        break;
      case 'array':
        this.array(type, offset, depth);
        break;
      case 'struct':
      case 'union':
      case 'datasec':
        this.emit(PlanCode.object, offset, 0, 0);
        this.members(type, offset, depth + 1);
        this.emit(PlanCode.end, 0, 0, 0);
        break;
      default:
        this.emit(PlanCode.hex, offset, type.size, 0);
    }
  }

  private array(type: BtfType, offset: number, depth: number): void {
    const element = this.btf.resolve(type.ref);
    const stride = this.btf.sizeOf(type.ref);
    // An array without a length at the end of a struct takes what is left of the record.
    const count = type.count === 0 ? planRest : type.count;
    if (element.kind === 'int' && element.size === 1 && charNames.has(element.name)) {
      this.emit(PlanCode.chars, offset, count, 0);
    } else if (stride === 0 || type.count > arrayElementsMax) {
      this.emit(PlanCode.hex, offset, type.count * stride, 0);
    } else {
      this.emit(PlanCode.array, offset, count, stride);
      this.value(type.ref, 0, depth + 1);
      this.emit(PlanCode.end, 0, 0, 0);
    }
  }

  private members(type: BtfType, offset: number, depth: number): void {
    // Which member of a union is meant is unknown; the first stands for all.
    const members = type.kind === 'union' ? type.members.slice(0, 1) : type.members;
    for (const member of members) {
      const inner = this.btf.resolve(member.type);
      const variable = this.btf.type(member.type);
      const name = member.name || (variable.kind === 'var' ? variable.name : '');
      const isRecord = inner.kind === 'struct' || inner.kind === 'union';
      if (name === '' && isRecord && depth < planDepthMax) {
        this.members(inner, offset + member.bitOffset / 8, depth + 1);
      } else if (inner.kind !== 'func_proto' && variable.kind !== 'func') {
        this.member(name, member, inner, offset, depth);
      }
    }
  }

  private member(
    name: string,
    member: BtfMember,
    inner: BtfType,
    offset: number,
    depth: number,
  ): void {
    this.emit(PlanCode.key, 0, this.string(name), Buffer.byteLength(name));
    if (member.bitSize !== 0) {
      const signed = inner.signed ? 1 : 0;
      this.emit(PlanCode.bits, offset * 8 + member.bitOffset, Math.min(member.bitSize, 64), signed);
    } else {
      this.value(member.type, offset + member.bitOffset / 8, depth);
    }
  }

  private names(type: BtfType): number {
    const start = this.plan.tables.length;
    this.plan.tables.push(type.values.length);
    for (const { name, value } of type.values) {
      const raw = BigInt.asUintN(64, value);
      this.plan.tables.push(Number(raw & 0xffffffffn), Number(raw >> 32n));
      this.plan.tables.push(this.string(name), Buffer.byteLength(name));
    }
    return start;
  }

  // Names are C identifiers; anything else was refused or is kept byte for byte.
  private string(text: string): number {
    const bytes = Buffer.from(text).toString('latin1');
    const known = this.plan.strings.indexOf(bytes);
    if (known >= 0) return known;
    this.plan.strings += bytes;
    return this.plan.strings.length - bytes.length;
  }
}
