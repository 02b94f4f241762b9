// The tree as one table. Everything that describes it is derived from the rows: the classes that
// native threads serve, the README of each directory, the man page's list of files, tests.
// Pure: no file system, no native code.
import type { NodeClass } from '../native.js';
import type { Row } from './node.js';

/** The table with what was derived from it. */
export interface Tree {
  rows: readonly Row[];
  /** For `fuseMount`; the root's class is `/`. */
  classes: NodeClass[];
  /** The row of a class. */
  rowOf(cls: string): Row | undefined;
  /** The row that answers `lookup` in a directory. */
  lookupRowOf(dirClass: string): Row | undefined;
}

const isParam = (part: string) => part.startsWith('<') && part.endsWith('>');
const lastPart = (pattern: string) => pattern.slice(pattern.lastIndexOf('/') + 1);
const parentOf = (pattern: string) => pattern.slice(0, pattern.lastIndexOf('/')) || '/';

const WRITABLE_KINDS: readonly string[] = ['line', 'payload'];

/** Permission bits of a row. */
export function modeOf(row: Row): number {
  if (row.mode !== undefined) return row.mode;
  if (row.kind === 'dir') return 0o755;
  if (row.kind === 'symlink') return 0o777;
  return WRITABLE_KINDS.includes(row.kind) ? 0o644 : 0o444;
}

/** Values of a pattern's `<name>` parts in a path that it matches. */
export function paramsOf(pattern: string, path: string): Record<string, string> {
  const names = pattern.split('/');
  const values = path.split('/');
  const params: Record<string, string> = {};
  names.forEach((name, i) => {
    if (isParam(name)) params[name.slice(1, -1)] = values[i] ?? '';
  });
  return params;
}

/** The README of a directory: what it is for, and a line for each name in it. */
export function readmeText(dir: Row, children: readonly Row[]): string {
  const names = children.map((row) => lastPart(row.pattern) + (row.kind === 'dir' ? '/' : ''));
  const width = Math.max(...names.map((name) => name.length), 6) + 2;
  const lines = children.map((row, i) => `  ${names[i]!.padEnd(width)}${row.doc}`);
  return `${[dir.doc, ...(lines.length > 0 ? [''] : []), ...lines].join('\n')}\n`;
}

/** The FILES section of the man page: the whole tree, one line each. */
export function filesText(tree: Tree): string {
  const listed = tree.rows.filter((row) => lastPart(row.pattern) !== 'README');
  const width = Math.max(...listed.map((row) => row.pattern.length)) + 2;
  return listed.map((row) => `${row.pattern.padEnd(width)}${row.doc}\n`).join('');
}

function checkRows(rows: readonly Row[]): void {
  const patterns = new Set(rows.map((row) => row.pattern));
  if (patterns.size !== rows.length) throw new Error('tree: a pattern appears twice');
  for (const row of rows) {
    if (row.doc === '') throw new Error(`tree: ${row.pattern} has no doc`);
    if (row.pattern !== '/' && !patterns.has(parentOf(row.pattern))) {
      throw new Error(`tree: ${row.pattern} has no parent row`);
    }
  }
}

function withReadmes(rows: readonly Row[]): Row[] {
  const out: Row[] = [...rows];
  for (const dir of rows) {
    if (dir.kind !== 'dir') continue;
    const pattern = `${dir.pattern === '/' ? '' : dir.pattern}/README`;
    if (rows.some((row) => row.pattern === pattern)) continue;
    const children = rows.filter((row) => row !== dir && parentOf(row.pattern) === dir.pattern);
    const content = readmeText(dir, children);
    out.push({ pattern, kind: 'snapshot', doc: 'what this directory holds', content });
  }
  return out;
}

function classOf(row: Row, rows: readonly Row[]): NodeClass {
  const cls: NodeClass = { name: row.pattern, kind: row.kind, mode: modeOf(row) };
  if (row.maxBytes !== undefined) cls.maxBytes = row.maxBytes;
  if (row.content !== undefined) cls.content = row.content;
  if (row.kind !== 'dir') return cls;
  cls.children = {};
  cls.provider = row.listsProcesses ? 'procs' : 'published';
  for (const child of rows) {
    if (child === row || parentOf(child.pattern) !== row.pattern) continue;
    if (!isParam(lastPart(child.pattern))) {
      cls.children[lastPart(child.pattern)] = child.pattern;
      continue;
    }
    if (row.listsProcesses) cls.childClass = child.pattern;
    else if (child.handlers?.lookup) {
      cls.provider = 'lookup';
      cls.childClass = child.pattern;
    }
    if (child.handlers?.commit) cls.createClass = child.pattern;
    if (child.handlers?.mkdir) cls.mkdirClass = child.pattern;
  }
  return cls;
}

/**
 * Derives everything from the rows. README files are added where a directory has none.
 * @throws {Error} when the table itself is wrong: a duplicate pattern, a missing parent or doc
 */
export function buildTree(given: readonly Row[]): Tree {
  checkRows(given);
  const rows = withReadmes(given);
  const byClass = new Map(rows.map((row) => [row.pattern, row]));
  const classes = rows.map((row) => classOf(row, rows));
  const dirClasses = new Map(classes.map((cls) => [cls.name, cls]));
  return {
    rows,
    classes,
    rowOf: (cls) => byClass.get(cls),
    lookupRowOf: (dirClass) => byClass.get(dirClasses.get(dirClass)?.childClass ?? ''),
  };
}
