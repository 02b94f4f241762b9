// Terminal sessions in Markdown: every ```console block of a page, run in one shell. A line that
// begins with `$ ` is typed; the lines below it are what must appear, as on a terminal (both
// streams). Figures differ from run to run: they match any other figure, except that 0 is only 0.
// `...` stands for any number of lines. Nothing shown means that nothing appears.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { linesMatch } from './transcript.js';

/** One typed command with the lines that a page shows below it. */
export interface Typed {
  /** Line in the page, from 1. */
  line: number;
  command: string;
  shown: string[];
}

/** All commands of all console blocks, in order. @throws {Error} when output has no command */
export function parsePage(text: string): Typed[] {
  const typed: Typed[] = [];
  let inside = false;
  text.split('\n').forEach((line, i) => {
    if (line.startsWith('```')) {
      inside = line === '```console';
    } else if (inside && line.startsWith('$ ')) {
      typed.push({ line: i + 1, command: line.slice(2), shown: [] });
    } else if (inside) {
      const last = typed.at(-1);
      if (!last) throw new Error(`line ${i + 1}: no command before it`);
      last.shown.push(line);
    }
  });
  return typed;
}

/** A line without what differs from run to run: times, numbers, addresses, bytes, column widths. */
export function masked(line: string): string {
  return line
    .trimEnd()
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
    .replace(/\b(uid|tid|cpu)([=:" ]+)\d+/g, '$1$2#')
    .replace(/\b(0x[0-9a-f]+|[0-9a-f]*\d[0-9a-f]*(\.\d+)?|[0-9a-f]{2})\b/g, (figure) =>
      Number(figure) === 0 && figure.length === 1 ? '0' : '#',
    )
    .replace(/(# )+/g, '# ')
    .replace(/\s+/g, ' ');
}

/** Whether output is what a page shows. */
export function matchesPage(shown: readonly string[], got: readonly string[]): boolean {
  const expected = shown.map((line) => (line === '...' ? line : masked(line)));
  return linesMatch(expected, got.map(masked));
}

const END = '--- end of command ---';
/** What a person is slow enough for: the program behind `&` is no copy of the shell any more. */
const EXECUTED =
  'for _ in {1..500}; do [ /proc/$!/exe -ef /proc/$$/exe ] || break; sleep 0.01; done; true';

/** One bash that runs the commands of a page; what is shown as PATH is really elsewhere. */
export class ConsoleSession {
  readonly #shell: ChildProcess;
  readonly #places: readonly (readonly [shown: string, real: string])[];
  #text = '';

  constructor(cwd: string, places: readonly (readonly [string, string])[]) {
    this.#places = places;
    this.#shell = spawn('bash', ['--noprofile', '--norc'], {
      cwd,
      env: { ...process.env, LC_ALL: 'C', HOME: cwd },
      stdio: ['pipe', 'pipe', 'ignore'],
      detached: true, // a process group of its own: everything in it ends with the session
    });
    this.#shell.stdout!.setEncoding('utf8');
    this.#shell.stdout!.on('data', (text: string) => {
      this.#text += text;
    });
    this.#shell.stdin!.write('exec 2>&1\n');
  }

  /** Types one command. @returns its output and exit code; code undefined when it does not end */
  async type(command: string, timeoutMs: number): Promise<{ out: string[]; code?: number }> {
    let real = command;
    for (const [shown, place] of this.#places) real = real.replaceAll(shown, place);
    if (/&\s*$/.test(real)) real += `\n${EXECUTED}`;
    this.#text = '';
    this.#shell.stdin!.write(`{ ${real}\n} < /dev/null\necho "${END}$?"\n`);
    const end = Date.now() + timeoutMs;
    for (;;) {
      const at = this.#text.indexOf(END);
      const code = /^\d+(?=\n)/.exec(this.#text.slice(at + END.length))?.[0];
      if (at >= 0 && code !== undefined) {
        return { out: this.#lines(this.#text.slice(0, at)), code: Number(code) };
      }
      if (Date.now() > end || this.#shell.exitCode !== null) {
        return { out: this.#lines(this.#text) };
      }
      await new Promise((resume) => setTimeout(resume, 5));
    }
  }

  /** Ends the shell and everything that it started. */
  async end(): Promise<void> {
    const closed = once(this.#shell, 'close');
    process.kill(-this.#shell.pid!, 'SIGKILL');
    await closed;
  }

  #lines(text: string): string[] {
    let shown = text;
    for (const [name, real] of this.#places) shown = shown.replaceAll(real, name);
    // A terminal's bash does not number its lines.
    const lines = shown.replace(/^bash: line \d+: /gm, 'bash: ').split('\n');
    if (lines.at(-1) === '') lines.pop();
    return lines;
  }
}
