// `nostop` in a process' `info`: whether its threads may be stopped all at once. Where they may
// not, sites take the form that one byte makes (docs/adr/0021), or are refused.
import { fail } from '../errors.js';
import { native } from '../native.js';
import { readFacts } from '../process/identity.js';
import type { Pid } from '../types.js';
import type { EnteredProcess } from './state.js';

/** Reads a line of `info`; undefined: it is about something else. @throws {FsError} EINVAL */
export function parseNoStop(line: string): boolean | undefined {
  const match = /^\s*nostop[=\s]\s*(\S+)\s*$/.exec(line);
  if (!match) return undefined;
  if (match[1] === 'on') return true;
  if (match[1] === 'off') return false;
  return fail('EINVAL', `${match[1]}: neither on nor off (want nostop=on or nostop=off)`);
}

/** The settings, of processes that are entered and of others. */
export class Stops {
  /** Start times of those that may not be stopped. */
  readonly #noStop = new Map<Pid, bigint>();

  /** @throws {FsError} ESRCH */
  isNoStop(pid: Pid, process: EnteredProcess | undefined): boolean {
    if (process) return process.noStop;
    return this.#noStop.get(pid) === readFacts(pid).startTime;
  }

  /**
   * @throws {FsError} ESRCH; EBUSY its programs read memory by guarded loads, which begin and end
   * with a stop
   */
  async set(pid: Pid, on: boolean, process: EnteredProcess | undefined): Promise<void> {
    if (on && process?.reads === 'guarded') {
      fail(
        'EBUSY',
        'nostop: programs that are attached read memory, which only a stop can end ' +
          '(rm them, then say nostop=on, then cp them again)',
      );
    }
    const { startTime } = readFacts(pid);
    if (on) this.#noStop.set(pid, startTime);
    else this.#noStop.delete(pid);
    if (process) await this.tell(process, on);
  }

  /** What was said before a process was entered. */
  async remembered(process: EnteredProcess): Promise<void> {
    const { pid } = process.identity;
    if (this.isNoStop(pid, undefined)) await this.tell(process, true);
  }

  private async tell(process: EnteredProcess, on: boolean): Promise<void> {
    await native.targetSetNoStop(process.session, on);
    process.noStop = on;
  }
}
