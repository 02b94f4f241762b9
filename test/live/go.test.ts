// Go programs: names from the runtime's own table, probes at entries while goroutines' stacks grow,
// move and are collected.
import { readFileSync, writeFileSync } from 'node:fs';
import t, { type Test } from 'tap';
import { Lab } from '../helpers/lab.js';

t.setTimeout(240_000);

const MAKES = [
  { name: 'with-symbols', flags: [], sections: true },
  { name: 'no-symbols', flags: ['-ldflags', '-s -w'], sections: true },
  { name: 'position-independent', flags: ['-buildmode=pie', '-ldflags', '-s -w'], sections: true },
  { name: 'without-sections', flags: ['-ldflags', '-s -w'], sections: false },
];

/** Takes the section headers away, as sstrip does. */
function dropSections(path: string): void {
  const bytes = readFileSync(path);
  bytes.writeBigUInt64LE(0n, 0x28); // e_shoff
  bytes.writeUInt32LE(0, 0x3c); // e_shnum, e_shstrndx
  writeFileSync(path, bytes);
}

async function disassembles(t: Test, lab: Lab, pid: number, name: string, full: string) {
  const shown = await lab.sh(`cat '${lab.proc(pid, 'disasm', name)}'`);
  t.equal(shown.code, 0, `${name}: ${shown.err}`);
  t.match(shown.out.split('\n')[0], `${full}+0x0 `, `${name} is ${full}`);
  t.notMatch(shown.out, /int3\n$/, `${name} ends before the padding`);
}

for (const { name, flags, sections } of MAKES) {
  await t.test(`names: ${name}`, async (t) => {
    await Lab.run(t, async (lab) => {
      const program = lab.build('goroutines.go', flags, { name });
      if (!sections) dropSections(program);
      const target = lab.start(program);
      const { pid } = target;
      t.ok(await target.says(/ready/));
      const { out, err } = await lab.sh(`cat ${lab.proc(pid, 'symbols', name)}`);
      t.equal(err, '', 'symbols/ can be read');
      for (const symbol of ['main.work', 'main.(*thing).Method', 'internal%2fpoll.(*FD).Read']) {
        t.ok(out.includes(` ${symbol}\n`), `lists ${symbol}`);
      }
      t.ok(out.split('\n').length > 2000, 'lists all functions');
      await disassembles(t, lab, pid, 'main.work', 'main.work');
      await disassembles(t, lab, pid, 'main.(*thing).Method', 'main.(*thing).Method');
      await disassembles(t, lab, pid, 'internal%2Fpoll.(*FD).Read', 'internal/poll.(*FD).Read');
      await disassembles(t, lab, pid, 'poll.(*FD).Read', 'internal/poll.(*FD).Read');
      const wrong = await lab.sh(`cat '${lab.proc(pid, 'disasm', 'internal%2fpoll.(*FD).Raed')}'`);
      t.not(wrong.code, 0);
      t.match(lab.read(pid, 'last_error'), /did you mean internal%2fpoll\.\(\*FD\)\.Read/);
    });
  });
}
