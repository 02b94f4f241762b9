// maps/<map>: the maps of attached objects as text (typed by BTF), as bytes, and as a stream.
import type { AttachEngine } from '../attach/engine.js';
import type { NamedMap } from '../attach/state.js';
import { parseEntry, showEntries, stackAddresses } from '../bpf/entries.js';
import { MAP_ENTRIES_SHOWN_MAX, STREAM_RETAINED_BYTES } from '../config.js';
import { fail, refusalOf } from '../errors.js';
import { native } from '../native.js';
import { describeAddresses } from '../symbols/describe.js';
import type { Pid } from '../types.js';
import { keyedLines } from './format.js';
import type { Context, Row } from './node.js';
import { pidOf } from './procs.js';

/** Names of enum bpf_map_type, as bpftool prints them. */
const TYPE_NAMES: Record<number, string> = {
  1: 'hash',
  2: 'array',
  3: 'prog_array',
  4: 'perf_event_array',
  5: 'percpu_hash',
  6: 'percpu_array',
  7: 'stack_trace',
  8: 'cgroup_array',
  9: 'lru_hash',
  10: 'lru_percpu_hash',
  11: 'lpm_trie',
  12: 'array_of_maps',
  13: 'hash_of_maps',
  22: 'queue',
  23: 'stack',
  27: 'ringbuf',
  29: 'task_storage',
  30: 'bloom_filter',
};

function mapOf(engine: AttachEngine, context: Context): NamedMap {
  const name = context.params['map'] ?? '';
  const map = engine.process(pidOf(context))?.maps.get(name);
  return map ?? fail('ENOENT', `${name}: no such map`);
}

function infoText({ info, object, name }: NamedMap): string {
  return keyedLines([
    ['name', name],
    ['id', info.id],
    ['type', TYPE_NAMES[info.type] ?? info.type],
    ['key_size', info.keySize],
    ['value_size', info.valueSize],
    ['max_entries', info.maxEntries],
    ['flags', `0x${info.flags.toString(16)}`],
    ['storage_bytes', info.storageBytes],
    ['file', `${object.dir}/${object.name}`],
  ]);
}

async function entriesText(map: NamedMap, pid: Pid): Promise<string> {
  const dump = native.bpfMapDump(map.info.id, MAP_ENTRIES_SHOWN_MAX);
  const describe = await describeAddresses(pid, stackAddresses(map.info, dump));
  return showEntries(map.object.info, map.info, dump, describe);
}

function writeEntries(map: NamedMap, lines: string[]): void {
  // All lines are understood before the first one changes anything.
  const changes = lines.map((line) => ({
    line,
    change: parseEntry(map.object.info, map.info, line),
  }));
  for (const { line, change } of changes) {
    try {
      if (change.value === undefined) native.bpfMapDelete(map.info.id, change.key);
      else native.bpfMapUpdate(map.info.id, change.key, change.value, 0);
    } catch (error) {
      throw refusalOf(error, line) ?? error;
    }
  }
}

/** Rows of procs/<pid>/maps. */
export function mapsRows(engine: AttachEngine): Row[] {
  const map = '/procs/<pid>/maps/<map>';
  return [
    { pattern: '/procs/<pid>/maps', kind: 'dir', doc: 'maps of the attached objects' },
    { pattern: map, kind: 'dir', doc: 'one map' },
    {
      pattern: `${map}/info`,
      kind: 'generated',
      doc: 'type and geometry in `key value` lines',
      handlers: { read: (context) => infoText(mapOf(engine, context)) },
    },
    {
      pattern: `${map}/entries`,
      kind: 'line',
      doc: 'one `KEY: VALUE` line per entry, typed by BTF; write a line to update, `-KEY` to delete; queues and stacks: `VALUE` lines, oldest first, `-` takes one out',
      handlers: {
        read: (context) => entriesText(mapOf(engine, context), pidOf(context)),
        line: (context, lines) => writeEntries(mapOf(engine, context), lines),
      },
    },
    {
      pattern: `${map}/raw`,
      kind: 'generated',
      doc: 'keys and values as they lie in memory',
      handlers: {
        read: (context) =>
          native.bpfMapDump(mapOf(engine, context).info.id, MAP_ENTRIES_SHOWN_MAX).entries,
      },
    },
    {
      pattern: `${map}/stream`,
      kind: 'stream',
      doc: 'records of a ring or perf buffer as JSON lines; blocks, poll works',
      maxBytes: STREAM_RETAINED_BYTES,
    },
  ];
}
