// Runs format plans on bytes: the same text as native/bpf/format_plan.cc, byte for byte.
import { type Plan, PlanCode, planRest } from './plan.js';

/** Output is not extended beyond this many characters: arrays end early. */
const outputMax = 1 << 20;

/** The value as one line of JSON. Fields beyond the end of short bytes are null. */
export function formatValue(plan: Plan, bytes: Buffer): string {
  const run = new Run(plan, bytes);
  run.value(0, 0);
  return run.out;
}

const endsOfPlan = new WeakMap<Plan, Map<number, number>>();

/** For each object or array operation, the index of its end. */
export function planEnds(plan: Plan): Map<number, number> {
  const known = endsOfPlan.get(plan);
  if (known !== undefined) return known;
  const ends = new Map<number, number>();
  const open: number[] = [];
  for (let i = 0; i < plan.ops.length / 4; i++) {
    const code = plan.ops[i * 4];
    if (code === PlanCode.object || code === PlanCode.array) open.push(i);
    if (code === PlanCode.end) ends.set(open.pop() ?? 0, i);
  }
  endsOfPlan.set(plan, ends);
  return ends;
}

/** One operation, its words named. */
export interface PlanOp {
  code: number;
  offset: number;
  a: number;
  b: number;
}

/** Operation `index` of a plan. */
export function planOp(plan: Plan, index: number): PlanOp {
  const [code = 0, offset = 0, a = 0, b = 0] = plan.ops.slice(index * 4, index * 4 + 4);
  return { code, offset, a, b };
}

/** A name of a plan. */
export function planString(plan: Plan, offset: number, length: number): string {
  return Buffer.from(plan.strings.slice(offset, offset + length), 'latin1').toString('utf8');
}

/** Names and values of the enumeration at `table`; values as unsigned 64-bit numbers. */
export function planNames(plan: Plan, table: number): { name: string; raw: bigint }[] {
  const names = [];
  for (let i = 0; i < (plan.tables[table] ?? 0); i++) {
    const at = table + 1 + i * 4;
    const [low = 0, high = 0, offset = 0, length = 0] = plan.tables.slice(at, at + 4);
    names.push({
      name: planString(plan, offset, length),
      raw: (BigInt(high) << 32n) | BigInt(low),
    });
  }
  return names;
}

/** A JSON string; the control characters that JSON wants escaped are, nothing else. */
export function jsonString(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is escaped
  const escaped = text.replace(/["\\\u0000-\u001f]/g, (c) => {
    const short = { '"': '\\"', '\\': '\\\\', '\n': '\\n', '\t': '\\t', '\r': '\\r' }[c];
    return short ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
  return `"${escaped}"`;
}

/** Little-endian bits as an unsigned number. */
export function readBits(bytes: Buffer, bit: number, count: number): bigint {
  let value = 0n;
  const first = Math.floor(bit / 8);
  const last = Math.floor((bit + count - 1) / 8);
  for (let i = last; i >= first; i--) value = (value << 8n) | BigInt(bytes[i] ?? 0);
  return BigInt.asUintN(count, value >> BigInt(bit % 8));
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The text before the first NUL, undefined when it is not printable. */
function printable(bytes: Buffer): string | undefined {
  const end = bytes.indexOf(0);
  try {
    const text = utf8.decode(end < 0 ? bytes : bytes.subarray(0, end));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they make it unprintable
    return /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/.test(text) ? undefined : text;
  } catch {
    return undefined;
  }
}

class Run {
  out = '';
  private readonly plan: Plan;
  private readonly bytes: Buffer;
  private readonly ends: Map<number, number>;

  constructor(plan: Plan, bytes: Buffer) {
    this.plan = plan;
    this.bytes = bytes;
    this.ends = planEnds(plan);
  }

  /** Prints the value at `index`; returns the index behind it. */
  value(index: number, base: number): number {
    const op = planOp(this.plan, index);
    const end = this.ends.get(index) ?? index;
    if (op.code === PlanCode.object) this.object(index, end, base);
    else if (op.code === PlanCode.array) this.array(op, index, base + op.offset);
    else this.out += this.scalar(op, base);
    return end + 1;
  }

  private object(index: number, end: number, base: number): void {
    this.out += '{';
    for (let at = index + 1; at < end; ) {
      const key = planOp(this.plan, at);
      if (at !== index + 1) this.out += ',';
      this.out += `${jsonString(planString(this.plan, key.a, key.b))}:`;
      at = this.value(at + 1, base);
    }
    this.out += '}';
  }

  private array(op: PlanOp, index: number, offset: number): void {
    const left = Math.max(0, this.bytes.length - offset);
    const count = op.a === planRest ? Math.floor(left / op.b) : op.a;
    this.out += '[';
    for (let i = 0; i < count && this.out.length < outputMax; i++) {
      if (i !== 0) this.out += ',';
      this.value(index + 1, offset + i * op.b);
    }
    this.out += ']';
  }

  private clip(offset: number, size: number): Buffer {
    return this.bytes.subarray(offset, size === planRest ? undefined : offset + size);
  }

  private scalar(op: PlanOp, base: number): string {
    const offset = base + (op.code === PlanCode.bits ? 0 : op.offset);
    if (op.code === PlanCode.hex) return `"0x${this.clip(offset, op.a).toString('hex')}"`;
    if (op.code === PlanCode.chars) return this.chars(op, offset);
    if (op.code === PlanCode.bits) {
      const bit = base * 8 + op.offset;
      if (bit + op.a > this.bytes.length * 8) return 'null';
      return number(readBits(this.bytes, bit, op.a), op.a, op.b !== 0);
    }
    const size = op.code === PlanCode.pointer ? 8 : op.a & 255;
    if (offset + size > this.bytes.length) return 'null';
    const raw = readBits(this.bytes, offset * 8, size * 8);
    switch (op.code) {
      case PlanCode.int:
        return number(raw, size * 8, op.b !== 0);
      case PlanCode.bool:
        return raw !== 0n ? 'true' : 'false';
      case PlanCode.pointer:
        return `"0x${raw.toString(16)}"`;
      case PlanCode.enum:
        return this.enumeration(op, raw, size * 8);
      default: {
        const value = size === 4 ? this.bytes.readFloatLE(offset) : this.bytes.readDoubleLE(offset);
        return Number.isFinite(value) ? String(value) : 'null';
      }
    }
  }

  private chars(op: PlanOp, offset: number): string {
    const all = this.clip(offset, op.a);
    if (all.length === 0 && op.a !== 0 && op.a !== planRest) return 'null';
    const text = printable(all);
    return text === undefined ? `"0x${all.toString('hex')}"` : jsonString(text);
  }

  private enumeration(op: PlanOp, raw: bigint, bits: number): string {
    const signed = (op.a & 256) !== 0;
    const value = signed ? BigInt.asUintN(64, BigInt.asIntN(bits, raw)) : raw;
    const known = planNames(this.plan, op.b).find((entry) => entry.raw === value);
    return known === undefined ? number(raw, bits, signed) : jsonString(known.name);
  }
}

function number(raw: bigint, bits: number, signed: boolean): string {
  return String(signed ? BigInt.asIntN(bits, raw) : raw);
}
