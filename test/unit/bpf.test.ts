// Objects from clang through the addon: load, run, read maps, refusals with reasons.
import { readFileSync } from 'node:fs';
import t from 'tap';
import { type BpfObjectInfo, type NativeError, native } from '../../src/native.js';
import { compileBpf } from '../helpers/bpf-objects.js';

const regNames = ['r15', 'r14', 'r13', 'r12', 'bp', 'bx', 'r11', 'r10', 'r9', 'r8', 'ax', 'cx'];
const regOffset = (name: string): number =>
  8 * [...regNames, 'dx', 'si', 'di', 'orig', 'ip', 'cs', 'flags', 'sp', 'ss'].indexOf(name);

function regs(values: Record<string, bigint>): Buffer {
  const ctx = Buffer.alloc(168);
  for (const [name, value] of Object.entries(values)) ctx.writeBigUInt64LE(value, regOffset(name));
  return ctx;
}

function run(object: BpfObjectInfo, name: string, values: Record<string, bigint> = {}): number {
  const prog = object.programs.find((p) => p.name === name);
  if (prog === undefined) throw new Error(`no program ${name}`);
  const { result } = native.bpfTestRun({ progId: prog.id, ctx: regs(values), engine: 'jit' });
  return Number(BigInt.asIntN(32, result));
}

const mapId = (object: BpfObjectInfo, name: string): number =>
  object.maps.find((m) => m.name === name)?.id ?? 0;

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};

t.test('an object of every map type', async (t) => {
  const object = await native.bpfLoad({ name: 'maps', bytes: compileBpf('maps') });
  t.same(object.programs.map((p) => `${p.section} ${p.name}`).sort(), [
    'syscall/openat/enter custom',
    'uprobe/arrays arrays',
    'uprobe/count count',
    'uprobe/emit emit',
    'uprobe/globals globals',
    'uretprobe/print print',
  ]);
  t.same(object.maps.map((m) => m.name).sort(), [
    'counts',
    'events',
    'maps.bss',
    'maps.data',
    'maps.rodata',
    'percpu',
    'recent',
    'samples',
    'slots',
  ]);
  t.ok(object.btf.length > 100, 'BTF');

  t.equal(run(object, 'count', { di: 5n, si: 10n }), 10);
  t.equal(run(object, 'count', { di: 5n, si: 32n }), 42);
  const counts = mapId(object, 'counts');
  t.equal(native.bpfMapLookup(counts, u32(5))?.readBigUInt64LE(), 42n, 'read a value');
  t.equal(native.bpfMapLookup(counts, u32(6)), undefined, 'no such key');
  native.bpfMapUpdate(counts, u32(6), Buffer.from('0700000000000000', 'hex'), 0);
  t.equal(run(object, 'count', { di: 6n, si: 1n }), 8, 'programs see what is written');
  const dump = native.bpfMapDump(counts, 100);
  t.equal(dump.count, 2);
  t.equal(dump.entries.length, 2 * 12);
  native.bpfMapDelete(counts, u32(5));
  t.throws(() => native.bpfMapDelete(counts, u32(5)), { code: 'ENOENT' });
  t.throws(() => native.bpfMapLookup(counts, Buffer.alloc(3)), { code: 'EINVAL' });
  t.throws(() => native.bpfMapUpdate(counts, u32(6), Buffer.alloc(8), 1), { code: 'EEXIST' });
  const rodata = native.bpfMapInfo(mapId(object, 'maps.rodata'));
  const zeroes = Buffer.alloc(rodata.valueSize);
  t.throws(() => native.bpfMapUpdate(rodata.id, u32(0), zeroes, 0), { code: 'EPERM' });

  t.equal(run(object, 'arrays', { di: 1n }), 7);
  t.equal(run(object, 'arrays', { di: 99n }), -1);
  const percpu = native.bpfMapLookup(mapId(object, 'percpu'), u32(0)) ?? Buffer.alloc(0);
  const cpuCount = native.bpfMapInfo(mapId(object, 'percpu')).cpuCount;
  t.equal(percpu.length, 8 * cpuCount, 'all CPUs');
  let sum = 0n;
  for (let cpu = 0; cpu < cpuCount; cpu++) sum += percpu.readBigUInt64LE(cpu * 8);
  t.equal(sum, 2n);
  t.equal(run(object, 'globals'), 107, '.data');
  t.equal(run(object, 'emit'), 1, 'ring buffer, perf event array, LRU');
  t.equal(native.bpfMapDump(mapId(object, 'recent'), 10).count, 1);
  t.equal(run(object, 'print', { ax: 3n }), 10, 'bpf_printk: length of "returned 3"');
  t.equal(run(object, 'custom'), 42);

  native.bpfUnload(object.id);
  t.throws(() => native.bpfMapInfo(counts), { code: 'ENOENT' }, 'unloading frees the maps');
});

t.test('refusals name the reason', async (t) => {
  const load = (bytes: Buffer): Promise<NativeError> =>
    native.bpfLoad({ name: 'x', bytes }).then(
      () => Promise.reject(new Error('was accepted')),
      (error: unknown) => error as NativeError,
    );
  t.match(await load(Buffer.from('#!/bin/sh\n')), { code: 'ENOEXEC', reason: 'not an ELF file' });
  t.match(await load(readFileSync('/bin/true')), { code: 'ENOEXEC', reason: /x86-64 object/ });
  t.match(await load(compileBpf('broken')), { code: 'ENOEXEC', log: /insn 1: / });
});
