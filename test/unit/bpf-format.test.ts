// Records by BTF: what native prints is what TypeScript prints, and what is printed can be written.
import t, { type Test } from 'tap';
import { Btf } from '../../src/bpf/btf.js';
import { encodeValue } from '../../src/bpf/encode.js';
import { parseEntry, showEntries } from '../../src/bpf/entries.js';
import { formatValue } from '../../src/bpf/format.js';
import { compilePlan, encodePlan, type Plan, PlanCode, planRest } from '../../src/bpf/plan.js';
import { planOfRecord } from '../../src/bpf/record-plan.js';
import { TextReader } from '../../src/bpf/text-value.js';
import { type BpfObjectInfo, native } from '../../src/native.js';
import { compileBpf } from '../helpers/bpf-objects.js';

function mapNamed(object: BpfObjectInfo, name: string) {
  const map = object.maps.find((m) => m.name === name);
  if (map === undefined) throw new Error(`no map ${name}`);
  return map;
}

function refusal(action: () => void): unknown {
  try {
    action();
    return undefined;
  } catch (error) {
    return error;
  }
}

// Both engines, which must agree.
function format(t: Test, plan: Plan, record: Buffer): string {
  const text = formatValue(plan, record);
  t.equal(native.bpfFormatRecord(encodePlan(plan), record), text, `native agrees on ${text}`);
  return text;
}

// Native looks at sixteen bytes at a time: every byte at every place of a word and behind the last.
t.test('text', async (t) => {
  const plan: Plan = {
    ops: [PlanCode.chars, 0, planRest, 0],
    tables: [],
    strings: '',
    sizeBytes: 37,
  };
  const encoded = encodePlan(plan);
  const wrong: string[] = [];
  for (let place = 0; place < 37; place++) {
    for (let byte = 0; byte < 256; byte++) {
      const record = Buffer.alloc(37, 'x');
      record[place] = byte;
      const text = formatValue(plan, record);
      if (native.bpfFormatRecord(encoded, record) !== text) wrong.push(`${place} ${byte} ${text}`);
    }
  }
  t.same(wrong, []);
  // It quotes texts piece by piece; what is no text may show late.
  const letters = '"quoted" \\ and\r\n\r\n\r\n\r\n\r\n lines \u00e4\u20ac\u{1f600} ';
  for (const end of ['', '\u00e4', '\x01', '"', '\x7f']) {
    for (let repeat = 25; repeat < 45; repeat++) {
      const record = Buffer.from(letters.repeat(repeat) + end);
      const text = formatValue(plan, record);
      if (native.bpfFormatRecord(encoded, record) !== text) wrong.push(`${repeat} ${end}`);
    }
  }
  t.same(wrong, []);
});

// Keys and numbers gather before they are appended: many, and names that are too long for that.
t.test('numbers with long names', async (t) => {
  const ops: number[] = [PlanCode.object, 0, 0, 0];
  let strings = '';
  for (let i = 0; i < 60; i++) {
    const name = `n${i}`.padEnd(i % 7 === 6 ? 200 + i : 2 + i, '_');
    const bytes = [1, 2, 4, 8][i % 4]!;
    ops.push(PlanCode.key, 0, strings.length, name.length, PlanCode.int, i * 8, bytes, i & 1);
    strings += name;
  }
  ops.push(PlanCode.end, 0, 0, 0);
  const plan: Plan = { ops, tables: [], strings, sizeBytes: 480 };
  for (const fill of [0, 1, 0x7f, 0x80, 0xff]) {
    const line = format(t, plan, Buffer.alloc(480, fill));
    t.equal(Object.keys(JSON.parse(line)).length, 60, `all are there (${fill})`);
  }
  format(t, plan, Buffer.alloc(100, 0xff));
});

