// scripts/conformance.js: cases in the form of the public suite, on every engine. They are ours.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { assemble } from '../../scripts/ubpf-asm.js';

const script = fileURLToPath(new URL('../../scripts/conformance.js', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-conformance-'));
t.teardown(() => rmSync(dir, { recursive: true }));
t.setTimeout(120_000);

const write = (name: string, text: string) => writeFileSync(join(dir, `${name}.data`), text);
const run = () => spawnSync(process.execPath, [script, dir], { encoding: 'utf8' });

// Each instruction of the syntax beside what the kernel's headers call it.
const encodings: readonly (readonly [string, bigint])[] = [
  ['add r1, r2', 0x210fn],
  ['add32 %r1, 5', 0x500000104n],
  ['sdiv r3, r4', 0x1433fn],
  ['smod32 r3, 7', 0x700010394n],
  ['neg r6', 0x687n],
  ['mov r0, -1', 0xffffffff000000b7n],
  ['movsx832 r1, r2', 0x821bcn],
  ['be16 r0', 0x10000000dcn],
  ['swap64 r1', 0x40000001d7n],
  ['ldxb r2, [r1+3]', 0x31271n],
  ['ldxdw %r2, [%r10-8]', 0xfff8a279n],
  ['ldxwsx r2, [r1]', 0x1281n],
  ['stw [r1+4], 9', 0x900040162n],
  ['stxh [r1-2], r3', 0xfffe316bn],
  ['lock add [r10-8], r1', 0xfff81adbn],
  ['lock fetch add32 [r10-8], r1', 0x1fff81ac3n],
  ['lock cmpxchg [r10-8], r1', 0xf1fff81adbn],
  ['ja +2', 0x20005n],
  ['jsgt32 r1, r2, +1', 0x1216en],
  ['call helper 5', 0x500000085n],
  ['exit', 0x95n],
];

t.test('instructions', async (t) => {
  for (const [text, want] of encodings) t.equal(assemble([text])[0], want, text);
  t.same(assemble(['lddw r1, 0x1122334455667788']), [0x5566778800000118n, 0x1122334400000000n]);
  t.same(assemble(['a: ja b', 'exit', 'b: ja a']), [0x10005n, 0x95n, 0xfffd0005n], 'labels');
  for (const wrong of ['frob r1', 'add r16, 1', 'add r1, x', 'ja nowhere', 'ldxb r1, r2']) {
    t.throws(() => assemble([wrong]), wrong);
  }
});

t.test('cases that every engine passes', async (t) => {
  write(
    'sum',
    '# ours\n-- asm\nldxb r0, [r1+1] # second\nadd r0, 2\nexit\n-- mem\n01 28\n-- result\n0x2a\n',
  );
  write(
    'local',
    '-- asm\nmov r1, 20\ncall local f\nexit\nf:\nmov r0, r1\nadd r0, 1\nexit\n-- result\n21\n',
  );
  write('refused', '-- asm\nmov r0, 0\nja +1\nexit\n-- error\nout of bounds\n');
  write('raw', '-- raw\n0x00000007000000b7\n0x0000000000000095\n-- result\n0x7\n');
  const { stdout, status } = run();
  t.equal(stdout, ['interp', 'checked', 'jit', 'aot'].map((e) => `${e}: 4 of 4\n`).join(''));
  t.equal(status, 0);
});

t.test('cases that fail are named', async (t) => {
  write('wrong', '-- asm\nmov r0, 1\nexit\n-- result\n0x2\n');
  write('odd', '-- asm\nfrobnicate\n-- result\n0\n');
  const { stdout, status } = run();
  t.match(stdout, /^odd\.data interp: is not understood: 'frobnicate'$/m);
  t.match(stdout, /^wrong\.data jit: gives 1, not 2$/m);
  t.match(stdout, /^aot: 4 of 6$/m);
  t.equal(status, 1);
});
