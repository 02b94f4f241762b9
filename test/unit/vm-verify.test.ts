// `bpftimefs vm verify` as it is typed: verdicts, exit codes, JSON; and what the verifier says of
// what a compiler makes (the cases of its own are test/golden/verify).
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import type { ProgramVerdict } from '../../src/native-vm.js';
import { compileBpf } from '../helpers/bpf-objects.js';

const command = fileURLToPath(new URL('../../../bin/bpftimefs', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-vm-'));
t.teardown(() => rmSync(dir, { recursive: true }));

function verify(...args: string[]): { code: number | null; out: string; error: string } {
  const run = spawnSync(command, ['vm', 'verify', ...args], { encoding: 'utf8' });
  return { code: run.status, out: run.stdout, error: run.stderr };
}

function objectOf(name: string): string {
  const path = join(dir, `${name}.bpf.o`);
  writeFileSync(path, compileBpf(name));
  return path;
}

t.test('an object that is fine', async (t) => {
  const { code, out } = verify(objectOf('maps'));
  t.equal(code, 0);
  t.match(out, /^ok {7}emit: \d+ instructions, \d+ walked, \d+ states, \d+ us$/m);
  t.equal(out.trimEnd().split('\n').length, 6, 'a line for each program');
});

t.test('programs that are refused', async (t) => {
  const object = objectOf('unsafe');
  const { code, out } = verify(object);
  t.equal(code, 1);
  const rows: readonly (readonly [program: string, line: RegExp])[] = [
    [
      'no_null_check',
      /EACCES insn \d+: .* which may be null .*unsafe.bpf.c:\d+ `return \(int\)\*v/,
    ],
    ['past_the_end', /EACCES insn \d+: .*a value of map values.* 64 bytes/],
    ['stack_garbage', /EACCES insn \d+: .*the stack.* was not written yet/],
    ['record_kept', /EINVAL insn \d+: the program ends and keeps a record/],
    ['record_twice', /EACCES insn \d+: .* a record that was submitted/],
    ['endless', /EINVAL insn \d+: the loop may run for ever/],
    ['direct_read', /EACCES insn \d+: .*a number and not a pointer.*bpf_probe_read_user/],
    ['context_written', /EACCES insn \d+: writes struct pt_regs .* may only read it/],
    ['constant_written', /EACCES insn \d+: .*read-only/],
  ];
  for (const [program, line] of rows) {
    const first = out.split('\n').find((text) => text.startsWith(`refused  ${program}:`)) ?? out;
    t.match(first, line, program);
    t.ok(first.length < 400, `${program}: a line`);
  }
  t.match(out, /^ {9}\d+: if .*\((not )?taken\).* at unsafe\.bpf\.c:\d+/m, 'and the way there');
  t.match(out, /^ok {7}fine: /m, 'one refusal does not hide what is right');
});

t.test('one program, as JSON', async (t) => {
  const { code, out } = verify(objectOf('unsafe'), '--program', 'endless', '--json');
  t.equal(code, 1);
  const verdicts = JSON.parse(out) as ProgramVerdict[];
  t.match(verdicts, [{ name: 'endless', code: 'EINVAL', section: 'uprobe/endless' }]);
  t.equal(verdicts.length, 1);
});

t.test('global and static functions', async (t) => {
  const { code, out } = verify(objectOf('functions'));
  t.equal(code, 0, out);
  t.match(out, /^ok {7}adds: .*\nok {7}looks: /);
});

t.test('what is no object', async (t) => {
  t.match(verify('/bin/true'), { code: 2, out: '', error: /\/bin\/true: x86-64 object/ });
  t.match(verify(join(dir, 'nothing')), { code: 2, error: /ENOENT|no such file/i });
  t.match(verify(objectOf('maps'), '--program', 'nobody'), {
    code: 2,
    error: /no program of that/,
  });
});
