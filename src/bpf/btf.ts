// Raw .BTF as libbpf hands it out: types by id, their names as C would write them.
// The bytes were checked by the loader (native/bpf/btf_check.cc); this file still reads only what
// is inside and fails with an Error otherwise.

/** BTF_KIND_* by value. */
const kinds = [
  'void',
  'int',
  'ptr',
  'array',
  'struct',
  'union',
  'enum',
  'fwd',
  'typedef',
  'volatile',
  'const',
  'restrict',
  'func',
  'func_proto',
  'var',
  'datasec',
  'float',
  'decl_tag',
  'type_tag',
  'enum64',
] as const;

/** Kind of a type, e.g. `struct`. */
export type BtfKind = (typeof kinds)[number];

/** A member of a struct or union, or a variable of a data section. */
export interface BtfMember {
  name: string;
  type: number;
  /** From the start of the struct. */
  bitOffset: number;
  /** 0: not a bit field. */
  bitSize: number;
}

/** One type. Fields that a kind does not have are 0 or empty. */
export interface BtfType {
  id: number;
  kind: BtfKind;
  name: string;
  /** Bytes; int, enum, struct, union, float, datasec. */
  size: number;
  /** Referenced type; ptr, typedef, modifiers, var, array element. */
  ref: number;
  /** Elements of an array. */
  count: number;
  /** int, enum: values may be negative. */
  signed: boolean;
  /** int: a truth value. */
  bool: boolean;
  members: BtfMember[];
  values: { name: string; value: bigint }[];
}

const headerBytes = 24;
const modifiers = new Set<BtfKind>([
  'typedef',
  'volatile',
  'const',
  'restrict',
  'type_tag',
  'decl_tag',
  'var',
]);

/** The types of one object file. */
export class Btf {
  readonly types: BtfType[];

  private constructor(types: BtfType[]) {
    this.types = types;
  }

  /**
   * Parses a whole .BTF section; an empty buffer has no types.
   * @throws {Error} when it is not BTF version 1
   */
  static parse(bytes: Buffer): Btf {
    const reader = new Reader(bytes);
    return new Btf(bytes.length === 0 ? [voidType()] : reader.types());
  }

  /** The type with this id; void for 0 and for ids that do not exist. */
  type(id: number): BtfType {
    return this.types[id] ?? voidType();
  }

  /** Follows typedefs, qualifiers and variables to what is stored. */
  resolve(id: number): BtfType {
    let type = this.type(id);
    for (let step = 0; step < 64 && modifiers.has(type.kind); step++) type = this.type(type.ref);
    return type;
  }

  /** A type by name: struct, union, enum, typedef or int; undefined if there is none. */
  find(name: string, kind?: BtfKind): BtfType | undefined {
    return this.types.find((t) => t.name === name && (kind === undefined || t.kind === kind));
  }

  /** Bytes that a value of this type takes. */
  sizeOf(id: number): number {
    const type = this.resolve(id);
    if (type.kind === 'ptr') return 8;
    if (type.kind === 'array') return type.count * this.sizeOf(type.ref);
    return type.size;
  }

  /** As C would write it, e.g. `struct event`, `char[16]`, `const unsigned int *`. */
  typeName(id: number): string {
    const type = this.type(id);
    switch (type.kind) {
      case 'struct':
      case 'union':
      case 'enum':
      case 'fwd':
        return `${type.kind === 'fwd' ? 'struct' : type.kind} ${type.name || '{...}'}`;
      case 'enum64':
        return `enum ${type.name || '{...}'}`;
      case 'ptr':
        return `${this.typeName(type.ref)} *`;
      case 'array':
        return `${this.typeName(type.ref)}[${type.count}]`;
      case 'const':
      case 'volatile':
      case 'restrict':
        return `${type.kind} ${this.typeName(type.ref)}`;
      case 'func_proto':
        return 'function';
      case 'type_tag':
        return this.typeName(type.ref);
      default:
        return type.name || 'void';
    }
  }
}

