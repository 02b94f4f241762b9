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
import { callDirect, disabledProbe, kernelProbe, ourProbe, type ProbeSpec } from './probes.js';
import type { Measured } from './stats.js';
import { type VmProgram, vmCall, vmMean, vmPrograms, vmSize, vmTime } from './vm.js';
import { compileTime, type MapProgram, mapPrograms, mapTime } from './vm-maps.js';
import { mallocFactor, nginxLoss, type Prober, redisLoss } from './workloads.js';

/** One row of the report. */
export interface Trial {
  /** Dotted. */
  name: string;
  group: 'probe' | 'attach' | 'fs' | 'workloads' | 'why' | 'vm';
  unit: 'ns' | 'us' | '%' | 'x';
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
  ['entry.read', 'entry-read', 'entry, 16 bytes of the stack are read by address'],
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

const stackTrials: Trial[] = [
  {
    name: 'probe.entry.stack.frame',
    group: 'probe',
    unit: 'ns',
    description: 'ours: entry, 24 callers without frame pointers are found, per caller',
    run: ourProbe({ object: 'entry-stack', fn: 'f_nest', sites: ['f_push'], parts: 24 }),
  },
];

/** A row of each program for each engine; the kernel's is what the others are compared with. */
function besideKernel<Engine extends string>(
  engines: readonly Engine[],
  programs: Readonly<Record<string, string>>,
  run: (engine: Engine, program: string) => Trial['run'],
): Trial[] {
  return engines.flatMap((engine) =>
    Object.entries(programs).map(([program, description]) => ({
      name: `vm.${engine}.${program}`,
      group: 'vm',
      unit: 'ns',
      description: `${engine}: ${description}`,
      ...(engine === 'kernel' ? {} : { baseline: `vm.kernel.${program}` }),
      run: run(engine, program),
    })),
  );
}

const vmTrials: Trial[] = [
  ...besideKernel(['kernel', 'ours', 'native'], vmPrograms, (engine, program) =>
    vmTime(engine, program as VmProgram),
  ),
  ...(['ours', 'native'] as const).flatMap((engine): Trial[] => [
    {
      name: `vm.${engine}.call`,
      group: 'vm',
      unit: 'ns',
      description: `${engine}: a program that does nothing is called`,
      run: vmCall(engine),
    },
    {
      name: `vm.${engine}.mean`,
      group: 'vm',
      unit: 'x',
      description: `${engine}: geometric mean of the eight, the kernel's being 1`,
      run: vmMean(engine),
    },
  ]),
  {
    name: 'vm.ours.size',
    group: 'vm',
    unit: 'x',
    description: "ours: geometric mean of the eight's code bytes, the kernel's being 1",
    run: vmSize,
  },
  {
    name: 'vm.ours.compile',
    group: 'vm',
    unit: 'us',
    description: 'ours: 100 instructions are compiled',
    run: compileTime,
  },
  ...besideKernel(['kernel', 'ours'], mapPrograms, (engine, program) =>
    mapTime(engine, program as MapProgram),
  ),
];

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

const replacements: Trial[] = (
  [
    ['answer', 'replace-answer', 'a program gives the result, the function does not run'],
    ['run', 'replace-run', 'a program that may give the result lets the function run'],
  ] as const
).map(([name, object, description]) => ({
  name: `probe.replace.${name}`,
  group: 'probe',
  unit: 'ns',
  description: `ours: ${description}`,
  baseline: 'call.direct',
  run: ourProbe({ object, fn: 'f_push', dir: 'replace' }),
}));

const tailTrial: Trial = {
  name: 'probe.entry.tail',
  group: 'probe',
  unit: 'ns',
  description: 'ours: entry, a tail call to a program that does nothing',
  baseline: 'probe.entry.empty',
  run: ourProbe({ object: 'entry-tail', fn: 'f_push' }),
};

const ALL_DEEP = [1, 2, 3, 4, 5, 6, 7, 8].map((depth) => `f_deep${depth}`);

// The tuple of each: what, probe, description. All have entry and return.
const returnShapes: [name: string, spec: Omit<ProbeSpec, 'object'>, description: string][] = [
  ['deep', { fn: 'f_deep8', sites: ['f_deep1'] }, 'innermost of 8 nested calls'],
  ['deep.all', { fn: 'f_deep8', sites: ALL_DEEP }, 'each of 8 nested calls, per call'],
  ['balanced', { fn: 'f_tail' }, 'a function that ends in a jump to another (exit_form balanced)'],
];

const returnTrials: Trial[] = returnShapes.flatMap(([name, spec, description]): Trial[] => [
  {
    name: `probe.both.empty.${name}`,
    group: 'probe',
    unit: 'ns',
    description: `ours: entry and return, nothing, ${description}`,
    baseline: 'probe.both.empty',
    run: ourProbe({ object: 'both-empty', ...spec }),
  },
  ...((spec.sites?.length ?? 1) > 1
    ? []
    : [
        {
          name: `kernel.both.empty.${name}`,
          group: 'probe' as const,
          unit: 'ns' as const,
          description: `kernel: entry and return, nothing, ${description}`,
          baseline: `probe.both.empty.${name}`,
          run: kernelProbe({ object: 'both-empty', ...spec }),
        },
      ]),
]);

const counters = [
  ['percpu', 'entry-percpu', 'an element of a per-CPU array counts'],
  ['array', 'entry-array', 'an array element counts, the same one for both threads'],
  ['hash', 'entry-hash', 'a hash map counts, the same 64 keys for both threads'],
] as const;

const scalingTrials: Trial[] = counters.flatMap(([what, object, description]) =>
  ([1, 2] as const).map(
    (threads): Trial => ({
      name: `probe.scale.${what}.${threads}`,
      group: 'probe',
      unit: 'ns',
      description: `ours: ${threads === 1 ? 'one thread' : 'two threads, two cores, each'}: ${description}`,
      ...(threads === 2 ? { baseline: `probe.scale.${what}.1` } : {}),
      run: ourProbe({ object, fn: 'f_push', threads }),
    }),
  ),
);

type Load = (prober: Prober, object: string) => (bench: Bench) => Promise<Measured>;
const nginx1k: Load = (prober, object) => nginxLoss(1024, prober, object);
const nginx16k: Load = (prober, object) => nginxLoss(16_384, prober, object);

// Name, unit, object, load, description.
const loads: [string, '%' | 'x', string, Load, string][] = [
  ['nginx.1k', '%', 'workload-tls', nginx1k, 'throughput lost by nginx, TLS, 1 KB: a sniffer'],
  ['nginx.16k', '%', 'workload-tls', nginx16k, 'throughput lost by nginx, TLS, 16 KB: a sniffer'],
  ['redis', '%', 'workload-keys', redisLoss, 'throughput lost by redis, -P 16: a count per key'],
  ['malloc.count', 'x', 'malloc-count', mallocFactor, 'malloc and free: a counter on malloc'],
  ['malloc.latency', 'x', 'malloc-latency', mallocFactor, "malloc and free: malloc's latencies"],
];

const workloadTrials: Trial[] = loads.flatMap(([name, unit, object, load, description]) =>
  (['ours', 'kernel'] as const).map(
    (prober): Trial => ({
      name: `workload.${name}.${prober}`,
      group: 'workloads',
      unit,
      description: `${prober}: ${description}`,
      ...(prober === 'kernel' ? { baseline: `workload.${name}.ours` } : {}),
      run: load(prober, object),
    }),
  ),
);

// The same with parts of the program left out: where the time goes.
const whyTrials: Trial[] = (
  [
    ['nginx.1k.large', '%', nginx1k, 'workload-tls-large', 'nothing, but a ring of 32 MiB'],
    ['nginx.1k.noread', '%', nginx1k, 'workload-tls-noread', 'records without text'],
    ['nginx.1k.noring', '%', nginx1k, 'workload-tls-noring', 'no records'],
    ['redis.noread', '%', redisLoss, 'workload-keys-noread', 'keys are addresses'],
    ['malloc.noclock', 'x', mallocFactor, 'malloc-latency-noclock', 'no time is taken'],
    ['malloc.nohash', 'x', mallocFactor, 'malloc-latency-nohash', 'the start lies in .bss'],
    ['malloc.neither', 'x', mallocFactor, 'malloc-latency-neither', 'neither time nor hash'],
  ] as [string, '%' | 'x', Load, string, string][]
).map(
  ([name, unit, load, object, description]): Trial => ({
    name: `why.${name}`,
    group: 'why',
    unit,
    description: `ours, a part left out: ${description}`,
    run: load('ours', object),
  }),
);
const goSites = [
  ['entry', 'entry-empty', 'main.checked', 'entry'],
  ['entry.grown', 'entry-empty', 'main.checked', 'entry, where the stack has room for the program'],
  ['entry.leaf', 'entry-empty', 'main.leaf', 'entry of a leaf, which checks no stack'],
  ['both', 'both-empty', 'main.checked', 'entry and return'],
] as const;

const goTrials: Trial[] = goSites.map(([what, object, fn, description]) => ({
  name: `probe.go.${what}`,
  group: 'probe',
  unit: 'ns',
  description: `ours: Go function, ${description}, programs that do nothing`,
  baseline: 'probe.entry.empty',
  run: ourProbe({
    object,
    fn: what.endsWith('grown') ? `${fn}:grown` : fn,
    sites: [fn],
    program: 'target-go',
  }),
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
  ...stackTrials,
  ...otherSites,
  ...replacements,
  tailTrial,
  ...goTrials,
  {
    name: 'probe.disabled',
    group: 'probe',
    unit: 'ns',
    description: 'ours: attached, then switched off with hooks/by-id/N/enabled',
    baseline: 'call.direct',
    run: disabledProbe({ object: 'entry-empty', fn: 'f_push' }),
  },
  ...returnTrials,
  ...scalingTrials,
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
  ...workloadTrials,
  ...whyTrials,
  ...vmTrials,
];
