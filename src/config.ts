// Every limit and default of the daemon: one place, each with its unit and its reason.

/** Where the file system appears unless the user says otherwise. */
export const DEFAULT_MOUNTPOINT = '/bpftime';

/**
 * Milliseconds after which a control request fails with ETIMEDOUT. Long enough to compile
 * the largest accepted object on a busy machine; short enough that a shell is never lost.
 */
export const REQUEST_DEADLINE_MS = 10_000;

/** Bytes of an eBPF object or another payload. The largest known tools' objects are below 4 MiB. */
export const PAYLOAD_MAX_BYTES = 16 * 1024 * 1024;

/** Bytes of one write to a text file: a whole policy fits, a mistaken `cp` of a disk does not. */
export const TEXT_WRITE_MAX_BYTES = 1024 * 1024;

/** Bytes of one line of a text file (E2BIG beyond). */
export const LINE_MAX_BYTES = 4096;

/** Bytes retained by an `events` stream for readers that fall behind. */
export const STREAM_RETAINED_BYTES = 1024 * 1024;

/** Bytes of the global `log`; the older half goes when it is full. */
export const LOG_RETAINED_BYTES = 1024 * 1024;

/** Bytes of a process's `log`. There are many of them. */
export const PROCESS_LOG_RETAINED_BYTES = 128 * 1024;

/** Entries of an `error_log`: as many as fit on two screens. */
export const ERROR_LOG_ENTRIES = 64;

/** Processes whose error history is remembered; the least recently used goes first. */
export const ERROR_HISTORY_PROCESSES = 256;

/** Milliseconds between refreshes of `status`, which is served without JavaScript. */
export const STATUS_REFRESH_MS = 1000;

/** Where separate debug files are looked up, by build-id. */
export const DEBUG_ROOT = '/usr/lib/debug';

/** Symbol tables kept in memory. A table of node is 10 MB, one of libc 0.3 MB. */
export const SYMBOL_TABLES_MAX = 64;

/** Modules whose coverage is remembered: some 100 bytes each, and the names of what is refused. */
export const COVERAGE_FILES_MAX = 256;

/** Milliseconds that `info` waits for the coverage of a module that nobody asked for before. */
export const COVERAGE_WAIT_MS = 1500;

/**
 * Milliseconds between attempts to take the agent out: the first pause, and the longest; and
 * between looks, which stop nobody, whether a thread that sleeps inside has woken up.
 */
export const LEAVE_RETRY_MS = 20;
export const LEAVE_RETRY_MAX_MS = 10_000;
export const LEAVE_LOOK_MS = 300;

/** Milliseconds between looks for entered processes that ended. */
export const SWEEP_MS = 1000;

/** Entries that `entries` of a map shows at most; the rest is counted. */
export const MAP_ENTRIES_SHOWN_MAX = 100_000;

/** Bytes of one function that `disasm/` shows at most. */
export const DISASM_MAX_BYTES = 64 * 1024;

/** Bytes of one mapping that are searched for system call sites. libc has 1.4 MB of code. */
export const SYSCALL_SCAN_MAX_BYTES = 16 * 1024 * 1024;

/** Attempts to take the fault signals over while threads are passing, and milliseconds between. */
export const GUARD_ATTEMPTS = 5;
export const GUARD_RETRY_MS = 2;

/** Bytes of one mapping that are searched for calls that change signal masks. */
export const MASK_SCAN_MAX_BYTES = 128 * 1024 * 1024;
/**
 * Attempts to follow masks while modules come; milliseconds from an attach to the first, and to a
 * second look, at first and at most.
 */
export const MASK_ATTEMPTS = 4;
export const MASK_DELAY_MS = 50;
export const MASK_RETRY_MS = 500;
export const MASK_RETRY_MAX_MS = 60_000;

/**
 * Attempts to adopt a process while another tracer is there, milliseconds between, and how often to
 * look whether that of a killed daemon has ended its job: its alarm comes after ten seconds.
 */
export const ADOPT_ATTEMPTS = 40;
export const ADOPT_RETRY_MS = 50;
export const OWNER_ENDS_ATTEMPTS = 220;

/** Attempts to stop a child that was just forked, and milliseconds between. */
export const FORK_ATTEMPTS = 5;
export const FORK_RETRY_MS = 5;

/** When to look for the functions of a program that was just executed: its libraries come later. */
export const EXEC_ATTEMPTS_MS = [0, 20, 100, 400, 1500];

/** Rounds in which a daemon that ends tries to detach from everything, LEAVE_RETRY_MS apart. */
export const DETACH_ALL_ATTEMPTS = 25;

/** Processes that we came into, and of which it is remembered that they ended. */
export const ENDED_REMEMBERED = 4096;
