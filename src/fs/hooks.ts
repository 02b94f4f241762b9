// uprobe/, uretprobe/ and hooks/: payload files in, attached programs out; what is attached, as
// text.
import { disassemble } from '../attach/disasm.js';
import type { AttachEngine } from '../attach/engine.js';
import type { AttachDir } from '../attach/plan.js';
import {
  type EnteredProcess,
  type Hook,
  hooksOf,
  type PendingHook,
  pendingOf,
} from '../attach/state.js';
import { PAYLOAD_MAX_BYTES } from '../config.js';
import { fail } from '../errors.js';
import { type HookCounters, native, type PatchInfo } from '../native.js';
import { parsePlace } from '../symbols/name.js';
import { keyedLines, table } from './format.js';
import type { Context, Row } from './node.js';
import { pidOf } from './procs.js';

const hex = (value: bigint) => `0x${value.toString(16)}`;

/** Counters of one hook as people read them. */
export interface HookFigures {
  tier: HookCounters['tier'];
  hits: bigint;
  missed: bigint;
  /**
   * Nanoseconds per run over the sampled runs; undefined before the first sample, and where the
   * program stands in the code of the probe: it is done before a clock is read.
   */
  averageNs: number | undefined;
}

/** Counters by hook id. */
export async function figuresOf(process: EnteredProcess): Promise<Map<number, HookFigures>> {
  const ticksPerNs = native.targetTicksPerNs();
  const counters: HookCounters[] = await native.targetCounters(process.session);
  return new Map(
    counters.map((one) => [
      one.hookId,
      {
        tier: one.tier,
        hits: one.hits,
        missed: one.missed,
        averageNs:
          one.samples === 0n || one.tier === 'inline'
            ? undefined
            : Number(one.sampledTicks) / Number(one.samples) / ticksPerNs,
      },
    ]),
  );
}

const kindOf = ({ onReturn, program }: Hook | PendingHook) =>
  program.replaces ? 'replace' : onReturn ? 'uretprobe' : 'uprobe';
const fileOf = ({ object }: Hook | PendingHook) => `${object.dir}/${object.name}`;
const targetOf = (hook: Hook) =>
  `${hook.place.module.name}:${hook.place.symbol.name}` +
  (hook.place.addr === hook.place.functionAddr
    ? ''
    : `+${hex(hook.place.addr - hook.place.functionAddr)}`);
const shownAverage = (figures: HookFigures | undefined) =>
  figures?.averageNs === undefined ? '-' : figures.averageNs.toFixed(1);
/** `refused`: the module is there, and info says why the hook is not. */
const stateOf = (hook: PendingHook) => (hook.refusal ? 'refused' : 'pending');

const LIST = ['id', 'kind', 'on', 'hits', 'avg_ns', 'program', 'state', 'target', 'file'];

async function listText(engine: AttachEngine, context: Context): Promise<string> {
  const process = engine.process(pidOf(context));
  if (!process) return table(LIST, []);
  const figures = await figuresOf(process).catch((error: unknown) => {
    if (engine.process(pidOf(context)) === process) throw error;
    return undefined;
  });
  // We have left it meanwhile.
  if (!figures) return table(LIST, []);
  const row = (hook: Hook | PendingHook, hits: bigint, average: string, rest: string[]) => [
    String(hook.id),
    kindOf(hook),
    hook.enabled ? '1' : '0',
    String(hits),
    average,
    hook.program.name,
    ...rest,
    fileOf(hook),
  ];
  const attached = hooksOf(process).map((hook) => {
    const one = figures.get(hook.id);
    return row(hook, one?.hits ?? 0n, shownAverage(one), ['attached', targetOf(hook)]);
  });
  const pending = pendingOf(process).map((hook) => row(hook, 0n, '-', [stateOf(hook), hook.place]));
  const rows = [...attached, ...pending].sort((a, b) => Number(a[0]) - Number(b[0]));
  return table(LIST, rows);
}

