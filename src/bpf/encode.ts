// Text values to bytes, by the plan that printed them. Strict: every field is given once, nothing
// is truncated; padding is zero.
import { type PlanOp, planEnds, planNames, planOp, planString } from './format.js';
import { type Plan, PlanCode, planRest } from './plan.js';
import type { TextValue } from './text-value.js';

/** Reports what is wrong with a value; never returns. */
export type Refuse = (reason: string) => never;

/** The bytes of `value`, `plan.sizeBytes` long. */
export function encodeValue(plan: Plan, value: TextValue, refuse: Refuse): Buffer {
  const bytes = Buffer.alloc(plan.sizeBytes);
  new Encoder(plan, bytes, refuse).value(0, 0, value, 'value');
  return bytes;
}

class Encoder {
  private readonly plan: Plan;
  private readonly bytes: Buffer;
  private readonly refuse: Refuse;
  private readonly ends: Map<number, number>;

  constructor(plan: Plan, bytes: Buffer, refuse: Refuse) {
    this.plan = plan;
    this.bytes = bytes;
    this.refuse = refuse;
    this.ends = planEnds(plan);
  }

  /** Encodes the value at `index`; returns the index behind it. */
  value(index: number, base: number, value: TextValue, path: string): number {
    const op = planOp(this.plan, index);
    const end = this.ends.get(index) ?? index;
    if (op.code === PlanCode.object) this.object(index, end, base, value, path);
    else if (op.code === PlanCode.array) this.array(op, index, base + op.offset, value, path);
    else this.scalar(op, base, value, path);
    return end + 1;
  }

  private object(index: number, end: number, base: number, value: TextValue, path: string): void {
    if (!(value instanceof Map)) this.refuse(`${path}: expected {...}`);
    const known = new Set<string>();
    for (let at = index + 1; at < end; ) {
      const key = planOp(this.plan, at);
      const name = planString(this.plan, key.a, key.b);
      const field = value.get(name);
      if (field === undefined) this.refuse(`${path}: field ${name} is missing`);
      known.add(name);
      at = this.value(at + 1, base, field, name);
    }
    for (const name of value.keys()) {
      if (!known.has(name)) {
        this.refuse(`${name}: no such field (there are ${[...known].join(', ')})`);
      }
    }
  }

  private array(op: PlanOp, index: number, offset: number, value: TextValue, path: string): void {
    const left = Math.max(0, this.bytes.length - offset);
    const count = op.a === planRest ? Math.floor(left / op.b) : op.a;
    if (!Array.isArray(value)) this.refuse(`${path}: expected [...]`);
    if (value.length !== count) {
      this.refuse(`${path}: ${value.length} elements, expected ${count}`);
    }
    for (const [i, element] of value.entries()) {
      this.value(index + 1, offset + i * op.b, element, `${path}[${i}]`);
    }
  }

  private scalar(op: PlanOp, base: number, value: TextValue, path: string): void {
    const offset = base + (op.code === PlanCode.bits ? 0 : op.offset);
    switch (op.code) {
      case PlanCode.int:
        this.number(offset * 8, op.a * 8, op.b !== 0, value, path);
        break;
      case PlanCode.bits:
        this.number(base * 8 + op.offset, op.a, op.b !== 0, value, path);
        break;
      case PlanCode.bool:
        if (typeof value !== 'boolean' && value !== 0n && value !== 1n) {
          this.refuse(`${path}: expected true or false`);
        }
        this.bytes[offset] = value === true || value === 1n ? 1 : 0;
        break;
      case PlanCode.enum:
        this.enumeration(op, offset, value, path);
        break;
      case PlanCode.pointer:
        this.number(offset * 8, 64, false, hexNumber(value), path);
        break;
      case PlanCode.float:
        this.float(op, offset, value, path);
        break;
      case PlanCode.chars:
        this.chars(op, offset, value, path);
        break;
      default:
        this.hex(op.a, offset, value, path);
    }
  }

  private number(bit: number, bits: number, signed: boolean, value: TextValue, path: string): void {
    if (typeof value !== 'bigint') this.refuse(`${path}: expected a whole number`);
    const low = signed ? -(1n << BigInt(bits - 1)) : 0n;
    const high = signed ? (1n << BigInt(bits - 1)) - 1n : (1n << BigInt(bits)) - 1n;
    if (value < low || value > high) this.refuse(`${path}: ${value} is not in ${low}..${high}`);
    let raw = BigInt.asUintN(bits, value) << BigInt(bit % 8);
    for (let i = Math.floor(bit / 8); raw !== 0n; i++, raw >>= 8n) {
      this.bytes[i] = (this.bytes[i] ?? 0) | Number(raw & 255n);
    }
  }

  private enumeration(op: PlanOp, offset: number, value: TextValue, path: string): void {
    const [bits, signed] = [(op.a & 255) * 8, (op.a & 256) !== 0];
    if (typeof value !== 'string') {
      this.number(offset * 8, bits, signed, value, path);
      return;
    }
    const names = planNames(this.plan, op.b);
    const known = names.find((entry) => entry.name === value);
    if (known === undefined) {
      this.refuse(`${path}: ${value} is none of ${names.map((entry) => entry.name).join(', ')}`);
    }
    this.number(offset * 8, bits, false, BigInt.asUintN(bits, known.raw), path);
  }

  private float(op: PlanOp, offset: number, value: TextValue, path: string): void {
    if (typeof value !== 'number' && typeof value !== 'bigint') {
      this.refuse(`${path}: expected a number`);
    }
    if (op.a === 4) this.bytes.writeFloatLE(Number(value), offset);
    else this.bytes.writeDoubleLE(Number(value), offset);
  }

  private chars(op: PlanOp, offset: number, value: TextValue, path: string): void {
    const size = op.a === planRest ? this.bytes.length - offset : op.a;
    if (typeof value !== 'string') this.refuse(`${path}: expected a string`);
    if (new RegExp(`^0x[0-9a-f]{${size * 2}}$`, 'i').test(value)) {
      this.bytes.write(value.slice(2), offset, 'hex');
      return;
    }
    const text = Buffer.from(value);
    if (text.length > size) this.refuse(`${path}: ${text.length} bytes, at most ${size}`);
    text.copy(this.bytes, offset);
  }

  private hex(words: number, offset: number, value: TextValue, path: string): void {
    const size = words === planRest ? this.bytes.length - offset : words;
    const text = typeof value === 'string' ? value.replace(/^0x/i, '') : '';
    if (!/^[0-9a-f]*$/i.test(text) || text.length !== size * 2) {
      this.refuse(`${path}: expected "0x" and ${size * 2} hexadecimal digits`);
    }
    this.bytes.write(text, offset, 'hex');
  }
}

// Pointers are printed as strings; both spellings are taken.
function hexNumber(value: TextValue): TextValue {
  return typeof value === 'string' && /^0x[0-9a-f]+$/i.test(value) ? BigInt(value) : value;
}
