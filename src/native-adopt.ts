// Part of the native surface (src/native.ts): sessions that outlive their daemon, or are a child's.
import type { SiteWish } from './native.js';

/** Where bytes lie in a journal. */
export type KeptBytes = { at: number; size: number };

/** Text that a session's journal keeps for us; empty: not any more. */
export interface KeptNote {
  key: number;
  text: Buffer;
}

/** What programs of an adopted session are now, and what the journal is to say from then on. */
export interface Binding {
  programs: { former: number; id: number }[];
  notes: KeptNote[];
}

/** A session that another daemon began; ids of programs are that daemon's until targetBind. */
export interface AdoptedSession {
  session: number;
  logMapId: number;
  enterNs: number;
  /** False: its maps may not be opened, or another build made it. It can only be taken out. */
  canKeep: boolean;
  guardArmed: boolean;
  noStop: boolean;
  notes: KeptNote[];
  maps: { former: number; id: number }[];
  sites: SiteWish[];
}

/** What a daemon leaves for the next, and children that fork made. */
export interface NativeAdoption {
  /** Whose session is in a process; `home`: of which process that is a copy, if fork made it. */
  targetOwner(pid: number): Promise<{ daemon: number; alive: boolean; home: number } | undefined>;
  /** Goes on with the session of a killed daemon. ENOENT, EBUSY, EINVAL, EACCES, ESTALE. */
  targetAdopt(pid: number): Promise<AdoptedSession>;
  /** A session for a child that was forked. EAGAIN: by vfork; ESTALE: it runs another program. */
  targetFork(session: number, child: number): Promise<number>;
  /** Who hears of forks and execs (child 0) of processes that are cared for; false: nobody can. */
  targetOnForks(listener: (pid: number, child: number) => void): boolean;
  targetCare(pid: number, cares: boolean): void;
  targetBind(session: number, binding: Binding): Promise<void>;
  targetSetNotes(session: number, notes: KeptNote[]): Promise<void>;
  targetKeepBytes(session: number, bytes: Buffer): Promise<KeptBytes>;
  targetDropBytes(session: number, kept: KeptBytes): Promise<void>;
  targetKeptBytes(session: number, kept: KeptBytes): Promise<Buffer>;
}
