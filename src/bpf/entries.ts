// Lines of maps/<map>/entries: `KEY: VALUE`, typed by BTF. Per-CPU maps have a list of one value
// per CPU. What is read can be written back; `-KEY` deletes. Queues, stacks and bloom filters have
// no keys: a line is a `VALUE` that is pushed, `-` takes out what a program would get next. Values
// of stack trace maps are lists of addresses, with what stands there, which only programs write;
// those of program arrays are names of programs.
import { fail } from '../errors.js';
import type { BpfMapInfo, BpfObjectInfo } from '../native.js';
import type { DescribeAddress } from '../types.js';
import { encodeValue } from './encode.js';
import { formatValue } from './format.js';
import { keyPlan, valuePlan } from './object-types.js';
import type { Plan } from './plan.js';
import { TextReader, type TextValue } from './text-value.js';

/** PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH. */
const perCpuTypes = new Set([5, 6, 10]);

/** One change of a map: an update, or a deletion when there is no value. */
export interface EntryChange {
  key: Buffer;
  value: Buffer | undefined;
}

/** QUEUE, STACK, BLOOM_FILTER. */
const keylessTypes = new Set([22, 23, 30]);
const BLOOM_FILTER = 30;
const STACK_TRACE = 7;
/** ARRAY_OF_MAPS, HASH_OF_MAPS: values are ids of maps. */
const nestedTypes = new Set([12, 13]);

/** Values are programs, shown by their names. */
const PROG_ARRAY = 3;

const roundUp8 = (bytes: number): number => Math.ceil(bytes / 8) * 8;
const isPerCpu = (map: BpfMapInfo): boolean => perCpuTypes.has(map.type);
const isKeyless = (map: BpfMapInfo): boolean => keylessTypes.has(map.type);

function valueBytes(map: BpfMapInfo): number {
  return isPerCpu(map) ? roundUp8(map.valueSize) * map.cpuCount : map.valueSize;
}

/** Addresses, from the probe outwards; zeroes fill up what is left. */
function addressesOf(bytes: Buffer): bigint[] {
  const addresses = [];
  for (let at = 0; at + 8 <= bytes.length; at += 8) {
    const address = bytes.readBigUInt64LE(at);
    if (address === 0n) break;
    addresses.push(address);
  }
  return addresses;
}

const showAddress = (address: bigint): string => `0x${address.toString(16)}`;

function showStack(bytes: Buffer, describe: DescribeAddress): string {
  const texts = addressesOf(bytes).map((address, index) => describe(address, index > 0));
  return `[${texts.map((text) => JSON.stringify(text)).join(',')}]`;
}

/** All addresses of a dump of a stack trace map; none of another map's. */
export function stackAddresses(map: BpfMapInfo, dump: Dump): Set<bigint> {
  if (map.type !== STACK_TRACE) return new Set();
  const entryBytes = map.keySize + map.valueSize;
  const stacks = Array.from({ length: dump.count }, (_, i) =>
    dump.entries.subarray(i * entryBytes + map.keySize, (i + 1) * entryBytes),
  );
  return new Set(stacks.flatMap(addressesOf));
}

/** A program's name; one of another object by its id. */
function showProgram(object: BpfObjectInfo, bytes: Buffer): string {
  const id = bytes.readUInt32LE(0);
  return object.programs.find((program) => program.id === id)?.name ?? `${id}`;
}

/** The id of the program that a line names. */
function readProgram(object: BpfObjectInfo, text: string, line: string): Buffer {
  const name = text.trim();
  const found = object.programs.find((one) => one.name === name || `${one.id}` === name);
  if (found === undefined) {
    const known = object.programs.map((program) => program.name).join(', ');
    fail('ENOENT', `${line}: ${name} is no program of the object (it has ${known})`);
  }
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(found.id);
  return bytes;
}

function showValue(map: BpfMapInfo, plan: Plan, bytes: Buffer, describe: DescribeAddress): string {
  if (map.type === STACK_TRACE) return showStack(bytes, describe);
  if (!isPerCpu(map)) return formatValue(plan, bytes);
  const stride = roundUp8(map.valueSize);
  const values = [];
  for (let cpu = 0; cpu < map.cpuCount; cpu++) {
    const start = cpu * stride;
    values.push(formatValue(plan, bytes.subarray(start, start + map.valueSize)));
  }
  return `[${values.join(',')}]`;
}

