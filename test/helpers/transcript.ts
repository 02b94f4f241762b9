// Transcripts: tests that read like a terminal. A `.transcript` file holds
//   # comment
//   $ command           run by bash, in the scratch directory, with the caller's variables
//   expected line       of standard output, exactly
//   ~ regex             a line of standard output that matches
//   ...                 any number of lines
//   ! text              standard error contains this
//   ? 3                 exit code; without it 0 is expected, or anything but 0 after `!`
// Lines follow their command; an empty line ends it.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** One command with what it should do. */
export interface Step {
  line: number;
  command: string;
  stdout: string[];
  stderr: string[];
  code: number | undefined;
}

/** What a step did. */
export interface Outcome {
  stdout: string[];
  stderr: string;
  code: number;
}

const STEP_TIMEOUT_MS = 30_000;

/** Parses a transcript. @throws {Error} when a line belongs to no command */
export function parseTranscript(text: string): Step[] {
  const steps: Step[] = [];
  let open = false;
  text.split('\n').forEach((line, i) => {
    if (line.startsWith('$ ')) {
      steps.push({ line: i + 1, command: line.slice(2), stdout: [], stderr: [], code: undefined });
      open = true;
    } else if (line === '') {
      open = false;
    } else if (!open) {
      if (!line.startsWith('#')) throw new Error(`line ${i + 1}: no command before it`);
    } else if (line.startsWith('! ')) {
      steps.at(-1)!.stderr.push(line.slice(2));
    } else if (line.startsWith('? ')) {
      steps.at(-1)!.code = Number(line.slice(2));
    } else {
      steps.at(-1)!.stdout.push(line);
    }
  });
  return steps;
}

const lineMatches = (expected: string, got: string): boolean =>
  expected.startsWith('~ ') ? new RegExp(expected.slice(2)).test(got) : expected === got;

/** Whether lines are as expected; `...` stands for any number of them. */
export function linesMatch(expected: readonly string[], got: readonly string[]): boolean {
  const [first, ...rest] = expected;
  if (first === undefined) return got.length === 0;
  if (first === '...') {
    return got.some((_line, i) => linesMatch(rest, got.slice(i))) || linesMatch(rest, []);
  }
  return got[0] !== undefined && lineMatches(first, got[0]) && linesMatch(rest, got.slice(1));
}

/** Runs one command. */
export function runStep(step: Step, cwd: string, variables: Record<string, string>): Outcome {
  const result = spawnSync('bash', ['--norc', '-c', step.command], {
    cwd,
    env: { ...process.env, LC_ALL: 'C', ...variables },
    encoding: 'utf8',
    timeout: STEP_TIMEOUT_MS,
    killSignal: 'SIGKILL',
  });
  const lines = result.stdout.split('\n');
  if (lines.at(-1) === '') lines.pop();
  return { stdout: lines, stderr: result.stderr, code: result.status ?? -1 };
}

/** What is wrong with an outcome; undefined when nothing is. */
export function judge(step: Step, outcome: Outcome): string | undefined {
  if (!linesMatch(step.stdout, outcome.stdout)) return 'standard output differs';
  const missing = step.stderr.find((text) => !outcome.stderr.includes(text));
  if (missing !== undefined) return `standard error lacks '${missing}'`;
  if (step.code !== undefined && outcome.code !== step.code) return `exit code ${outcome.code}`;
  if (step.code === undefined && step.stderr.length > 0) {
    return outcome.code === 0 ? 'exit code 0' : undefined;
  }
  if (step.code === undefined && outcome.code !== 0) return `exit code ${outcome.code}`;
  return undefined;
}

/** The part of tap's Test that the runner needs. */
export interface Reporter {
  pass(message: string): unknown;
  fail(message: string, extra: Record<string, unknown>): unknown;
}

/** Runs a transcript file; each command is one assertion. */
export function runTranscript(
  t: Reporter,
  file: string,
  where: { cwd: string; variables: Record<string, string> },
): void {
  for (const step of parseTranscript(readFileSync(file, 'utf8'))) {
    const outcome = runStep(step, where.cwd, where.variables);
    const wrong = judge(step, outcome);
    const title = `${step.line}: ${step.command}`;
    if (wrong === undefined) t.pass(title);
    else t.fail(title, { wrong, want: step.stdout, ...outcome });
  }
}
