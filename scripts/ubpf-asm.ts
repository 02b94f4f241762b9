// An assembler for the syntax of uBPF and of the bpf_conformance suite: `add r1, r2`,
// `ldxw %r0, [%r1+4]`, `jeq r1, 5, label`, `lock fetch add [r10-8], r1`. RFC 9669 has the encoding.

const ALU: Readonly<Record<string, number>> = {
  add: 0x0,
  sub: 0x1,
  mul: 0x2,
  div: 0x3,
  sdiv: 0x3,
  or: 0x4,
  and: 0x5,
  lsh: 0x6,
  rsh: 0x7,
  neg: 0x8,
  mod: 0x9,
  smod: 0x9,
  xor: 0xa,
  mov: 0xb,
  arsh: 0xc,
};
const JUMPS: Readonly<Record<string, number>> = {
  jeq: 0x1,
  jgt: 0x2,
  jge: 0x3,
  jset: 0x4,
  jne: 0x5,
  jsgt: 0x6,
  jsge: 0x7,
  jlt: 0xa,
  jle: 0xb,
  jslt: 0xc,
  jsle: 0xd,
};
const SIZES: Readonly<Record<string, number>> = { w: 0x00, h: 0x08, b: 0x10, dw: 0x18 };
const ATOMICS: Readonly<Record<string, number>> = {
  add: 0x00,
  or: 0x40,
  and: 0x50,
  xor: 0xa0,
  xchg: 0xe1,
  cmpxchg: 0xf1,
};

interface Insn {
  opcode: number;
  dst?: number;
  src?: number;
  off?: number;
  imm?: bigint;
  /** A label, and the field that gets the distance to it. */
  to?: { label: string; field: 'off' | 'imm' };
}

const isRegister = (word: string) => /^%?r\d+$/.test(word);

function register(word: string): number {
  const number = Number(/^%?r(\d+)$/.exec(word)?.[1]);
  if (!(number <= 15)) throw new Error(`'${word}' is no register`);
  return number;
}

function number(word: string): bigint {
  const [, sign = '', digits = ''] = /^([+-]?)(0x[\da-f]+|\d+)$/i.exec(word) ?? [];
  if (digits === '') throw new Error(`'${word}' is no number`);
  return sign === '-' ? -BigInt(digits) : BigInt(digits);
}

/** [r1+8] */
function place(word: string): [number, number] {
  const found = /^\[(%?r\d+)\s*([+-]\s*\w+)?\]$/.exec(word);
  if (!found) throw new Error(`'${word}' is no place in memory`);
  return [register(found[1]!), Number(number((found[2] ?? '+0').replace(/\s/g, '')))];
}

const target = (word: string, field: 'off' | 'imm'): Partial<Insn> => {
  if (!/^[+-]?(0x[\da-f]+|\d+)$/i.test(word)) return { to: { label: word, field } };
  return field === 'off' ? { off: Number(number(word)) } : { imm: number(word) };
};

/** Register or constant: the bit of the opcode, and the field. */
const operand = (word: string): Partial<Insn> & { bit: number } =>
  isRegister(word) ? { bit: 8, src: register(word) } : { bit: 0, imm: number(word) };

function aluInsn(name: string, words: string[]): Insn | undefined {
  const [dst = '', second] = words;
  const swap = /^(le|be|swap|bswap)(16|32|64)$/.exec(name);
  if (swap) {
    const opcode = swap[1] === 'le' ? 0xd4 : swap[1] === 'be' ? 0xdc : 0xd7;
    return { opcode, dst: register(dst), imm: BigInt(swap[2]!) };
  }
  const extended = /^movsx(8|16|32)(32|64)$/.exec(name);
  if (extended) {
    const opcode = extended[2] === '64' ? 0xbf : 0xbc;
    return { opcode, dst: register(dst), src: register(second!), off: Number(extended[1]) };
  }
  const is32 = name.endsWith('32');
  const base = is32 ? name.slice(0, -2) : name.replace(/64$/, '');
  const op = ALU[base];
  if (op === undefined) return undefined;
  const { bit, ...value } = second === undefined ? { bit: 0 } : operand(second);
  const off = base === 'sdiv' || base === 'smod' ? 1 : 0;
  return { opcode: (op << 4) | bit | (is32 ? 4 : 7), dst: register(dst), off, ...value };
}

