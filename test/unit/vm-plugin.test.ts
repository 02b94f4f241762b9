// build/vm-plugin speaks the protocol of the public bpf_conformance runner.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const plugin = fileURLToPath(new URL('../../../build/vm-plugin', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-vm-plugin-'));
t.teardown(() => rmSync(dir, { recursive: true }));
const engines = ['interp', 'checked', 'jit', 'aot'];

function run(
  args: string[],
  input: string | Buffer = '',
): { out: string; err: string; status: number } {
  const { stdout, stderr, status } = spawnSync(plugin, args, { input, timeout: 60_000 });
  return { out: stdout.toString(), err: stderr.toString(), status: status ?? -1 };
}

// As the runner writes them: r0 = 7; r0 = *(u8 *)(r1 + 1); r0 = r2; a call of helper 5.
const SEVEN = 'b7 00 00 00 07 00 00 00 95 00 00 00 00 00 00 00';
const SECOND_BYTE = '71 10 01 00 00 00 00 00 95 00 00 00 00 00 00 00';
const LENGTH = 'bf 20 00 00 00 00 00 00 95 00 00 00 00 00 00 00';
const HELPER = 'b7 01 00 00 ff ff ff ff 85 00 00 00 05 00 00 00 95 00 00 00 00 00 00 00';
const FOR_EVER = '05 00 ff ff 00 00 00 00 95 00 00 00 00 00 00 00';

for (const engine of engines) {
  t.test(engine, async (t) => {
    const use = ['--engine', engine];
    for (const [what, args, input, want] of [
      ['the program on stdin', [], SEVEN, '7'],
      ['the program as an option', ['--program', SEVEN], '', '7'],
      ['memory', ['aa bb cc'], `${SECOND_BYTE}\n`, 'bb'],
      ['its length', ['aabbcc'], LENGTH, '3'],
      ['no memory', [''], LENGTH, '0'],
      ['the helper of the suite', [], HELPER, 'ffffffffffffffff'],
      ['options of the runner', ['aa', '--debug', '--program', LENGTH], '', '1'],
    ] as const) {
      const { out, err, status } = run([...args, ...use], input);
      t.strictSame([out, err, status], [`${want}\n`, '', 0], what);
    }
    for (const [what, args, input, want] of [
      ['half an instruction', [], 'b7 00', /8 bytes/],
      ['no hex', [], 'hello', /not hex/],
      ['memory that is no hex', ['0x12'], SEVEN, /memory is not hex/],
      ['nothing', [], '', /8 bytes/],
      ['an opcode that does not exist', [], `ff 00 00 00 00 00 00 00 ${SEVEN}`, /opcode/],
      ['no object', ['--elf'], SEVEN, /no ELF file/],
    ] as const) {
      const { out, err, status } = run([...args, ...use], input);
      t.match([out, err, status], ['', want, 1], what);
    }
  });
}

t.test('an object file', async (t) => {
  const [source, object] = [join(dir, 'sum.c'), join(dir, 'sum.o')];
  writeFileSync(
    source,
    `static __attribute__((noinline)) int twice(int a) { return a * 2; }
     __attribute__((section("main"))) int sum(unsigned char* mem) { return twice(mem[0]) + mem[1]; }`,
  );
  execFileSync('clang', ['-O2', '-target', 'bpf', '-c', source, '-o', object]);
  const file = readFileSync(object);
  for (const engine of engines) {
    const use = ['05 06', '--elf', '--engine', engine];
    t.equal(run(use, file).out, '10\n', `${engine}: as it is`);
    t.equal(run(use, file.toString('hex')).out, '10\n', `${engine}: as hex`);
  }
});

t.test('the checked engine stops what the others would do', async (t) => {
  const use = ['--engine', 'checked'];
  t.match(run([...use, 'aa'], SECOND_BYTE), {
    status: 1,
    err: /instruction 0 touches memory that is not its own/,
  });
  t.match(run(use, FOR_EVER), { status: 1, err: /ran for too long/ });
});

t.test('no such engine', async (t) => {
  t.match(run(['--engine', 'llvm'], SEVEN), { status: 1, err: /llvm: no such engine \(jit, / });
});
