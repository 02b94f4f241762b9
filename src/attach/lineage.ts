// Carries out what `follow` says: children of fork get sessions of their own or are left at once,
// and objects are attached again in programs that are executed.
import { existsSync } from 'node:fs';
import { EXEC_ATTEMPTS_MS } from '../config.js';
import { refusalOf } from '../errors.js';
import { native } from '../native.js';
import { type Identity, readFacts } from '../process/identity.js';
import type { Pid } from '../types.js';
import { copiesOf, dropHooks } from './adopt.js';
import { childObject, childOf, type Follow, forkSession } from './follow.js';
import type { AttachObserver, AttachRequest } from './observer.js';
import type { AttachedObject, EnteredProcess } from './state.js';

/** What the engine does for us. */
interface Household {
  knows(pid: Pid): boolean;
  welcome(process: EnteredProcess): void;
  /** Brings what the next daemon is to know of a process up to date. */
  note(pid: Pid): Promise<void>;
  /** Notes what a process has, and leaves it when that is nothing. */
  settle(process: EnteredProcess): Promise<void>;
  attach(request: AttachRequest): Promise<AttachedObject>;
}

/** The settings, and who is whose child. */
export class Lineage {
  readonly #follow = new Map<Pid, { startTime: bigint; value: Follow }>();
  readonly #observer: AttachObserver;
  readonly #house: Household;

  constructor(observer: AttachObserver, house: Household) {
    this.#observer = observer;
    this.#house = house;
  }

  /** What is followed of a process. @throws {FsError} ESRCH */
  followOf(pid: Pid): Follow {
    return this.settingOf({ pid, startTime: readFacts(pid).startTime });
  }

  /** The same, of a process that may have ended. */
  settingOf({ pid, startTime }: Identity): Follow {
    const known = this.#follow.get(pid);
    return known?.startTime === startTime ? known.value : 'none';
  }

  /** Says what is followed of a process, attached or not. @throws {FsError} ESRCH */
  async setFollow(pid: Pid, value: Follow): Promise<void> {
    this.begin(pid, value);
    await this.#house.note(pid);
  }

  /** The same, in the process' turn. */
  begin(pid: Pid, value: Follow): void {
    this.#follow.set(pid, { startTime: readFacts(pid).startTime, value });
    for (const known of this.#follow.keys()) {
      if (known !== pid && !existsSync(`/proc/${known}`)) this.#follow.delete(known);
    }
  }

  /** A child has everything of ours, except for somebody who knows it. In the parent's turn. */
  async forked(parent: EnteredProcess, child: Pid): Promise<void> {
    if (parent.children.has(child) || this.#house.knows(child)) return;
    parent.children.add(child);
    const session = await forkSession(parent, child).catch((error: unknown) => {
      // The next look tries again.
      parent.children.delete(child);
      throw error;
    });
    if (session === undefined) return;
    const { startTime } = readFacts(child);
    const process = childOf(parent, { pid: child, startTime }, session);
    this.#house.welcome(process);
    const follow = this.followOf(parent.identity.pid);
    if (follow === 'fork' || follow === 'all') {
      this.begin(child, follow);
      for (const one of parent.objects.values()) {
        const { object, bytes } = await childObject(parent, process, one);
        process.objects.set(object.path, object);
        process.unnoted.add(object);
        this.#observer.adopted(process, object, bytes);
      }
    } else {
      await dropHooks(process, (wish) => wish.progId !== 0);
    }
    await this.#house.settle(process);
  }

  /** Goes on with a setting; takes children in hand that were forked while there was no daemon. */
  async adopted(parent: EnteredProcess, follow: Follow): Promise<void> {
    this.begin(parent.identity.pid, follow);
    for (const copy of await copiesOf(parent.identity.pid)) {
      await this.forked(parent, copy).catch(() => {});
    }
  }

  /** What is to be attached again in the program that a process executes. */
  async filesAfterExec(process: EnteredProcess): Promise<[AttachedObject, Buffer][]> {
    const { pid, startTime } = process.identity;
    const files: [AttachedObject, Buffer][] = [];
    try {
      if (readFacts(pid).startTime !== startTime) return [];
      if (!['exec', 'all'].includes(this.followOf(pid))) return [];
      for (const object of process.objects.values()) {
        files.push([object, await native.targetKeptBytes(process.session, object.kept)]);
      }
    } catch {
      // It has ended.
    }
    return files;
  }

  /** Attaches the objects of a program in the one that took its place. Not in its turn. */
  async attachAgain(pid: Pid, files: readonly [AttachedObject, Buffer][]): Promise<void> {
    const caller = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, pid: process.pid };
    for (const [object, bytes] of files) {
      const { path, dir, name } = object;
      for (const [i, delayMs] of EXEC_ATTEMPTS_MS.entries()) {
        await new Promise((done) => setTimeout(done, delayMs));
        try {
          const attached = await this.#house.attach({ pid, dir, name, path, bytes, caller });
          this.#observer.appeared(attached, bytes);
          break;
        } catch (error) {
          if (i + 1 < EXEC_ATTEMPTS_MS.length) continue;
          const refusal = refusalOf(error, name);
          if (refusal) this.#observer.notFollowed(path, refusal);
        }
      }
    }
  }
}
