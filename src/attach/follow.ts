// Children and successors: what becomes of hooks when a probed process forks or executes another
// program, as `follow` in its `info` says.
//
// A child of fork has copies of everything of ours but a daemon that knows it. It is either given
// a session of its own, or its hooks are taken out at once. Programs that are executed have nothing
// of ours in them: the same objects are attached again, by name.
import { readdirSync, readFileSync } from 'node:fs';
import { FORK_ATTEMPTS, FORK_RETRY_MS } from '../config.js';
import { fail } from '../errors.js';
import { type NativeError, native } from '../native.js';
import { asPid, type Pid } from '../types.js';
import type { AttachedObject, EnteredProcess, Hook } from './state.js';

/** What is followed. */
export type Follow = 'none' | 'fork' | 'exec' | 'all';

/** Its words. */
export const FOLLOWS: readonly string[] = ['none', 'fork', 'exec', 'all'];

/** Reads a line of `info`. @throws {FsError} EINVAL */
export function parseFollow(line: string): Follow {
  const match = /^\s*follow[=\s]\s*(\S+)\s*$/.exec(line);
  if (!match)
    fail(
      'EINVAL',
      `${line.trim()}: not a setting (want follow=none|fork|exec|all or nostop=on|off)`,
    );
  const value = match![1]!;
  if (!FOLLOWS.includes(value)) {
    fail('EINVAL', `${value}: not a way to follow (want none, fork, exec or all)`);
  }
  return value as Follow;
}

/** Children of a process, as far as the kernel shows them. */
export function childrenOf(pid: Pid): Pid[] {
  const pids: Pid[] = [];
  try {
    for (const tid of readdirSync(`/proc/${pid}/task`)) {
      const text = readFileSync(`/proc/${pid}/task/${tid}/children`, 'latin1');
      pids.push(...text.split(' ').filter(Boolean).map(Number).map(asPid));
    }
  } catch {
    // It ended, or the kernel has no such file.
  }
  return pids;
}

/**
 * A session of a child's own; undefined when there is nothing of ours in it: it shares its parent's
 * memory until it executes something (vfork), has done so already, or has ended.
 */
export async function forkSession(parent: EnteredProcess, child: Pid): Promise<number | undefined> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await native.targetFork(parent.session, child);
    } catch (error) {
      const { code } = error as NativeError;
      if (['EAGAIN', 'ESRCH', 'ESTALE'].includes(code)) return undefined;
      if (attempt >= FORK_ATTEMPTS) throw error;
    }
    await new Promise((done) => setTimeout(done, FORK_RETRY_MS));
  }
}

/** What the daemon knows of a child: the sites that its parent had. */
export function childOf(
  parent: EnteredProcess,
  identity: EnteredProcess['identity'],
  session: number,
): EnteredProcess {
  const sites = [...parent.sites.values()].map((site) => ({
    ...site,
    hooks: site.hooks.map((wish) => ({ ...wish })),
  }));
  return {
    ...parent,
    identity,
    session,
    enterNs: 0,
    pauseTotalNs: 0,
    guardSites: new Set(parent.guardSites),
    maskSites: new Set(parent.maskSites),
    masksFailed: { ...parent.masksFailed },
    sites: new Map(sites.map((site) => [site.addr, site])),
    objects: new Map(),
    maps: new Map(),
    children: new Set(),
    unnoted: new Set(),
    notedFollow: undefined,
  };
}

/** A parent's object in its child: the same programs and maps. */
export async function childObject(
  parent: EnteredProcess,
  child: EnteredProcess,
  object: AttachedObject,
): Promise<{ object: AttachedObject; bytes: Buffer }> {
  const bytes = await native.targetKeptBytes(parent.session, object.kept);
  const kept = await native.targetKeepBytes(child.session, bytes);
  const { dir, name } = object;
  const path = `/procs/${child.identity.pid}/${dir}/${name}`;
  const info = { ...object.info, id: native.bpfShare(object.info.id) };
  const copy: AttachedObject = { path, dir, name, info, kept, hooks: [], pending: [] };
  copy.hooks = object.hooks.map((hook): Hook => ({ ...hook, object: copy }));
  copy.pending = object.pending.map((hook) => ({ ...hook, object: copy }));
  return { object: copy, bytes };
}
