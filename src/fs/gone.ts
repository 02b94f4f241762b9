// What is said of a process that is not there: one that ended while we were in it, a thread, a
// number that is nobody's. /proc says ENOENT where the name is looked up and ESRCH inside; here
// it is ESRCH wherever a process is named, with a sentence (docs/adr/0026).
import { readFileSync } from 'node:fs';
import { ENDED_REMEMBERED } from '../config.js';
import { fail } from '../errors.js';
import type { Pid } from '../types.js';

/** The processes that we came into, and the words for those that are not there. */
export class Gone {
  readonly #known = new Set<Pid>();

  /** We are in a process. */
  entered(pid: Pid): void {
    this.#known.delete(pid);
    this.#known.add(pid);
    const [oldest] = this.#known;
    if (this.#known.size > ENDED_REMEMBERED && oldest !== undefined) this.#known.delete(oldest);
  }

  /** We are out again, and it lives. */
  left(pid: Pid): void {
    this.#known.delete(pid);
  }

  /**
   * Says why there is no such process.
   * @throws {FsError} ENOENT it is a thread, ESRCH
   */
  refuse(pid: Pid): never {
    const of = leaderOf(pid);
    if (of !== undefined && of !== pid) {
      fail('ENOENT', `${pid}: a thread of process ${of} (name the process)`);
    }
    if (this.#known.has(pid)) fail('ESRCH', `${pid}: the process has ended, and its hooks with it`);
    return fail('ESRCH', `${pid}: no such process (it has ended, or never was)`);
  }
}

/** The process of a thread; undefined when there is no such thread. */
function leaderOf(tid: Pid): number | undefined {
  try {
    const status = readFileSync(`/proc/${tid}/status`, 'latin1');
    return Number(/^Tgid:\t(\d+)$/m.exec(status)?.[1]);
  } catch {
    return undefined;
  }
}