/** What native.bpfMapDump gives. */
interface Dump {
  count: number;
  entries: Buffer;
}

/** All entries of a dump, a line each; `describe` says what the addresses of stacks are. */
export function showEntries(
  object: BpfObjectInfo,
  map: BpfMapInfo,
  dump: Dump,
  describe: DescribeAddress = showAddress,
): string {
  const [key, value] = [keyPlan(object, map), valuePlan(object, map)];
  const entryBytes = map.keySize + valueBytes(map);
  const lines = [];
  for (let i = 0; i < dump.count; i++) {
    const entry = dump.entries.subarray(i * entryBytes, (i + 1) * entryBytes);
    const keyText = isKeyless(map) ? '' : `${formatValue(key, entry.subarray(0, map.keySize))}: `;
    const bytes = entry.subarray(map.keySize);
    const isProgram = map.type === PROG_ARRAY;
    const text = isProgram ? showProgram(object, bytes) : showValue(map, value, bytes, describe);
    lines.push(`${keyText}${text}\n`);
  }
  return lines.join('');
}

function encodeValues(map: BpfMapInfo, plan: Plan, value: TextValue, reader: TextReader): Buffer {
  const refuse = (reason: string): never => reader.refuse(reason);
  if (!isPerCpu(map)) return encodeValue(plan, value, refuse);
  if (!Array.isArray(value) || value.length !== map.cpuCount) {
    reader.refuse(`value: expected [...] of ${map.cpuCount} values, one per CPU`);
  }
  const stride = roundUp8(map.valueSize);
  const bytes = Buffer.alloc(stride * map.cpuCount);
  for (const [cpu, one] of value.entries())
    encodeValue(plan, one, refuse).copy(bytes, cpu * stride);
  return bytes;
}

function parsePushed(plan: Plan, map: BpfMapInfo, line: string): EntryChange {
  const key = Buffer.alloc(0);
  if (line.trim() === '-') {
    if (map.type !== BLOOM_FILTER) return { key, value: undefined };
    fail('EINVAL', '-: nothing can be taken out of a bloom filter (load the object anew)');
  }
  const reader = new TextReader(line);
  const value = encodeValue(plan, reader.value(), (reason) => reader.refuse(reason));
  if (!reader.atEnd()) reader.refuse('after the value: the line should end (there are no keys)');
  return { key, value };
}

/**
 * Parses `KEY: VALUE` or `-KEY`; of maps without keys `VALUE` or `-`.
 * @throws {FsError} EINVAL with the column of the mistake
 */
export function parseEntry(object: BpfObjectInfo, map: BpfMapInfo, line: string): EntryChange {
  const refuseAt =
    (reader: TextReader) =>
    (reason: string): never =>
      reader.refuse(reason);
  const [key, value] = [keyPlan(object, map), valuePlan(object, map)];
  if (isKeyless(map)) return parsePushed(value, map, line);
  if (line.trimStart().startsWith('-')) {
    // `-5: 1` is an update of key -5, `-5` the deletion of key 5.
    const deletion = new TextReader(line, line.indexOf('-') + 1);
    const keyValue = deletion.value();
    if (deletion.atEnd()) {
      return { key: encodeValue(key, keyValue, refuseAt(deletion)), value: undefined };
    }
  }
  if (nestedTypes.has(map.type)) {
    fail(
      'EINVAL',
      `${line}: what is in a map of maps, its object file says (write to the inner map)`,
    );
  }
  if (map.type === STACK_TRACE) fail('EINVAL', `${line}: only programs write stacks (-ID deletes)`);
  const reader = new TextReader(line);
  const keyBytes = encodeValue(key, reader.value(), refuseAt(reader));
  reader.expect(':');
  if (map.type === PROG_ARRAY) {
    return { key: keyBytes, value: readProgram(object, line.slice(reader.offset), line) };
  }
  const parsed = reader.value();
  if (!reader.atEnd()) reader.refuse('after the value: the line should end');
  return { key: keyBytes, value: encodeValues(map, value, parsed, reader) };
}
