// Text of files: flat `key value` lines, tables, timestamps. What is written here can be read by
// `cut`, `awk` and `read`. Pure.

/** Flat keyed lines, `key value\n`. */
export function keyedLines(entries: Iterable<readonly [string, string | number | bigint]>): string {
  let text = '';
  for (const [key, value] of entries) text += `${key} ${value}\n`;
  return text;
}

/** Columns separated by two blanks; the last one is not padded. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((cell, i) =>
    Math.max(cell.length, ...rows.map((row) => row[i]?.length ?? 0)),
  );
  const line = (cells: readonly string[]) =>
    `${cells.map((cell, i) => (i === cells.length - 1 ? cell : cell.padEnd(widths[i]!))).join('  ')}\n`;
  return [header, ...rows].map(line).join('');
}

/** A user's text made safe for one line of a log: control characters are escaped. */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is escaped
  return text.replace(/[\u0000-\u001f\u007f]/g, (c) => {
    if (c === '\n') return '\\n';
    return `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}

/** `2026-11-22T15:04:05.123Z`. */
export const timestamp = (date: Date = new Date()): string => date.toISOString();

/** One JSON object per line, for `events` streams. bigint is written as a number. */
export function jsonLine(record: Record<string, unknown>): string {
  const text = JSON.stringify(record, (_key, value: unknown) =>
    typeof value === 'bigint' ? `\u0000${value}` : value,
  );
  return `${text.replace(/"\\u0000(-?\d+)"/g, '$1')}\n`;
}
