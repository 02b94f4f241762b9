// Values as people type them: JSON, with hexadecimal numbers, bare words for names, and numbers of
// any size kept exactly. Pure; a mistake is reported with its column.
import { fail } from '../errors.js';

/** A parsed value. Integers are bigint, numbers with a fraction number. */
export type TextValue =
  | bigint
  | number
  | string
  | boolean
  | null
  | TextValue[]
  | Map<string, TextValue>;

const depthMax = 64;

/** Reads values from one line, from left to right. */
export class TextReader {
  readonly line: string;
  offset: number;
  private depth = 0;

  constructor(line: string, offset = 0) {
    this.line = line;
    this.offset = offset;
  }

  /** Refuses at the current column. @throws {FsError} EINVAL */
  refuse(reason: string): never {
    fail('EINVAL', reason, { offence: { line: this.line, column: this.offset } });
  }

  /** Skips blanks; whether the line ends here. */
  atEnd(): boolean {
    while (this.line[this.offset] === ' ' || this.line[this.offset] === '\t') this.offset++;
    return this.offset >= this.line.length;
  }

  /** Takes `token` if it comes next. */
  take(token: string): boolean {
    if (this.atEnd() || !this.line.startsWith(token, this.offset)) return false;
    this.offset += token.length;
    return true;
  }

  /** Takes `token`. @throws {FsError} EINVAL if something else comes */
  expect(token: string): void {
    if (!this.take(token)) this.refuse(`${this.next()}: expected '${token}'`);
  }

  /** The next value. @throws {FsError} EINVAL */
  value(): TextValue {
    if (this.atEnd()) this.refuse('end of line: a value is missing');
    const first = this.line[this.offset];
    if (first === '{' || first === '[') {
      if (++this.depth > depthMax) this.refuse(`value: nested deeper than ${depthMax}`);
      const nested = first === '{' ? this.object() : this.list();
      this.depth--;
      return nested;
    }
    if (first === '"') return this.quoted();
    return this.word();
  }

  private next(): string {
    return this.atEnd() ? 'end of line' : (this.line.slice(this.offset).match(/^\S+/)?.[0] ?? '');
  }

  private object(): Map<string, TextValue> {
    const fields = new Map<string, TextValue>();
    this.expect('{');
    if (this.take('}')) return fields;
    do {
      const start = this.offset;
      const name = this.value();
      if (typeof name !== 'string') this.refuse('a field has a name');
      if (fields.has(name)) {
        this.offset = start;
        this.refuse(`${name}: given twice`);
      }
      this.expect(':');
      fields.set(name, this.value());
    } while (this.take(','));
    this.expect('}');
    return fields;
  }

  private list(): TextValue[] {
    const values: TextValue[] = [];
    this.expect('[');
    if (this.take(']')) return values;
    do values.push(this.value());
    while (this.take(','));
    this.expect(']');
    return values;
  }

  private quoted(): string {
    const match = /"(?:[^"\\]|\\.)*"/y;
    match.lastIndex = this.offset;
    const text = match.exec(this.line)?.[0];
    if (text === undefined) this.refuse('string: the closing quote is missing');
    try {
      const value: unknown = JSON.parse(text);
      this.offset += text.length;
      return String(value);
    } catch {
      this.refuse(`${text}: not a JSON string`);
    }
  }

  private word(): TextValue {
    const match = /[^\s,:{}[\]"]+/y;
    match.lastIndex = this.offset;
    const text = match.exec(this.line)?.[0];
    if (text === undefined) this.refuse(`${this.next()}: not a value`);
    this.offset += text.length;
    if (text === 'true' || text === 'false') return text === 'true';
    if (text === 'null') return null;
    if (/^-?(0x[0-9a-f]+|\d+)$/i.test(text)) {
      return text.startsWith('-') ? -BigInt(text.slice(1)) : BigInt(text);
    }
    if (/^-?\d+(\.\d*)?(e[+-]?\d+)?$/i.test(text)) return Number(text);
    return text;
  }
}
