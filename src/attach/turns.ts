// One thing at a time for each process, in the order in which it was asked for.
import type { Pid } from '../types.js';

/** The queues. */
export class Turns {
  readonly #queues = new Map<Pid, Promise<unknown>>();

  /** Runs `job` after everything that was asked for this process before. */
  async take<T>(pid: Pid, job: () => Promise<T>): Promise<T> {
    const before = this.#queues.get(pid) ?? Promise.resolve();
    const mine = before.then(job, job);
    this.#queues.set(
      pid,
      mine.catch(() => {}),
    );
    return await mine;
  }
}