t.test('types', async (t) => {
  const object = await native.bpfLoad({ name: 'types', bytes: compileBpf('types') });
  const btf = Btf.parse(object.btf);
  const sample = btf.find('sample', 'struct');
  if (sample === undefined) throw new Error('no struct sample');
  t.equal(btf.typeName(sample.id), 'struct sample');
  t.same(
    sample.members.map((m) => `${btf.typeName(m.type)} ${m.name}`),
    [
      'signed char tiny',
      '_Bool yes',
      'short small',
      'enum color color',
      'unsigned long wide',
      'double ratio',
      'float narrow',
      'void * pointer',
      'char[8] name',
      'unsigned int[3] triple',
      'struct point[2] line',
      'struct {...} ',
      'union {...} ',
      'unsigned int low',
      'int mid',
      'unsigned int high',
    ],
  );
  const plan = compilePlan(btf, sample.id, sample.size);
  const at = (name: string): number =>
    (sample.members.find((m) => m.name === name)?.bitOffset ?? 0) / 8;
  const record = Buffer.alloc(sample.size);
  record.writeInt8(-5, at('tiny'));
  record[at('yes')] = 1;
  record.writeInt16LE(-300, at('small'));
  record.writeInt32LE(-2, at('color'));
  record.writeBigUInt64LE(0xffffffffffffffffn, at('wide'));
  record.writeDoubleLE(0.1, at('ratio'));
  record.writeFloatLE(1.5, at('narrow'));
  record.writeBigUInt64LE(0x7fff12345678n, at('pointer'));
  record.write('a"b\nü', at('name'));
  record.writeUInt32LE(7, at('triple') + 8);
  record.writeInt32LE(-9, at('line') + 12);
  record.writeUInt32LE((0b101 | (0b11110 << 3) | (0xabcdef << 8)) >>> 0, at('low'));
  const text = format(t, plan, record);
  t.matchOnly(
    text,
    '{"tiny":-5,"yes":true,"small":-300,"color":"RED","wide":18446744073709551615,' +
      '"ratio":0.1,"narrow":1.5,"pointer":"0x7fff12345678","name":"a\\"b\\nü","triple":[0,0,7],' +
      '"line":[{"x":0,"y":0},{"x":0,"y":-9}],"inner":0,"as_int":0,' +
      '"low":5,"mid":-2,"high":11259375}',
  );
  const back = encodeValue(plan, new TextReader(text).value(), (reason) => {
    throw new Error(reason);
  });
  t.same(back, record, 'text back to the same bytes');

  // Short records, unprintable names, odd numbers: still JSON, and the same on both sides.
  for (let length = 0; length < record.length; length++) {
    JSON.parse(format(t, plan, record.subarray(0, length)));
  }
  let seed = 1;
  for (let i = 0; i < 500; i++) {
    for (let k = 0; k < record.length; k++) {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      record[k] = seed >>> 24;
    }
    JSON.parse(format(t, plan, record));
  }
  for (const value of [
    0,
    -0,
    1e21,
    1e-7,
    123456.789,
    5e-324,
    -1.5e300,
    Number.NaN,
    1e20,
    0.00001,
  ]) {
    record.writeDoubleLE(value, at('ratio'));
    format(t, plan, record);
  }
  native.bpfUnload(object.id);
});

t.test('records of rings', async (t) => {
  const object = await native.bpfLoad({ name: 'maps', bytes: compileBpf('maps') });
  const plan = planOfRecord(object, mapNamed(object, 'events'));
  if (plan === undefined) throw new Error('no plan');
  const record = Buffer.alloc(40);
  record.writeBigUInt64LE(12n, 0);
  record.writeUInt32LE(34, 8);
  record.writeUInt32LE(2, 12);
  record.write('/etc/hostname', 16);
  record[32] = 0b1011;
  record.writeInt16LE(-3, 34);
  t.equal(
    native.bpfFormatRecord(plan, record),
    '{"time_ns":12,"pid":34,"kind":"EVENT_CLOSE","name":"/etc/hostname","flag":1,"level":5,"delta":-3}',
  );
  t.ok(planOfRecord(object, mapNamed(object, 'samples')), 'perf records are struct event by name');
  t.throws(() => native.bpfFormatRecord(plan.subarray(0, 30), record), { code: 'EINVAL' });
  for (let i = 0; i < plan.length; i++) {
    const broken = Buffer.from(plan);
    broken[i] = (broken[i] ?? 0) ^ 0x5a;
    try {
      native.bpfFormatRecord(broken, record);
    } catch (error) {
      t.match(error, { code: 'EINVAL' });
    }
  }
  native.bpfUnload(object.id);
});

