// Follows the attach engine: every attached hook and map appears as a directory, every entered
// process feeds its `events`. The only place where attaching and files meet.
import { AttachEngine } from '../attach/engine.js';
import type { AttachObserver } from '../attach/observer.js';
import type { AttachedObject, EnteredProcess, NamedMap, PendingHook } from '../attach/state.js';
import { hooksOf } from '../attach/state.js';
import { planOfRecord } from '../bpf/record-plan.js';
import { SWEEP_MS } from '../config.js';
import { FsError } from '../errors.js';
import { native } from '../native.js';
import type { Pid } from '../types.js';
import type { ControlFs } from './control-fs.js';
import { hooksRows } from './hooks.js';
import { mapsRows } from './maps.js';
import type { Row } from './node.js';
import { procsRows } from './procs.js';

/** Kernel map types whose contents are records to be read once. */
const RECORD_MAP_TYPES = new Map([
  [27, 'ring'], // BPF_MAP_TYPE_RINGBUF
  [4, 'perf'], // BPF_MAP_TYPE_PERF_EVENT_ARRAY
] as const);

/** Publishes what the engine does. */
export class AttachFiles implements AttachObserver {
  readonly #fs: ControlFs;
  /** Collector sources by map id. */
  readonly #sources = new Map<number, { source: number; users: number }>();

  constructor(fs: ControlFs) {
    this.#fs = fs;
  }

  #base = (process: EnteredProcess) => `/procs/${process.identity.pid}`;

  entered(process: EnteredProcess): void {
    const { pid } = process.identity;
    this.#fs.gone.entered(pid);
    this.#collect(process.logMapId, 'log', [`/procs/${pid}/events`, '/events'], pid, '');
  }

  left(process: EnteredProcess, gone: boolean): void {
    this.#stop(process.logMapId);
    if (!gone) this.#fs.gone.left(process.identity.pid);
  }

  attached(process: EnteredProcess, object: AttachedObject): void {
    const base = this.#base(process);
    for (const hook of [...object.hooks, ...object.pending]) {
      this.#fs.publish(`${base}/hooks/by-id/${hook.id}`, '/procs/<pid>/hooks/by-id/<id>');
    }
    this.#showMaps(process, object);
  }

  /** Maps that both objects have keep their files, their readers and what is in them. */
  replaced(process: EnteredProcess, former: AttachedObject, object: AttachedObject): void {
    for (const [name, map] of process.maps) {
      const info = object.info.maps.find((one) => one.id === map.info.id);
      if (map.object !== former || !info) continue;
      process.maps.set(name, { name, info, object });
      const known = this.#sources.get(info.id);
      if (known) native.eventsReplan(known.source, planOfRecord(object.info, info));
    }
    this.detached(process, former);
    this.attached(process, object);
  }

  #showMaps(process: EnteredProcess, object: AttachedObject): void {
    const base = this.#base(process);
    const shown = new Set([...process.maps.values()].map((map) => map.info.id));
    for (const info of object.info.maps) {
      if (shown.has(info.id)) continue;
      const map = nameMap(process, { name: info.name, info, object });
      const path = `${base}/maps/${map.name}`;
      this.#fs.publish(path, '/procs/<pid>/maps/<map>');
      const kind = RECORD_MAP_TYPES.get(info.type as 4 | 27);
      if (!kind) continue;
      const { pid } = process.identity;
      const streams = [`${base}/events`, '/events', `${path}/stream`];
      this.#collect(info.id, kind, streams, pid, map.name, planOfRecord(object.info, info));
    }
  }

  detached(process: EnteredProcess, object: AttachedObject): void {
    const base = this.#base(process);
    for (const hook of [...object.hooks, ...object.pending]) {
      this.#fs.unpublish(`${base}/hooks/by-id/${hook.id}`);
    }
    for (const [name, map] of [...process.maps]) {
      if (map.object !== object) continue;
      this.#stop(map.info.id);
      process.maps.delete(name);
      this.#fs.unpublish(`${base}/maps/${name}`);
    }
  }

  appeared(object: AttachedObject, bytes: Buffer): void {
    const file = object.dir === 'hooks' ? '<object>' : '<fn>';
    this.#fs.publish(object.path, `/procs/<pid>/${object.dir}/${file}`, bytes);
  }

  adopted(process: EnteredProcess, object: AttachedObject, bytes: Buffer): void {
    this.appeared(object, bytes);
    this.attached(process, object);
    this.#fs.errors.recordChange(this.#ourselves(object.path), 'adopted');
  }

  notFollowed(path: string, error: FsError): void {
    this.#fs.errors.recordFailure(this.#ourselves(path), error);
  }

  notAdopted(pid: Pid, reason: string): void {
    const why = `${pid}: what a former daemon left there does not go on: ${reason}`;
    const subject = this.#ourselves(`/procs/${pid}/hooks/list`);
    this.#fs.errors.recordFailure(subject, new FsError('EBUSY', why));
  }

  /** Nobody asks just now: it is the daemon that acts. */
  #ourselves(path: string) {
    return { op: 'commit' as const, path, uid: process.getuid?.() ?? 0, pid: process.pid };
  }

  lost(_process: EnteredProcess, object: AttachedObject): void {
    this.#fs.unpublish(object.path);
  }

  followed(_process: EnteredProcess, hook: PendingHook, what: 'attached' | 'pending' | FsError) {
    const subject = this.#ourselves(hook.object.path);
    if (what instanceof FsError) this.#fs.errors.recordFailure(subject, what);
    else this.#fs.errors.recordChange(subject, `hook ${hook.id} ${what}`);
  }

  #collect(
    mapId: number,
    kind: 'log' | 'ring' | 'perf',
    streams: string[],
    pid: number,
    mapName: string,
    plan?: Buffer,
  ): void {
    // A child's maps are its parent's: one ring has one reader.
    const known = this.#sources.get(mapId);
    if (known) {
      known.users++;
      return;
    }
    const source = native.eventsAdd({
      mount: this.#fs.mount,
      mapId,
      kind,
      streams,
      pid,
      mapName,
      ...(plan ? { plan } : {}),
    });
    this.#sources.set(mapId, { source, users: 1 });
  }

  /** Stops reading a ring after what is in it has been delivered. */
  #stop(mapId: number): void {
    const known = this.#sources.get(mapId);
    if (!known || --known.users > 0) return;
    native.eventsRemove(known.source);
    this.#sources.delete(mapId);
  }
}

/** Gives a map a name that is free in its process: its own, else `name@object`. */
function nameMap(process: EnteredProcess, map: NamedMap): NamedMap {
  const name = process.maps.has(map.info.name)
    ? `${map.info.name}@${map.object.info.id}`
    : map.info.name;
  const named = { ...map, name };
  process.maps.set(name, named);
  return named;
}

/** Everything about attaching, as rows for the tree. */
export function attachRows(fs: ControlFs): Row[] {
  const engine = new AttachEngine(new AttachFiles(fs));
  fs.addStatus('processes_entered', () => engine.processes().length);
  fs.addStatus('hooks', () => engine.processes().reduce((sum, p) => sum + hooksOf(p).length, 0));
  const timer = setInterval(() => void engine.sweep(), SWEEP_MS);
  timer.unref();
  fs.afterStart(() => engine.adoptAll());
  fs.addStatus('forks_noticed', () => (engine.hearsOfForks ? 'at once' : 'each second'));
  fs.beforeStop(async () => {
    clearInterval(timer);
    await engine.detachAll();
  });
  return [...procsRows(engine), ...hooksRows(engine), ...mapsRows(engine)];
}
