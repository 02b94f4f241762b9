// `npm run bench [-- GROUP] [--json FILE]`: runs the table of trials and reports.
// A result is evidence, never a verdict: nothing here fails because a number is large.
import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Bench } from './bench.js';
import { load, machineFacts } from './facts.js';
import { factLines, type Missing, type ReportRow, tableText } from './report.js';
import { median, type Row, rowOf, Unavailable } from './stats.js';
import { type Trial, trials } from './trials.js';

const resultsDir = fileURLToPath(new URL('../../bench/results/', import.meta.url));

const usage = `usage: npm run bench [-- GROUP...] [--json FILE]
GROUP is a group (${[...new Set(trials.map((trial) => trial.group))].join(', ')}) or the first words of a row's name.
The report of a whole run is kept in bench/results/.

${trials.map((trial) => `  ${trial.name.padEnd(28)}${trial.description}`).join('\n')}
`;

const isWanted = (trial: Trial, groups: readonly string[]) =>
  groups.length === 0 ||
  groups.some((one) => trial.group === one || `${trial.name}.`.startsWith(`${one}.`));

interface Outcome {
  rows: ReportRow[];
  /** Rows for programs: the same, and the absolute figures under names of their own. */
  json: Row[];
  missing: Missing[];
}

async function runTrial(trial: Trial, bench: Bench, outcome: Outcome): Promise<void> {
  const { name, unit, description } = trial;
  try {
    const { samples, absolutes, note } = await trial.run(bench);
    const row = rowOf(name, unit, samples);
    outcome.json.push(row);
    if (absolutes) outcome.json.push(rowOf(`${name}.absolute`, unit, absolutes));
    outcome.rows.push({
      ...row,
      description,
      ...(absolutes ? { absolute: median(absolutes) } : {}),
      ...(note === undefined ? {} : { note }),
    });
  } catch (error) {
    // One trial that fails does not take the others' results with it.
    const { message } = error as Error;
    const isExpected = error instanceof Unavailable;
    if (!isExpected) process.exitCode = 1;
    outcome.missing.push({ name, reason: isExpected ? message : `failed: ${message}` });
  }
}

function addRatios(rows: ReportRow[]): void {
  const byName = new Map(rows.map((row) => [row.name, row]));
  for (const { name, baseline: to } of trials) {
    const row = byName.get(name);
    const base = byName.get(to ?? '');
    if (row && base) row.ratio = { value: row.median / base.median, to: base.name };
  }
}

async function runAll(wanted: readonly Trial[]): Promise<Outcome> {
  const outcome: Outcome = { rows: [], json: [], missing: [] };
  const bench = new Bench();
  try {
    for (const trial of wanted) {
      if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${trial.name}`);
      await runTrial(trial, bench, outcome);
    }
  } finally {
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    await bench.close();
  }
  addRatios(outcome.rows);
  return outcome;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
});
const wanted = trials.filter((trial) => isWanted(trial, positionals));
if (values.help || wanted.length === 0) {
  process.stdout.write(usage);
  process.exit(values.help ? 0 : 2);
}

const facts = machineFacts();
const loadBefore = load();
const started = Date.now();
const outcome = await runAll(wanted);
const seconds = ((Date.now() - started) / 1000).toFixed(0);
facts.push(['load', `${loadBefore} before, ${load()} after, ${seconds} s`]);
const report = `${factLines(facts)}\n${tableText(outcome.rows, outcome.missing)}`;
process.stdout.write(report);
if (positionals.length === 0) {
  mkdirSync(resultsDir, { recursive: true });
  writeFileSync(`${resultsDir}${new Date().toISOString().slice(0, 10)}.txt`, report);
}
if (values.json !== undefined) {
  writeFileSync(values.json, `${JSON.stringify(outcome.json, undefined, 1)}\n`);
}
