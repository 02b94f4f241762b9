// Text control files: a grammar is a table of verbs, and a mistake is shown with a caret.
import { LINE_MAX_BYTES } from '../config.js';
import { fail } from '../errors.js';
import { oneLine } from './format.js';

/** A word of a line with its column, for carets. */
export interface Word {
  text: string;
  column: number;
}

/** One verb: how many words follow it, and what it does with them. */
export interface Verb<Result> {
  /** Names of the words that follow; a trailing `...` accepts any number. */
  args: readonly string[];
  run(words: Word[], line: string): Result;
}

/** Verbs by name. */
export type VerbTable<Result> = Readonly<Record<string, Verb<Result>>>;

/** Splits a write into its lines; empty ones and comments (`#`) are dropped. */
export function splitLines(data: Buffer): string[] {
  return data
    .toString('utf8')
    .split('\n')
    .filter((line) => line.trim() !== '' && !line.trimStart().startsWith('#'));
}

/** Splits a line into words. */
export function splitWords(line: string): Word[] {
  return [...line.matchAll(/\S+/g)].map((match) => ({ text: match[0], column: match.index }));
}

/**
 * Refuses a line, pointing at a column.
 * @throws {FsError} EINVAL
 */
export function failAt(line: string, column: number, reason: string): never {
  fail('EINVAL', reason, { offence: { line, column } });
}

/**
 * Parses one line with a verb table and runs its verb.
 * @throws {FsError} EINVAL unknown verb or wrong number of words, E2BIG over LINE_MAX_BYTES
 */
export function runVerb<Result>(verbs: VerbTable<Result>, line: string): Result {
  if (Buffer.byteLength(line) > LINE_MAX_BYTES) {
    fail('E2BIG', `line: ${Buffer.byteLength(line)} bytes, at most ${LINE_MAX_BYTES}`);
  }
  const [first, ...rest] = splitWords(line);
  if (first === undefined) failAt(line, 0, 'line: it is empty');
  const verb = Object.hasOwn(verbs, first.text) ? verbs[first.text] : undefined;
  if (verb === undefined) {
    const known = Object.keys(verbs).join(', ');
    failAt(line, first.column, `${oneLine(first.text)}: unknown verb (want ${known})`);
  }
  const open = verb.args.at(-1)?.endsWith('...') ?? false;
  const enough = open ? rest.length >= verb.args.length - 1 : rest.length === verb.args.length;
  if (!enough) {
    const usage = [first.text, ...verb.args].join(' ');
    failAt(line, rest.at(-1)?.column ?? line.length, `${first.text}: usage is '${usage}'`);
  }
  return verb.run(rest, line);
}

/** The line with a caret below the mistake, for `error_log`. */
export function caretLines(line: string, column: number): string {
  const shown = oneLine(line.slice(0, 200));
  return `  ${shown}\n  ${' '.repeat(Math.min(column, shown.length))}^\n`;
}
