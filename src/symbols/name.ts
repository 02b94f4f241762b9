// How people name a place in a process: `sym`, `module:sym`, `sym+0x1c`, `0xADDR`, `module:0xOFF`.
// What a file name cannot hold is written %2f in a symbol: `net%2fhttp.(*conn).serve`.
// Pure parsing; src/symbols/resolve.ts finds what is meant.
import { fail } from '../errors.js';

/** A parsed name. */
export interface PlaceName {
  /** As written, without the tag. */
  text: string;
  /** `libssl.so.3` in `libssl.so.3:SSL_read`. */
  module: string | undefined;
  /** Symbol, or undefined when the place is an address. */
  symbol: string | undefined;
  /** Bytes behind the symbol's start; or the absolute address; or the file offset in `module`. */
  offset: bigint;
  /** `sym,TAG`: distinguishes several objects on one place. */
  tag: string | undefined;
}

/**
 * Characters of symbols that a file name or this grammar has another use for. Go's linker writes
 * `%2e` for a dot in its own names; those three digits stay as they are.
 */
const ESCAPES: readonly [char: string, written: string][] = [
  ['/', '%2f'],
  [',', '%2c'],
  [':', '%3a'],
];

/** A Go symbol as one writes it here: `net%2fhttp.(*conn).serve`. */
export function escapeSymbol(name: string): string {
  return ESCAPES.reduce((text, [char, written]) => text.replaceAll(char, written), name);
}

function unescapeSymbol(text: string): string {
  if (!text.includes('%')) return text;
  return text.replace(/%(2f|2c|3a)/gi, (written) =>
    String.fromCharCode(Number.parseInt(written.slice(1), 16)),
  );
}

const NUMBER = /^0x[0-9a-fA-F]{1,16}$/;

/**
 * Parses a place.
 * @throws {FsError} EINVAL with what is wrong
 */
export function parsePlace(input: string): PlaceName {
  // A tag follows the last comma; symbols of C++ with commas must be given mangled.
  const comma = input.lastIndexOf(',');
  const text = comma > 0 ? input.slice(0, comma) : input;
  const tag = comma > 0 ? input.slice(comma + 1) : undefined;
  if (tag === '') fail('EINVAL', `${input}: nothing follows the comma (write ${text},TAG)`);
  const colon = text.indexOf(':');
  const isScope = colon >= 0 && text[colon + 1] === ':';
  const module = colon > 0 && !isScope ? text.slice(0, colon) : undefined;
  const rest = module === undefined ? text : text.slice(colon + 1);
  if (rest === '') fail('EINVAL', `${input}: no function named (write module:function)`);
  if (NUMBER.test(rest)) {
    return { text, module, symbol: undefined, offset: BigInt(rest), tag };
  }
  const plus = rest.lastIndexOf('+');
  if (plus <= 0) return { text, module, symbol: unescapeSymbol(rest), offset: 0n, tag };
  const digits = rest.slice(plus + 1);
  if (!NUMBER.test(digits) && !/^\d{1,10}$/.test(digits)) {
    fail(
      'EINVAL',
      `${input}: ${digits || 'nothing'} is not an offset (write ${rest.slice(0, plus)}+0x1c)`,
    );
  }
  const symbol = unescapeSymbol(rest.slice(0, plus));
  return { text, module, symbol, offset: BigInt(digits), tag };
}