function hookOf(engine: AttachEngine, context: Context) {
  const process = engine.process(pidOf(context));
  const id = Number(context.params['id']);
  if (process) {
    const hook = hooksOf(process).find((one) => one.id === id);
    const pending = pendingOf(process).find((one) => one.id === id);
    if (hook || pending) return { process, hook, pending };
  }
  return fail('ENOENT', `${context.params['id']}: no such hook`);
}

function aboutProgram(hook: Hook | PendingHook): [string, string | number][] {
  return [
    ['id', hook.id],
    ['kind', kindOf(hook)],
    ['enabled', hook.enabled ? 1 : 0],
    ['program', hook.program.name],
    ['section', hook.program.section],
    ['program_id', hook.program.id],
    ['insns', hook.program.insnCount],
    ['jit_bytes', hook.program.jitBytes],
  ];
}

function pendingText(process: EnteredProcess, hook: PendingHook): string {
  return keyedLines([
    ...aboutProgram(hook),
    ['state', stateOf(hook)],
    ['refusal', hook.refusal ? `${hook.refusal.errno} ${hook.refusal.reason}` : '-'],
    ['target', hook.place],
    ['loader', process.loader],
    ['file', fileOf(hook)],
    ['hits', 0],
  ]);
}

/** Returns of a hook that were cut short; `-` where nobody can tell (exit_form ret, entries). */
async function unwoundOf(process: EnteredProcess, hook: Hook): Promise<bigint | string> {
  if (hook.exitForm !== 'balanced') return '-';
  const { hooks } = await native.targetUnwound(process.session);
  return hooks.find((one) => one.hookId === hook.id)?.count ?? 0n;
}

async function hookText(engine: AttachEngine, context: Context): Promise<string> {
  const { process, hook, pending } = hookOf(engine, context);
  if (!hook) return pendingText(process, pending!);
  const figures = (await figuresOf(process)).get(hook.id);
  return keyedLines([
    ...aboutProgram(hook),
    ['state', 'attached'],
    ['target', targetOf(hook)],
    ['addr', hex(hook.place.addr)],
    ['module', hook.place.module.path],
    ['file', fileOf(hook)],
    ['attached', new Date(hook.attachedAtMs).toISOString()],
    ['pause_ns', hook.pauseNs],
    ['exit_form', hook.exitForm ?? '-'],
    ['tier', figures?.tier ?? '-'],
    ['hits', figures?.hits ?? 0n],
    ['missed', figures?.missed ?? 0n],
    ['unwound', await unwoundOf(process, hook)],
    ['avg_ns', shownAverage(figures)],
  ]);
}

/** The places of a hook: its site's entry, or the function's exits. */
async function patchesOf(engine: AttachEngine, context: Context): Promise<PatchInfo[]> {
  const { process, hook, pending } = hookOf(engine, context);
  if (!hook) return fail('ENOENT', `${pending!.id}: it has no site, its module is not there`);
  const patches = (await native.targetPatches(process.session)).filter(
    (one) => one.addr === hook.place.addr && one.isExit === (hook.exitForm === 'ret'),
  );
  if (patches.length === 0) fail('ESTALE', `${hook.id}: its site is gone`);
  return patches;
}

async function patchText(patch: PatchInfo): Promise<string> {
  const copy = await disassemble(patch.copyBytes, patch.copy);
  return (
    keyedLines([
      ['site', hex(patch.site)],
      ['kind', patch.isExit ? 'exit' : 'entry'],
      ['form', patch.form],
      ['on', patch.on ? 1 : 0],
      ['old_bytes', patch.oldBytes.toString('hex')],
      ['new_bytes', patch.newBytes.toString('hex')],
      ['copy', hex(patch.copy)],
      ['trampoline', hex(patch.body)],
      ['trampoline_bytes', patch.bodyBytes],
    ]) +
    `# old\n${await disassemble(patch.oldBytes, patch.site)}` +
    `# new\n${await disassemble(patch.newBytes.subarray(0, 5), patch.site)}` +
    `# copy\n${copy}`
  );
}

async function siteText(engine: AttachEngine, context: Context): Promise<string> {
  const texts: string[] = [];
  for (const patch of await patchesOf(engine, context)) texts.push(await patchText(patch));
  return texts.join('\n');
}

