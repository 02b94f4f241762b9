// procs/<pid>: what a process is (info, modules, symbols) and what its code looks like (disasm).
// Reads only; nothing here touches the process.
import { disassemble } from '../attach/disasm.js';
import type { AttachEngine } from '../attach/engine.js';
import { parseFollow } from '../attach/follow.js';
import { hooksOf, pendingOf } from '../attach/state.js';
import { parseNoStop } from '../attach/stops.js';
import { COVERAGE_WAIT_MS, DISASM_MAX_BYTES } from '../config.js';
import { fail, refusalOf } from '../errors.js';
import { native } from '../native.js';
import { readFacts } from '../process/identity.js';
import { type Module, readModules } from '../process/modules.js';
import { codeOfRefusal, coverageOf, percentCovered, refusalsByCode } from '../symbols/coverage.js';
import { escapeSymbol } from '../symbols/name.js';
import { loadModule, loadModules, resolvePlace } from '../symbols/resolve.js';
import { asPid, type Pid } from '../types.js';
import { keyedLines, table } from './format.js';
import { gdbScript } from './gdb-script.js';
import type { Context, Row } from './node.js';

/** The process that a request is about. */
export const pidOf = (context: Context): Pid => asPid(Number(context.params['pid']));

const hex = (value: bigint) => `0x${value.toString(16)}`;

async function infoText(engine: AttachEngine, pid: Pid): Promise<string> {
  const facts = readFacts(pid);
  const entered = engine.process(pid);
  const unwound = entered && (await native.targetUnwound(entered.session).catch(() => undefined));
  return keyedLines([
    ['pid', pid],
    ['comm', facts.comm],
    ['exe', facts.exe],
    ['uid', facts.uid],
    ['gid', facts.gid],
    ['threads', facts.threads],
    ['tracer', facts.tracer],
    ['seccomp', facts.seccomp],
    ['entered', entered ? 1 : 0],
    ['enter_ns', entered?.enterNs ?? 0],
    ['pause_ns_total', entered?.pauseTotalNs ?? 0],
    ['hooks', entered ? hooksOf(entered).length : 0],
    ['pending', entered ? pendingOf(entered).length : 0],
    ['loader', entered?.loader ?? 'none'],
    ['sites', entered?.sites.size ?? 0],
    ['reads', entered?.reads ?? 'none'],
    ['nostop', engine.stops.isNoStop(pid, entered) ? 'on' : 'off'],
    ['follow', engine.lineage.followOf(pid)],
    ['unwound', unwound?.total ?? 0n],
    ...(await coverageLines(pid)),
  ]);
}

/** `coverage.MODULE` lines: what is not known in time says so, and is at the next look. */
async function coverageLines(pid: Pid): Promise<[string, string][]> {
  const late = new Promise<undefined>((done) =>
    setTimeout(() => done(undefined), COVERAGE_WAIT_MS).unref(),
  );
  return await Promise.all(
    readModules(pid).map(async (module): Promise<[string, string]> => {
      const found = await Promise.race([coverageOf(pid, module).catch(() => null), late]);
      const key = `coverage.${module.name}`;
      if (found === undefined) return [key, 'reading'];
      if (found === null) return [key, '-'];
      const refused = refusalsByCode(found).map(([code, count]) => ` ${code}=${count}`);
      return [key, `${percentCovered(found)}% of ${found.functions}${refused.join('')}`];
    }),
  );
}

function moduleNamed(pid: Pid, name: string): Module {
  const module = readModules(pid).find((one) => one.name === name);
  return module ?? fail('ENOENT', `${name}: no such module (see modules)`);
}

function lookUpModule(context: Context): void {
  moduleNamed(pidOf(context), context.params['module'] ?? '');
}

async function coverageText(pid: Pid, name: string): Promise<string> {
  const module = moduleNamed(pid, name);
  const found = await coverageOf(pid, module).catch((error: unknown) => {
    throw refusalOf(error, name) ?? error;
  });
  const lines = keyedLines([
    ['functions', found.functions],
    ['probed', found.functions - found.refused.length],
    ['percent', percentCovered(found)],
    ['jmp', found.jmp],
    ['short', found.short],
    ['punned', found.punned],
    ['returning', found.returning],
    ['exit_form_ret', found.returningByRet],
    ...refusalsByCode(found).map(([code, count]): [string, number] => [`refused.${code}`, count]),
  ]);
  const refused = found.refused.map((one) => `! ${one.name} ${codeOfRefusal(one.reason)}\n`);
  return lines + refused.join('');
}

