// The table of trials: what is measured, beside what. Names are an interface, programs read them.
import {
  bareStop,
  copyCommand,
  enterTime,
  firstCopy,
  furtherCopy,
  pauseTime,
} from './attaching.js';
import type { Bench } from './bench.js';
import { type FileSpec, fileTime, generatedFileTime } from './files.js';
import { callDirect, disabledProbe, kernelProbe, ourProbe } from './probes.js';
import type { Measured } from './stats.js';

/** One row of the report. */
export interface Trial {
  /** Dotted. */
  name: string;
  group: 'probe' | 'attach' | 'fs';
  unit: 'ns' | 'us';
  description: string;
  /** The row that the ratio is taken to. */
  baseline?: string;
  run(bench: Bench): Promise<Measured>;
}

const programs = [
  ['entry.empty', 'entry-empty', 'entry, a program that does nothing'],
  ['entry.array', 'entry-array', 'entry, an array element counts'],
  ['entry.hash', 'entry-hash', 'entry, a hash map counts by argument, 64 keys'],
  ['entry.ringbuf', 'entry-ringbuf', 'entry, a 16-byte record into a ring buffer that is read'],
  ['return.empty', 'return-empty', 'return, a program that does nothing'],
  ['both.empty', 'both-empty', 'entry and return, two programs that do nothing'],
] as const;

const firstInstructions = [
  ['push', 'f_push', 'push (emulated by the kernel)'],
  ['nop5', 'f_nop5', '5-byte nop (a call since 6.18)'],
  ['endbr64', 'f_endbr64', 'endbr64 (single-stepped by the kernel)'],
] as const;

const probeTrials: Trial[] = programs.map(([what, object, description]) => ({
  name: `probe.${what}`,
  group: 'probe',
  unit: 'ns',
  description: `ours: ${description}`,
  baseline: 'call.direct',
  run: ourProbe({ object, fn: 'f_push' }),
}));

/** entry.empty and push → kernel.entry.push.empty */
function kernelName(what: string, first: string): string {
  const [where, program] = what.split('.');
  return `kernel.${where}.${first}.${program}`;
}

const kernelTrials: Trial[] = firstInstructions.flatMap(([first, fn, place]) =>
  programs.map(
    ([what, object, description]): Trial => ({
      name: kernelName(what, first),
      group: 'probe',
      unit: 'ns',
      description: `kernel on ${place}: ${description}`,
      baseline: `probe.${what}`,
      run: kernelProbe({ object, fn }),
    }),
  ),
);

const otherSites: Trial[] = firstInstructions.slice(1).map(([first, fn]) => ({
  name: `probe.entry.empty.${first}`,
  group: 'probe',
  unit: 'ns',
  description: `ours: entry, nothing, on a function that begins with ${first}`,
  baseline: 'call.direct',
  run: ourProbe({ object: 'entry-empty', fn }),
}));

const pauseTrials: Trial[] = [1, 16, 128].flatMap((threads): Trial[] => [
  {
    name: `ptrace.stop.us.${threads}`,
    group: 'attach',
    unit: 'us',
    description: `a bare ptrace program stops ${threads} threads, reads registers, lets go`,
    run: bareStop(threads),
  },
  ...(['attach', 'detach'] as const).map(
    (which): Trial => ({
      name: which === 'attach' ? `pause.us.${threads}` : `pause.detach.us.${threads}`,
      group: 'attach',
      unit: 'us',
      description: `all ${threads} threads of a process stopped, one probe ${which}ed`,
      baseline: `ptrace.stop.us.${threads}`,
      run: pauseTime(threads, which),
    }),
  ),
]);

const files: [name: string, spec: FileSpec, description: string][] = [
  ['stat.us', { op: 'stat', depth: 'process', placement: 'one core' }, 'stat of procs/PID/README'],
  [
    'stat.fixed.us',
    { op: 'stat', depth: 'root', placement: 'one core' },
    'stat of version, whose name and size the kernel may keep',
  ],
  ['orc.us', { op: 'orc', depth: 'root', placement: 'one core' }, 'open+read+close of version'],
  [
    'orc.process.us',
    { op: 'orc', depth: 'process', placement: 'one core' },
    'open+read+close of procs/PID/README',
  ],
  [
    'orc.free.us',
    { op: 'orc', depth: 'root', placement: 'free' },
    'as orc.us, on whatever cores the scheduler likes',
  ],
];

const fileTrials: Trial[] = files.flatMap(([name, spec, description]): Trial[] => [
  {
    name: `fs.${name}`,
    group: 'fs',
    unit: 'us',
    description,
    baseline: `libfuse.${name}`,
    run: fileTime('ours', spec),
  },
  {
    name: `libfuse.${name}`,
    group: 'fs',
    unit: 'us',
    description: `C libfuse3 low-level server: ${spec.op} of ${spec.depth === 'root' ? 'ctl' : 'procs/1/ctl'}`,
    run: fileTime('libfuse', spec),
  },
]);

/** All trials, in the order of the report. */
export const trials: readonly Trial[] = [
  {
    name: 'call.direct',
    group: 'probe',
    unit: 'ns',
    description: 'a call of a function of four instructions, no probe',
    run: callDirect,
  },
  ...probeTrials,
  ...otherSites,
  {
    name: 'probe.disabled',
    group: 'probe',
    unit: 'ns',
    description: 'ours: attached, then switched off with hooks/by-id/N/enabled',
    baseline: 'call.direct',
    run: disabledProbe({ object: 'entry-empty', fn: 'f_push' }),
  },
  ...kernelTrials,
  {
    name: 'enter.us',
    group: 'attach',
    unit: 'us',
    description: 'entering a sleeping process of one thread, wall time',
    run: enterTime,
  },
  {
    name: 'cp.armed.us',
    group: 'attach',
    unit: 'us',
    description: 'open+write+close of an object onto a function, process not yet entered',
    run: firstCopy,
  },
  {
    name: 'cp.armed.more.us',
    group: 'attach',
    unit: 'us',
    description: 'the same onto one more function of an entered process',
    baseline: 'cp.armed.us',
    run: furtherCopy,
  },
  {
    name: 'cp.command.us',
    group: 'attach',
    unit: 'us',
    description: 'the same by the command cp, with starting it',
    baseline: 'cp.armed.more.us',
    run: copyCommand,
  },
  ...pauseTrials,
  ...fileTrials,
  {
    name: 'fs.orc.generated.us',
    group: 'fs',
    unit: 'us',
    description: 'open+read+close of hooks/list, made by TypeScript at each open',
    baseline: 'libfuse.orc.process.us',
    run: generatedFileTime,
  },
];
