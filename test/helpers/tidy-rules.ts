// The style guide that executes: each rule takes the files of the repository and returns findings
// as `path:line: what (why or what to do)`. Pure, so that each rule can be shown a file that breaks
// it.

/** A file of the repository. */
export interface Source {
  /** Relative to the root, e.g. `src/fs/tree.ts`. */
  path: string;
  text: string;
}

/** Looks at all files; returns what is wrong. */
export type Rule = (files: readonly Source[]) => string[];

const LINE_COLUMNS_MAX = 100;
const FUNCTION_LINES_MAX = 70;
const HEADER_LINES_MAX = 20; // aim for 15

/** Functions that are longer than they should be, and may only become shorter, by file. */
const LONG_FUNCTIONS: Readonly<Record<string, number>> = {
  'native/vm/interp.cc': 160, // one case an opcode
};

const isTs = (path: string) => path.endsWith('.ts');
const isNative = (path: string) => /\.(cc|c|h)$/.test(path);
const isShell = (path: string) =>
  path.endsWith('.sh') || path === 'bin/bpftimefs' || path === '.ci/run';
const isCode = (path: string) => isTs(path) || isNative(path) || isShell(path);
const linesOf = (file: Source) => file.text.replace(/\n$/, '').split('\n');
const under = (dir: string, path: string) => path.startsWith(`${dir}/`);

/** Longest file by kind; the first pattern that matches counts. */
const LENGTHS: readonly (readonly [RegExp, number])[] = [
  [/^src\/.*\.ts$/, 400],
  [/\.ts$/, 500],
  [/^(test|bench)\/.*\.(cc|c|h)$/, 800],
  [/\.(cc|c|h)$/, 600],
  [/\.sh$/, 150],
  [/^docs\/adr\/.*\.md$/, 60],
  [/^docs\/architecture\.md$/, 200],
];

/** Files that are longer than they should be, and may only become shorter. */
const LONG_FILES: Readonly<Record<string, number>> = {
  'src/attach/engine.ts': 450,
};

/** Files are short enough to be read. */
export const fileLength: Rule = (files) =>
  files.flatMap((file) => {
    const usual = LENGTHS.find(([pattern]) => pattern.test(file.path))?.[1];
    const most = LONG_FILES[file.path] ?? usual;
    const count = linesOf(file).length;
    return most !== undefined && count > most
      ? [`${file.path}:${count}: ${count} lines, at most ${most} (split it by notion)`]
      : [];
  });

/** Lines fit beside each other. */
export const lineLength: Rule = (files) =>
  files
    .filter(({ path }) => isCode(path))
    .flatMap((file) =>
      linesOf(file).flatMap((line, i) => {
        // The formatter breaks what can be broken; what is left are strings, and comments.
        const isBreakable = !isTs(file.path) || /^\s*(\/\/|\*)/.test(line);
        if ([...line].length <= LINE_COLUMNS_MAX || !isBreakable) return [];
        return [`${file.path}:${i + 1}: ${[...line].length} columns, at most ${LINE_COLUMNS_MAX}`];
      }),
    );