function memoryInsn(name: string, words: string[]): Insn | undefined {
  const [first = '', second = ''] = words;
  const load = /^ldx(s?)(b|h|w|dw)(sx)?$/.exec(name);
  if (load) {
    const [src, off] = place(second);
    const mode = load[1] || load[3] ? 0x81 : 0x61;
    return { opcode: mode | SIZES[load[2]!]!, dst: register(first), src, off };
  }
  const store = /^st(x?)(b|h|w|dw)$/.exec(name);
  if (!store) return undefined;
  const [dst, off] = place(first);
  const size = SIZES[store[2]!]!;
  return store[1]
    ? { opcode: 0x63 | size, dst, off, src: register(second) }
    : { opcode: 0x62 | size, dst, off, imm: number(second) };
}

function jumpInsn(name: string, words: string[]): Insn | undefined {
  const [first = '', second = '', third = ''] = words;
  if (name === 'exit') return { opcode: 0x95 };
  if (name === 'ja') return { opcode: 0x05, ...target(first, 'off') };
  if (name === 'ja32') return { opcode: 0x06, ...target(first, 'imm') };
  if (name === 'callx') return { opcode: 0x8d, dst: register(first) };
  if (name === 'call') {
    const [, mode = '', whom = first] = /^(helper|local|runtime)\s+(\S+)$/.exec(first) ?? [];
    if (mode === 'local') return { opcode: 0x85, src: 1, ...target(whom, 'imm') };
    return { opcode: 0x85, src: mode === 'runtime' ? 2 : 0, imm: number(whom) };
  }
  const is32 = name.endsWith('32');
  const op = JUMPS[is32 ? name.slice(0, -2) : name];
  if (op === undefined) return undefined;
  const { bit, ...value } = operand(second);
  const opcode = (op << 4) | bit | (is32 ? 6 : 5);
  return { opcode, dst: register(first), ...value, ...target(third, 'off') };
}

/** lock [fetch] OP[32] [rD+off], rS */
function lockInsn(text: string): Insn | undefined {
  const found = /^lock\s+(fetch[_ ]\s*)?([a-z]+?)(32)?\s+(\[[^\]]*\])\s*,\s*(\S+)$/.exec(text);
  const op = found ? ATOMICS[found[2]!] : undefined;
  if (!found || op === undefined) return undefined;
  const [dst, off] = place(found[4]!);
  const imm = BigInt(op | (found[1] ? 1 : 0));
  return { opcode: found[3] ? 0xc3 : 0xdb, dst, off, src: register(found[5]!), imm };
}

function insnOf(line: string): Insn[] {
  const [, name = '', rest = ''] = /^(\S+)\s*(.*)$/.exec(line) ?? [];
  const words = rest === '' ? [] : rest.split(',').map((word) => word.trim());
  if (name === 'lddw') {
    const value = BigInt.asUintN(64, number(words[1]!));
    const dst = register(words[0]!);
    return [
      { opcode: 0x18, dst, imm: value & 0xffffffffn },
      { opcode: 0, imm: value >> 32n },
    ];
  }
  const insn =
    name === 'lock'
      ? lockInsn(line)
      : (aluInsn(name, words) ?? memoryInsn(name, words) ?? jumpInsn(name, words));
  if (!insn) throw new Error(`'${line}'`);
  return [insn];
}

/** 8-byte instructions of lines without comments. Throws on what it does not know. */
export function assemble(lines: readonly string[]): bigint[] {
  const insns: Insn[] = [];
  const labels = new Map<string, number>();
  for (const line of lines) {
    const label = /^(\w+):\s*(.*)$/.exec(line);
    if (label) labels.set(label[1]!, insns.length);
    const text = label ? label[2]! : line;
    if (text !== '') insns.push(...insnOf(text));
  }
  // The suite's texts may jump to an exit without naming it.
  const exit = insns.findLastIndex((insn) => insn.opcode === 0x95);
  if (!labels.has('exit') && exit >= 0) labels.set('exit', exit);
  return insns.map(({ opcode, dst = 0, src = 0, off = 0, imm = 0n, to }, at) => {
    const there = to === undefined ? undefined : labels.get(to.label);
    if (to !== undefined && there === undefined) throw new Error(`no label '${to.label}'`);
    const distance = (there ?? 0) - at - 1;
    const offset = BigInt(to?.field === 'off' ? distance : off);
    const value = to?.field === 'imm' ? BigInt(distance) : imm;
    return (
      BigInt(opcode) |
      (BigInt(dst) << 8n) |
      (BigInt(src) << 12n) |
      (BigInt.asUintN(16, offset) << 16n) |
      (BigInt.asUintN(32, value) << 32n)
    );
  });
}
