// What can be probed is said before anybody tries: `info` has a line a module, coverage/<module>
// the functions that cannot be, each with a reason code. The planner that says so attaches, too.
import t from 'tap';
import { eventually, Lab } from '../helpers/lab.js';

t.setTimeout(120_000);

const numberOf = (text: string, key: string) =>
  Number(new RegExp(`^${key} +([\\d.]+)$`, 'm').exec(text)?.[1] ?? Number.NaN);

await t.test('each module, and each function that is refused', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('forms.c'), ['1']);
    const { pid } = target;
    t.ok(await target.says(/round/), 'the target works');
    // A busy machine has not read them all at the first look.
    const isRead = () => !/ reading$/m.test(lab.read(pid, 'info'));
    t.ok(await eventually(isRead, 60_000), 'every module is read');
    const info = lab.read(pid, 'info');
    t.match(info, /^coverage\.forms +\d+\.\d\d% of \d+/m, 'the program');
    t.match(info, /^coverage\.libc\.so\.6 +(99|100)\.\d\d% of \d+/m, 'libc');
    for (const module of ['forms', 'libc.so.6']) {
      const text = lab.read(pid, `coverage/${module}`);
      const functions = numberOf(text, 'functions');
      const probed = numberOf(text, 'probed');
      const forms = ['jmp', 'short', 'punned'].map((form) => numberOf(text, form));
      t.ok(numberOf(text, 'percent') >= 99.5, `${module}: ${numberOf(text, 'percent')} %`);
      t.equal(forms[0]! + forms[1]! + forms[2]!, probed, `${module}: each has a form`);
      const refused = [...text.matchAll(/^! (\S+) (\w+)$/gm)];
      t.equal(refused.length, functions - probed, `${module}: each of the others is named`);
      t.notOk(
        refused.some(([, , code]) => code === 'other'),
        `${module}: with a code`,
      );
    }
    // Eight letters that begin with st: as strip's temporary files do, which are no functions.
    t.match(lab.read(pid, 'disasm/strerror'), /^# libc.so.6:strerror\+0x0/, 'strerror is found');
    const missing = await lab.sh(`cat ${lab.proc(pid, 'coverage/libnone.so')}`);
    t.match(missing.err, /No such file or directory/, 'a module that is not mapped');
  });
});

await t.test('what it says of returns is what attaching does', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('forms.c'), ['1']);
    const { pid } = target;
    t.ok(await target.says(/round/), 'the target works');
    const said = numberOf(lab.read(pid, 'coverage/forms'), 'exit_form_ret');
    const lines = lab.read(pid, 'symbols/forms').trimEnd().split('\n');
    const byAddr = new Map(lines.map((line) => [line.split(' ')[0], line.split(' ')]));
    let found = 0;
    for (const [, size = '0', , name = ''] of byAddr.values()) {
      if (size === '0') continue;
      const where = `uretprobe/forms:${name}`;
      if ((await lab.attach(pid, lab.bpf('entry'), where)).code !== 0) continue;
      const id = lab.hooks(pid)[0]?.['id'];
      if (/^exit_form +ret$/m.test(lab.read(pid, `hooks/by-id/${id}/info`))) found++;
      else t.comment(`${name}: balanced`);
      t.equal((await lab.detach(pid, where)).code, 0, name);
    }
    t.equal(found, said, 'functions whose returns are caught at their rets');
    t.notMatch(target.text, /WRONG/);
  });
});