const FUNCTION_STARTS: readonly (readonly [(path: string) => boolean, RegExp, string])[] = [
  [(path) => isTs(path) && under('src', path), /^(export )?(async )?function /, '}'],
  [(path) => isTs(path) && under('src', path), /^ {2}(static |async |#)*[\w#]+\(.*$/, '  }'],
  [(path) => isNative(path) && under('native', path), /^[A-Za-z_][^=;]*\([^;]*$/, '}'],
];

/** Functions fit on a screen. */
export const functionLength: Rule = (files) =>
  files.flatMap((file) => {
    const found: string[] = [];
    const lines = linesOf(file);
    for (const [applies, start, end] of FUNCTION_STARTS) {
      if (!applies(file.path)) continue;
      for (let i = 0; i < lines.length; i++) {
        if (!start.test(lines[i]!) || /^(namespace|extern|struct|class|enum|union)/.test(lines[i]!))
          continue;
        const length = lines.slice(i).indexOf(end) + 1;
        const declaration = lines
          .slice(i, i + 8)
          .findIndex((line) => /;\s*(\/[/*].*)?$/.test(line));
        const opens = lines.slice(i, i + 8).findIndex((line) => line.endsWith('{'));
        if (opens < 0 || (declaration >= 0 && declaration < opens)) continue;
        const most = LONG_FUNCTIONS[file.path] ?? FUNCTION_LINES_MAX;
        if (length > most) {
          found.push(`${file.path}:${i + 1}: function of ${length} lines, at most ${most}`);
        }
        i += Math.max(length - 1, 0);
      }
    }
    return found;
  });

/** The first screen says what the file is; of `name.cc`, that of `name.h` does. */
export const headerComment: Rule = (files) =>
  files
    .filter(({ path }) => isCode(path))
    .filter(({ path }) => {
      const header = path.replace(/\.(cc|c)$/, '.h');
      return header === path || !files.some((other) => other.path === header);
    })
    .flatMap((file) => {
      const lines = linesOf(file).filter((line) => !/^#!|SPDX-License-Identifier/.test(line));
      const mark = isShell(file.path) ? /^#/ : /^(\/\/|\/\*| \*)/;
      const length = lines.findIndex((line) => !mark.test(line));
      if (length === 0)
        return [`${file.path}:1: no header comment (what it is, what must not be here)`];
      return length > HEADER_LINES_MAX
        ? [`${file.path}:1: header of ${length} lines, at most ${HEADER_LINES_MAX}`]
        : [];
    });

/** Native files name their licence. */
export const licenceLine: Rule = (files) =>
  files
    .filter(({ path }) => isNative(path))
    .filter((file) => !/^(\/\/|\/\*) SPDX-License-Identifier: MIT/.test(file.text))
    .map((file) => `${file.path}:1: the first line is // SPDX-License-Identifier: MIT`);

interface Ban {
  where: RegExp;
  what: RegExp;
  say: string;
}

const ALL_CODE = /^(src|test|bench|scripts|native|demo|bin)\//;
const BANS: readonly Ban[] = [
  ...[
    ['strcpy|strcat|stpcpy', 'std::string or memcpy with a length', 'it knows no bounds'],
    ['v?sprintf', 'snprintf', 'it knows no bounds'],
    ['gets', 'fgets', 'it knows no bounds'],
    ['system|popen', 'src/ with an argument list', 'native starts no shell'],
    ['alloca', 'a fixed buffer', 'stacks here are small'],
    ['rand|srand', 'the helper or /proc', 'runs must be repeatable or unguessable'],
  ].map(([name, instead, why]) => ({
    where: /^native\//,
    what: new RegExp(`(?<![\\w.>:"])(${name})\\(`),
    say: `${name?.replaceAll('|', ', ')} is banned, use ${instead}: ${why}`,
  })),
  {
    where: /^native\//,
    what: /\b(throw|dynamic_cast|typeid)\b(?!.*(\/\/|\*))(?<!(\/\/|\*).*)/,
    say: 'exceptions and RTTI are banned, use Result<T>: native is built without them',
  },
  {
    where: /^src\//,
    what: /\bconsole\.\w+\(/,
    say: 'console is banned, use process.stdout.write or the log file: logs have readers',
  },
  {
    where: /^src\//,
    what: /\b(exec|execSync|execFileSync)\(['"`]|shell: true/,
    say: 'shells are banned in src, use spawn with a list: names come from users',
  },
  {
    where: /^src\//,
    what: /(:|<|\bas) any\b/,
    say: 'any is banned, use unknown and narrow it: the compiler must see it',
  },
  {
    where: /^(src|test|bench|scripts)\/.*\.ts$/,
    what: /^export default\b/,
    say: 'default exports are banned, use a name: one noun everywhere',
  },
  {
    where: /^(src|test|bench|scripts)\/.*\.ts$/,
    what: /@ts-(ignore|nocheck)/,
    say: '@ts-ignore is banned, use a type: the next error hides behind it',
  },
  {
    where: /^(src|test|bench|scripts|demo|\.ci)\//,
    what: /^(?!.*(\/\/|#) ).*\b(pkill|killall)\b/,
    say: 'killing by name is banned, use the pid: the machine has other users',
  },
  {
    where: ALL_CODE,
    what: /\b(FIXME|HACK|TODO(?!\(#\d+\)))(?=[:( ]|$)(?!\))/,
    say: 'a TODO without an issue is banned, use TODO(#N): it is forgotten otherwise',
  },
];

/** Calls and words that are not wanted, each with what to use instead. */
export const banned: Rule = (files) =>
  files
    .filter(({ path }) => !/tidy/.test(path))
    .flatMap((file) => {
      const bans = BANS.filter(({ where }) => where.test(file.path));
      return linesOf(file).flatMap((line, i) =>
        bans
          .filter(({ what }) => what.test(line))
          .map(({ say }) => `${file.path}:${i + 1}: ${say}`),
      );
    });

/** Each export of src has a doc comment (in front of it, or at the end of its line for constants). */
export const documentedExports: Rule = (files) =>
  files
    .filter(({ path }) => isTs(path) && under('src', path))
    .flatMap((file) => {
      const lines = linesOf(file);
      return lines.flatMap((line, i) => {
        if (!/^export (async |abstract )*(function|class|interface|const|type)\b/.test(line))
          return [];
        const before = lines[i - 1] ?? '';
        // A block of constants may share the comment of its first line.
        const shared = /^export const/.test(line) && /^export const/.test(before);
        return /\*\/$|^\/\//.test(before) || shared
          ? []
          : [`${file.path}:${i + 1}: export without a doc comment`];
      });
    });

/** All rules that look at files alone. */
export const textRules: Readonly<Record<string, Rule>> = {
  fileLength,
  lineLength,
  functionLength,
  headerComment,
  licenceLine,
  banned,
  documentedExports,
};
