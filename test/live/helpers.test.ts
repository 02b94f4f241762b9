// What helpers say in a real process, and maps as text: typed by BTF, read, written, deleted.
import t from 'tap';
import { codeHash, eventually, Lab, sameCode } from '../helpers/lab.js';

t.setTimeout(60_000);

const NOBODY = 65534;
const FILE = 'uprobe/speak';

interface Facts {
  func_ip: number;
  stack: number[];
  [name: string]: unknown;
}

await t.test('helpers and maps', async (t) => {
  await Lab.run(t, async (lab) => {
    const target = lab.start(lab.build('speaker.c'), [], { uid: NOBODY });
    const { pid } = target;
    const started = await target.says(/speak (0x[0-9a-f]+) caller (0x[0-9a-f]+)/);
    const [speak, caller] = [Number(started?.[1]), Number(started?.[2])];
    t.ok(await target.says(/round/));
    const before = codeHash(pid);
    const events = lab.follow(lab.proc(pid, 'events'));
    const all = lab.follow(`${lab.mount.mountpoint}/events`);
    t.same(await lab.attach(pid, lab.bpf('facts'), FILE), { code: 0, out: '', err: '' });
    t.ok(await eventually(() => lab.hits(pid, FILE) > 20), 'entries and returns run');

    const facts = async (text: string): Promise<Facts> => {
      const line = await eventually(() => {
        const now = lab.read(pid, 'maps/last/entries');
        return now.includes(`"text":"${text}"`) && now.includes(`"formatted":"${text} `) && now;
      });
      return JSON.parse((line || '0: {}').replace(/^0: /, '')) as Facts;
    };
    const odd = await facts('odd words');
    const uptimeNs = Number(process.hrtime.bigint());
    t.match(odd, {
      func_ip: speak,
      cookie: 0,
      tgid: pid,
      tid: pid,
      uid: NOBODY,
      gid: NOBODY,
      comm: 'speaker',
      text: 'odd words',
      text_bytes: 10,
      formatted: 'odd words at -5',
      mood: 'LOUD',
      bad_read: -14,
      compared: 0,
    });
    t.equal((odd['at'] as { y: number }).y, -5, 'a struct behind a pointer');
    t.equal(odd.stack[0], speak, 'the stack begins with the function');
    const back = odd.stack[1]! - caller;
    t.ok(back > 0 && back < 200, `and goes on in its caller+${back}`);
    t.ok((odd['stack_bytes'] as number) >= 16);
    const age = uptimeNs - (odd['time_ns'] as number);
    t.ok(age > -1e9 && age < 30e9, 'ktime is CLOCK_MONOTONIC');
    const even = await facts('even words');
    t.match(even, { mood: 'CALM', func_ip: speak });
    t.ok((even['compared'] as number) < 0, 'strncmp orders');
    t.ok((even['time_ns'] as number) !== odd['time_ns']);

    t.ok(await events.says(/"type":"printk".*"msg":"speak odd words x=[012] mood=7"/), 'printk');
    t.ok(await all.says(/"msg":"speak even words x=[012] mood=0"/), 'in the common events, too');
    const line = events.text.split('\n')[0]!;
    t.match(JSON.parse(line), { type: 'printk', pid, tid: pid, comm: 'speaker' }, 'JSON lines');

    const results = () => /"results":\[(\d+),(\d+)\]/.exec(lab.read(pid, 'maps/speak.bss/entries'));
    t.ok(Number(results()?.[1]) > 0, 'a global counts one result');
    t.ok(Number(results()?.[2]) > 0, 'and the others');

    const moods = lab.proc(pid, 'maps/moods/entries');
    const lines = () => lab.read(pid, 'maps/moods/entries').trim().split('\n').sort();
    for (const entry of lines()) {
      t.match(entry, /^\{"x":[012],"y":-5\}: "(CALM|LOUD)"$/, 'struct keys, enum values');
    }
    const write = async (text: string) => await lab.sh(`echo '${text}' >> ${moods}`);
    t.equal((await write('{"x":9,"y":9}: "LOUD"')).code, 0, 'echo writes an entry');
    t.ok(lines().includes('{"x":9,"y":9}: "LOUD"'), 'as it is read');
    t.equal((await write('-{"x":9,"y":9}')).code, 0, 'echo deletes an entry');
    t.notOk(
      lines().some((entry) => entry.startsWith('{"x":9')),
      'it is gone',
    );
    const wrong = await write('{"x":9,"y":9}: "SLEEPY"');
    t.match(wrong.err, /Invalid argument/, 'a name that the enum lacks is refused');
    t.match(lab.read(pid, 'last_error'), /EINVAL .*SLEEPY/);
    const absent = await write('-{"x":77,"y":77}');
    t.match(absent.err, /No such file or directory/, 'deleting what is not there is an error');

    const reset = `echo '0: {"results":[0,0]}' > ${lab.proc(pid, 'maps/speak.bss/entries')}`;
    const counted = Number(results()?.[1]);
    t.equal((await lab.sh(reset)).code, 0, 'globals can be set');
    t.ok(Number(results()?.[1]) < counted + 1, 'and count from there');

    t.match(lab.read(pid, 'maps/last/info'), /^type array$/m);
    t.equal((await lab.detach(pid, FILE)).code, 0);
    await sameCode(t, pid, before, 'after rm');
    t.ok(await target.advances(), 'the target works on');
  });
});
