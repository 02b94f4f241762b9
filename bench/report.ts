// The report as text. Pure.
import type { Row } from './stats.js';

/** A row with what only the text shows. */
export interface ReportRow extends Row {
  description: string;
  /** Median before the bare call was taken off. */
  absolute?: number;
  ratio?: { value: number; to: string };
  note?: string;
}

/** A trial that could not be run. */
export interface Missing {
  name: string;
  reason: string;
}

const digits = (value: number) => (Math.abs(value) < 100 ? 2 : Math.abs(value) < 1000 ? 1 : 0);
const shown = (value: number | undefined) =>
  value === undefined ? '' : value.toFixed(digits(value));

/** `key value` lines, aligned. */
export function factLines(facts: readonly [string, string][]): string {
  const width = Math.max(...facts.map(([key]) => key.length)) + 2;
  return facts.map(([key, value]) => `${key.padEnd(width)}${value}\n`).join('');
}

const headers = ['name', 'unit', 'median', 'min', 'max', 'n', 'absolute', 'ratio', 'what'];
const LEFT_COLUMNS = new Set([0, 1, 7, 8]);

function cellsOf(row: ReportRow): string[] {
  const ratio = row.ratio ? `${shown(row.ratio.value)} x ${row.ratio.to}` : '';
  return [
    row.name,
    row.unit,
    shown(row.median),
    shown(row.min),
    shown(row.max),
    String(row.n),
    shown(row.absolute),
    ratio,
    row.note ? `${row.description} (${row.note})` : row.description,
  ];
}

/** The table, with what is missing below it. */
export function tableText(rows: readonly ReportRow[], missing: readonly Missing[]): string {
  const lines = [headers, ...rows.map(cellsOf)];
  const widths = headers.map((_, i) => Math.max(...lines.map((cells) => cells[i]!.length)));
  const text = lines
    .map((cells) =>
      cells
        .map((cell, i) =>
          LEFT_COLUMNS.has(i) ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!),
        )
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
  const gaps = missing.map(({ name, reason }) => `not measured: ${name}: ${reason}\n`).join('');
  return `${text}\n${gaps}`;
}