t.test('entries', async (t) => {
  const object = await native.bpfLoad({ name: 'maps', bytes: compileBpf('maps') });
  const show = (name: string): string => {
    const map = mapNamed(object, name);
    return showEntries(object, map, native.bpfMapDump(map.id, 100));
  };
  const write = (name: string, line: string): void => {
    const map = mapNamed(object, name);
    const change = parseEntry(object, map, line);
    if (change.value === undefined) native.bpfMapDelete(map.id, change.key);
    else native.bpfMapUpdate(map.id, change.key, change.value, 0);
  };
  write('counts', '5: 42');
  write('counts', ' 0x6 : 0x2b ');
  t.equal(show('counts'), '5: 42\n6: 43\n');
  write('counts', '-5');
  t.equal(show('counts'), '6: 43\n');
  const line =
    '7: {"time_ns":1,"pid":2,"kind":"EVENT_OPEN","name":"x","flag":0,"level":7,"delta":-1}';
  write('recent', line);
  t.equal(show('recent'), `${line}\n`);
  write('recent', '7: {time_ns: 2, pid: 2, kind: 2, name: y, flag: 1, level: 0, delta: 0}');
  t.match(show('recent'), /"kind":"EVENT_CLOSE","name":"y"/);
  const { cpuCount } = mapNamed(object, 'percpu');
  const zeros = Array(cpuCount - 1).fill(0);
  write('percpu', `0: [${[9, ...zeros].join(',')}]`);
  t.equal(show('percpu'), `0: [${[9, ...zeros].join(',')}]\n`);
  t.equal(show('slots').split('\n').length, 5);
  t.match(show('maps.data'), '0: {"total":100}');
  for (const [name, bad, reason] of [
    ['counts', '5', /KEY: VALUE|expected ':'/],
    ['counts', '5: ', /a value is missing/],
    ['counts', '-1: 5', /-1 is not in 0\.\.4294967295/],
    ['counts', '5: 6 7', /the line should end/],
    ['counts', 'x: 6', /expected a whole number/],
    ['recent', '7: {"time_ns":1}', /field pid is missing/],
    ['recent', line.replace('"delta"', '"x":1,"delta"'), /x: no such field/],
    ['recent', line.replace('"x"', '"01234567890123456"'), /17 bytes, at most 16/],
    [
      'recent',
      line.replace('EVENT_OPEN', 'EVENT_NONE'),
      /EVENT_NONE is none of EVENT_OPEN, EVENT_/,
    ],
    ['recent', '7: {"time_ns', /closing quote is missing/],
    ['percpu', '0: 5', /one per CPU/],
  ] as const) {
    t.match(
      refusal(() => write(name, bad)),
      { errno: 'EINVAL', reason },
      bad,
    );
  }
  native.bpfUnload(object.id);
});

t.test('entries without keys', async (t) => {
  const object = await native.bpfLoad({ name: 'kinds', bytes: compileBpf('kinds') });
  const show = (name: string): string => {
    const map = mapNamed(object, name);
    return showEntries(object, map, native.bpfMapDump(map.id, 100));
  };
  const write = (name: string, line: string): void => {
    const map = mapNamed(object, name);
    const change = parseEntry(object, map, line);
    if (change.value === undefined) native.bpfMapDelete(map.id, change.key);
    else native.bpfMapUpdate(map.id, change.key, change.value, 0);
  };
  const jobs = ['{"id":1,"weight":10}', '{"id":2,"weight":20}', '{"id":3,"weight":30}'];
  for (const job of jobs) write('jobs', job);
  t.equal(show('jobs'), `${jobs.join('\n')}\n`, 'a queue from the oldest to the newest');
  t.match(
    refusal(() => write('jobs', '{"id":4,"weight":1}')),
    { code: 'E2BIG' },
  );
  write('jobs', ' - ');
  t.equal(show('jobs'), `${jobs.slice(1).join('\n')}\n`, 'the oldest is taken out');
  for (const value of [1, 2, 3]) write('recent', String(value));
  write('recent', '-');
  t.equal(show('recent'), '1\n2\n', 'of a stack the newest');
  write('seen', '77');
  t.equal(show('seen'), '', 'a bloom filter keeps no values');
  write('routes', '{"prefixlen":8,"data":"0x0a010203"}: 100');
  write('routes', '{"prefixlen":24,"data":"0x0a010203"}: 200');
  t.match(
    show('routes'),
    '{"prefixlen":24,"data":"0x0a010200"}: 200\n',
    'bits that do not count are zero',
  );
  t.match(
    refusal(() => write('routes', '{"prefixlen":33,"data":"0x00000000"}: 1')),
    { code: 'EINVAL', message: /refuses the entry/ },
  );
  write('routes', '-{"prefixlen":24,"data":"0x0a010263"}');
  t.equal(show('routes').split('\n').length, 2);
  for (const [name, bad, reason] of [
    ['jobs', '5: 6', /expected \{/],
    ['recent', '5: 6', /the line should end \(there are no keys\)/],
    ['recent', '- 5', /whole number|5/],
    ['seen', '-', /nothing can be taken out of a bloom filter/],
  ] as const) {
    t.match(
      refusal(() => write(name, bad)),
      { errno: 'EINVAL', reason },
      bad,
    );
  }
  native.bpfUnload(object.id);
});
