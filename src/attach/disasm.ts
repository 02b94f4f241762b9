// Machine code as text for people's eyes, by capstone. The rewriter never relies on it: it has its
// own decoder in native/rewrite.
interface CapstoneInsn {
  address: bigint | number;
  size: number;
  mnemonic: string;
  op_str: string;
}
interface CapstoneModule {
  ARCH_X86: number;
  MODE_64: number;
  Capstone: new (
    arch: number,
    mode: number,
  ) => { disasm(code: Uint8Array, address: bigint | number): CapstoneInsn[]; close?(): void };
}

let loading: Promise<CapstoneModule> | undefined;

async function loadCapstone(): Promise<CapstoneModule> {
  const imported = (await import('@alexaltea/capstone-js')) as unknown as {
    default: (() => Promise<CapstoneModule>) | CapstoneModule;
  };
  const made = imported.default;
  return typeof made === 'function' ? await made() : made;
}

/** One line per instruction: address, bytes, mnemonic, operands. Undecodable bytes are `.byte`. */
export async function disassemble(bytes: Uint8Array, addr: bigint): Promise<string> {
  loading ??= loadCapstone();
  const capstone = await loading;
  const engine = new capstone.Capstone(capstone.ARCH_X86, capstone.MODE_64);
  const lines: string[] = [];
  let off = 0;
  while (off < bytes.length) {
    let insns: CapstoneInsn[] = [];
    try {
      insns = engine.disasm(bytes.subarray(off), addr + BigInt(off));
    } catch {
      insns = [];
    }
    for (const insn of insns) {
      lines.push(line(addr, off, bytes.subarray(off, off + insn.size), insn.mnemonic, insn.op_str));
      off += insn.size;
    }
    if (off < bytes.length) {
      lines.push(
        line(addr, off, bytes.subarray(off, off + 1), '.byte', `0x${bytes[off]!.toString(16)}`),
      );
      off += 1;
    }
  }
  engine.close?.();
  return `${lines.join('\n')}\n`;
}

function line(base: bigint, off: number, bytes: Uint8Array, mnemonic: string, operands: string) {
  const text = Buffer.from(bytes).toString('hex').replace(/(..)/g, '$1 ').trimEnd();
  const addr = (base + BigInt(off)).toString(16);
  return `${addr} <+${off}> ${text.padEnd(32)} ${mnemonic} ${operands}`.trimEnd();
}
