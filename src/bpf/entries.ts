// Lines of maps/<map>/entries: `KEY: VALUE`, typed by BTF. Per-CPU maps have a list of one value
// per CPU. What is read can be written back; `-KEY` deletes.
import type { BpfMapInfo, BpfObjectInfo } from '../native.js';
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

const roundUp8 = (bytes: number): number => Math.ceil(bytes / 8) * 8;
const isPerCpu = (map: BpfMapInfo): boolean => perCpuTypes.has(map.type);

function valueBytes(map: BpfMapInfo): number {
  return isPerCpu(map) ? roundUp8(map.valueSize) * map.cpuCount : map.valueSize;
}

function showValue(map: BpfMapInfo, plan: Plan, bytes: Buffer): string {
  if (!isPerCpu(map)) return formatValue(plan, bytes);
  const stride = roundUp8(map.valueSize);
  const values = [];
  for (let cpu = 0; cpu < map.cpuCount; cpu++) {
    const start = cpu * stride;
    values.push(formatValue(plan, bytes.subarray(start, start + map.valueSize)));
  }
  return `[${values.join(',')}]`;
}

/** All entries of a dump (native.bpfMapDump), a line each. */
export function showEntries(
  object: BpfObjectInfo,
  map: BpfMapInfo,
  dump: { count: number; entries: Buffer },
): string {
  const [key, value] = [keyPlan(object, map), valuePlan(object, map)];
  const entryBytes = map.keySize + valueBytes(map);
  const lines = [];
  for (let i = 0; i < dump.count; i++) {
    const entry = dump.entries.subarray(i * entryBytes, (i + 1) * entryBytes);
    const keyText = formatValue(key, entry.subarray(0, map.keySize));
    lines.push(`${keyText}: ${showValue(map, value, entry.subarray(map.keySize))}\n`);
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

/**
 * Parses `KEY: VALUE` or `-KEY`.
 * @throws {FsError} EINVAL with the column of the mistake
 */
export function parseEntry(object: BpfObjectInfo, map: BpfMapInfo, line: string): EntryChange {
  const refuseAt =
    (reader: TextReader) =>
    (reason: string): never =>
      reader.refuse(reason);
  const [key, value] = [keyPlan(object, map), valuePlan(object, map)];
  if (line.trimStart().startsWith('-')) {
    // `-5: 1` is an update of key -5, `-5` the deletion of key 5.
    const deletion = new TextReader(line, line.indexOf('-') + 1);
    const keyValue = deletion.value();
    if (deletion.atEnd()) {
      return { key: encodeValue(key, keyValue, refuseAt(deletion)), value: undefined };
    }
  }
  const reader = new TextReader(line);
  const keyBytes = encodeValue(key, reader.value(), refuseAt(reader));
  reader.expect(':');
  const parsed = reader.value();
  if (!reader.atEnd()) reader.refuse('after the value: the line should end');
  return { key: keyBytes, value: encodeValues(map, value, parsed, reader) };
}