async function setEnabled(engine: AttachEngine, context: Context, lines: string[]): Promise<void> {
  const words: Record<string, boolean> = { '1': true, '0': false, enable: true, disable: false };
  const last = lines.at(-1)?.trim() ?? '';
  const wanted = Object.hasOwn(words, last) ? words[last] : undefined;
  if (wanted === undefined) fail('EINVAL', `${last}: not a state (want 1, 0, enable or disable)`);
  await engine.setEnabled(pidOf(context), Number(context.params['id']), wanted!);
}

function payloadRow(engine: AttachEngine, dir: AttachDir, pattern: string, doc: string): Row {
  const name = (context: Context) => context.params['fn'] ?? context.params['object'] ?? '';
  return {
    pattern,
    kind: 'payload',
    doc,
    maxBytes: PAYLOAD_MAX_BYTES,
    handlers: {
      commit: async (context, bytes) => {
        if (dir !== 'hooks') parsePlace(name(context));
        const { path, caller } = context;
        await engine.attach({
          pid: pidOf(context),
          dir,
          name: name(context),
          path,
          bytes,
          caller,
        });
      },
      unlink: (context) => engine.detach(pidOf(context), context.path),
    },
  };
}

/** Directories whose files are named by functions. */
function functionRows(engine: AttachEngine): Row[] {
  return [
    {
      pattern: '/procs/<pid>/uprobe',
      kind: 'dir',
      doc: 'cp prog.o uprobe/FUNCTION attaches at its entry, rm detaches',
    },
    payloadRow(
      engine,
      'uprobe',
      '/procs/<pid>/uprobe/<fn>',
      'sym, module:sym, sym+0x1c, 0xADDR, module:0xOFF; with ,TAG one more object on the place',
    ),
    {
      pattern: '/procs/<pid>/uretprobe',
      kind: 'dir',
      doc: 'cp prog.o uretprobe/FUNCTION attaches at its return, rm detaches',
    },
    payloadRow(engine, 'uretprobe', '/procs/<pid>/uretprobe/<fn>', 'the same names as in uprobe/'),
    {
      pattern: '/procs/<pid>/replace',
      kind: 'dir',
      doc: "cp prog.o replace/FUNCTION: the program's result is the function's, rm brings it back",
    },
    payloadRow(engine, 'replace', '/procs/<pid>/replace/<fn>', 'a function, named as in uprobe/'),
  ];
}

/** Rows of procs/<pid> that take eBPF objects. */
export function hooksRows(engine: AttachEngine): Row[] {
  const id = '/procs/<pid>/hooks/by-id/<id>';
  return [
    ...functionRows(engine),
    {
      pattern: '/procs/<pid>/hooks',
      kind: 'dir',
      doc: 'cp prog.o hooks/ attaches each program where its own SEC() says',
    },
    {
      pattern: '/procs/<pid>/hooks/list',
      kind: 'generated',
      doc: 'what is attached or waits for its module: id, kind, on, hits, avg_ns, program, state, target, file',
      handlers: { read: (context) => listText(engine, context) },
    },
    payloadRow(
      engine,
      'hooks',
      '/procs/<pid>/hooks/<object>',
      'an object that was copied here; rm detaches all its programs',
    ),
    { pattern: '/procs/<pid>/hooks/by-id', kind: 'dir', doc: 'one directory per hook' },
    { pattern: id, kind: 'dir', doc: 'one hook' },
    {
      pattern: `${id}/info`,
      kind: 'generated',
      doc: 'the hook in `key value` lines',
      handlers: { read: (context) => hookText(engine, context) },
    },
    {
      pattern: `${id}/site`,
      kind: 'generated',
      doc: 'old and new bytes of the site, or of each exit, and their disassembly',
      handlers: { read: (context) => siteText(engine, context) },
    },
    {
      pattern: `${id}/enabled`,
      kind: 'line',
      doc: '1 or 0; write it to switch the hook on or off',
      handlers: {
        read: (context) => {
          const { hook, pending } = hookOf(engine, context);
          return `${(hook ?? pending)!.enabled ? 1 : 0}\n`;
        },
        line: (context, lines) => setEnabled(engine, context, lines),
      },
    },
  ];
}