async function modulesText(pid: Pid): Promise<string> {
  const loaded = await loadModules(pid);
  const rows = loaded.map(({ module, table: symbols, bias }) => [
    hex(module.mappings[0]!.start),
    hex(bias),
    symbols.elf.buildId || '-',
    String(symbols.count),
    module.deleted ? `${module.path} (deleted)` : module.path,
  ]);
  return table(['start', 'bias', 'build_id', 'symbols', 'path'], rows);
}

async function symbolsText(pid: Pid, name: string): Promise<string> {
  const module = moduleNamed(pid, name);
  const loaded = await loadModule(pid, module);
  if (!loaded) return fail('ENOEXEC', `${name}: its file is not readable as x86-64 ELF`);
  let text = '';
  for (let i = 0; i < loaded.table.count; i++) {
    const symbol = loaded.table.at(i);
    if (symbol.kind === 'object') continue;
    // nm's columns: run-time address, size, t for local and T for global, i for ifunc.
    const type = symbol.kind === 'ifunc' ? 'i' : symbol.local ? 't' : 'T';
    text += `${hex(loaded.bias + symbol.vaddr)} ${symbol.size} ${type} ${symbol.isGo ? escapeSymbol(symbol.name) : symbol.name}\n`;
  }
  return text;
}

async function disasmText(pid: Pid, name: string): Promise<string> {
  const place = await resolvePlace(pid, name);
  const size = Math.min(place.functionSize, DISASM_MAX_BYTES);
  const bytes = native.targetReadMemory(pid, place.functionAddr, size);
  const head = `# ${place.module.name}:${place.symbol.name}+0x0 ${place.functionSize} bytes\n`;
  return head + (await disassemble(bytes, place.functionAddr));
}

function gdbRow(engine: AttachEngine): Row {
  return {
    pattern: '/procs/<pid>/gdb.py',
    kind: 'generated',
    doc: 'for gdb: source it, and bt sees through replaced return addresses',
    handlers: {
      read: async (context) => {
        const pid = pidOf(context);
        const entered = engine.process(pid);
        return gdbScript(pid, entered && (await native.targetShadows(entered.session)));
      },
    },
  };
}

/** Rows of procs/<pid> that describe a process. */
export function procsRows(engine: AttachEngine): Row[] {
  return [
    {
      pattern: '/procs/<pid>/info',
      kind: 'line',
      doc: 'what the process is and has of ours; echo follow=none|fork|exec|all, nostop=on|off',
      handlers: {
        read: (context) => infoText(engine, pidOf(context)),
        line: async (context, lines) => {
          const pid = pidOf(context);
          const settings = lines.map((line) => parseNoStop(line) ?? parseFollow(line));
          for (const value of settings) {
            if (typeof value === 'string') await engine.lineage.setFollow(pid, value);
            else await engine.stops.set(pid, value, engine.process(pid));
          }
        },
      },
    },
    {
      pattern: '/procs/<pid>/modules',
      kind: 'generated',
      doc: 'executable and libraries: start, load bias, build-id, number of symbols, path',
      handlers: { read: (context) => modulesText(pidOf(context)) },
    },
    {
      pattern: '/procs/<pid>/coverage',
      kind: 'dir',
      doc: 'which functions of a module take a probe: cat coverage/<module>',
    },
    {
      pattern: '/procs/<pid>/coverage/<module>',
      kind: 'generated',
      doc: 'functions that take a probe, by form, and each that does not, with a reason code',
      handlers: {
        lookup: lookUpModule,
        read: (context) => coverageText(pidOf(context), context.params['module'] ?? ''),
      },
    },
    { pattern: '/procs/<pid>/symbols', kind: 'dir', doc: 'functions by module: symbols/<module>' },
    {
      pattern: '/procs/<pid>/symbols/<module>',
      kind: 'generated',
      doc: 'functions of a module in the columns of nm: address, size, type, name',
      handlers: {
        lookup: lookUpModule,
        read: (context) => symbolsText(pidOf(context), context.params['module'] ?? ''),
      },
    },
    gdbRow(engine),
    { pattern: '/procs/<pid>/disasm', kind: 'dir', doc: 'live code: cat disasm/<function>' },
    {
      pattern: '/procs/<pid>/disasm/<fn>',
      kind: 'generated',
      doc: 'a function as it is in memory now, disassembled',
      handlers: {
        lookup: async (context) => {
          await resolvePlace(pidOf(context), context.params['fn'] ?? '');
        },
        read: (context) => disasmText(pidOf(context), context.params['fn'] ?? ''),
      },
    },
  ];
}