function voidType(): BtfType {
  return {
    id: 0,
    kind: 'void',
    name: '',
    size: 0,
    ref: 0,
    count: 0,
    signed: false,
    bool: false,
    members: [],
    values: [],
  };
}

class Reader {
  private readonly bytes: Buffer;
  private offset = 0;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  types(): BtfType[] {
    const bytes = this.bytes;
    if (bytes.length < headerBytes || bytes.readUInt16LE(0) !== 0xeb9f || bytes[2] !== 1) {
      throw new Error('not BTF version 1');
    }
    const headerEnd = bytes.readUInt32LE(4);
    this.offset = headerEnd + bytes.readUInt32LE(8);
    const end = this.offset + bytes.readUInt32LE(12);
    const stringStart = headerEnd + bytes.readUInt32LE(16);
    const strings = bytes.subarray(stringStart, stringStart + bytes.readUInt32LE(20));
    const types = [voidType()];
    while (this.offset < end) types.push(this.type(types.length, strings));
    return types;
  }

  private u32(): number {
    const value = this.bytes.readUInt32LE(this.offset);
    this.offset += 4;
    return value;
  }

  private type(id: number, strings: Buffer): BtfType {
    const name = (offset: number): string =>
      strings.toString('utf8', offset, Math.max(offset, strings.indexOf(0, offset)));
    const type = voidType();
    type.id = id;
    type.name = name(this.u32());
    const info = this.u32();
    const sizeOrRef = this.u32();
    const vlen = info & 0xffff;
    const flag = info >>> 31 === 1;
    type.kind = kinds[(info >>> 24) & 0x1f] ?? 'void';
    if (['int', 'enum', 'enum64', 'struct', 'union', 'float', 'datasec'].includes(type.kind)) {
      type.size = sizeOrRef;
    } else if (type.kind !== 'fwd') {
      type.ref = sizeOrRef;
    }
    this.details(type, vlen, flag, name);
    return type;
  }

  private details(type: BtfType, vlen: number, flag: boolean, name: (o: number) => string): void {
    const each = (read: () => void): void => {
      for (let i = 0; i < vlen; i++) read();
    };
    switch (type.kind) {
      case 'int': {
        const encoding = this.u32();
        type.signed = (encoding & (1 << 24)) !== 0;
        type.bool = (encoding & (4 << 24)) !== 0;
        break;
      }
      case 'array':
        type.ref = this.u32();
        this.u32(); // index type
        type.count = this.u32();
        break;
      case 'struct':
      case 'union':
        each(() => {
          const [memberName, ref, at] = [name(this.u32()), this.u32(), this.u32()];
          const bits = flag
            ? { bitOffset: at & 0xffffff, bitSize: at >>> 24 }
            : { bitOffset: at, bitSize: 0 };
          type.members.push({ name: memberName, type: ref, ...bits });
        });
        break;
      case 'enum':
      case 'enum64':
        type.signed = flag;
        each(() => {
          const [valueName, low] = [name(this.u32()), this.u32()];
          const high = type.kind === 'enum64' ? this.u32() : 0;
          const raw = (BigInt(high) << 32n) | BigInt(low);
          const bits = type.kind === 'enum64' ? 64 : 32;
          // Without the flag compilers of old still meant negative values as signed.
          const value = type.signed ? BigInt.asIntN(bits, raw) : raw;
          type.values.push({ name: valueName, value });
        });
        break;
      case 'datasec':
        each(() => {
          const [ref, offset] = [this.u32(), this.u32()];
          this.u32(); // size
          type.members.push({ name: '', type: ref, bitOffset: offset * 8, bitSize: 0 });
        });
        break;
      case 'func_proto':
        each(() => {
          this.offset += 8;
        });
        break;
      case 'var':
      case 'decl_tag':
        this.u32(); // linkage, component index
        break;
    }
  }
}
