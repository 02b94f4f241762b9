// Rules about how files refer to each other: nothing unreferenced, no import against the direction
// of the layers, pure files stay pure. Pure themselves, like tidy-rules.ts.
import { posix } from 'node:path';
import type { Rule, Source } from './tidy-rules.js';

interface Import {
  from: string;
  /** Path of the imported file in the repository, or the name of a package. */
  to: string;
  typeOnly: boolean;
  line: number;
}

/** Imports of one TypeScript file. */
function importsOf(file: Source): Import[] {
  const found: Import[] = [];
  const pattern = /^(import|export)( type)?\b(?:[^;'"]*? from)? ?'([^']+)';/gm;
  for (const match of file.text.matchAll(pattern)) {
    const [statement, , typeWord, name = ''] = match;
    const to = name.startsWith('.')
      ? posix.join(posix.dirname(file.path), name).replace(/\.js$/, '.ts')
      : name;
    const named = /\{([^}]*)\}/.exec(statement)?.[1];
    const allTypes =
      named?.split(',').every((one) => !one.trim() || /^\s*type /.test(one)) ?? false;
    const line = file.text.slice(0, match.index).split('\n').length;
    found.push({ from: file.path, to, typeOnly: typeWord !== undefined || allTypes, line });
  }
  return found;
}

const isTs = (file: Source) => file.path.endsWith('.ts');

/** Which rooms of src a room may import from; type-only imports of native.ts are for everybody. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  cli: ['attach', 'fs', 'config', 'errors', 'native', 'native-vm', 'types', 'process'],
  fs: ['attach', 'bpf', 'process', 'symbols', 'config', 'errors', 'native', 'types'],
  attach: ['bpf', 'process', 'symbols', 'config', 'errors', 'native', 'types'],
  bpf: ['config', 'errors', 'types'],
  symbols: ['process', 'config', 'errors', 'native', 'native-symbols', 'types'],
  process: ['config', 'errors', 'types'],
  config: [],
  errors: [],
  types: [],
  native: ['native-adopt', 'native-symbols', 'native-vm'],
  'native-adopt': ['native'],
  'native-symbols': [],
  'native-vm': [],
};

const roomOf = (path: string) => /^src\/([\w-]+)/.exec(path)?.[1] ?? '';

/** Imports go down the layers only. */
export const importDirection: Rule = (files) =>
  files
    .filter((file) => isTs(file) && file.path.startsWith('src/'))
    .flatMap(importsOf)
    .flatMap(({ from, to, typeOnly, line }) => {
      if (!to.startsWith('src/')) return [];
      const [room, other] = [roomOf(from), roomOf(to)];
      if (room === 'main' || room === other || (other === 'native' && typeOnly)) return [];
      return MAY_IMPORT[room]?.includes(other)
        ? []
        : [`${from}:${line}: ${room} may not import ${other} (see MAY_IMPORT in tidy-graph.ts)`];
    });

/** Files that plan, parse or format: no clock, no file system, no native code. */
const PURE_FILES: readonly RegExp[] = [
  /^src\/attach\/plan\.ts$/,
  /^src\/symbols\/(name|table)\.ts$/,
  /^src\/fs\/(tree|line|format|node)\.ts$/,
  /^src\/bpf\//,
  /^src\/(types|config)\.ts$/,
];
const IMPURE_MODULE = /^node:(?!util$|buffer$|path$)|^src\/native\.ts$/;
const IMPURE_WORD = /\bDate\.now\(|\bMath\.random\(|\bprocess\.(?!on\b)\w/;

/** Planning is pure. */
export const purity: Rule = (files) =>
  files
    .filter((file) => PURE_FILES.some((pattern) => pattern.test(file.path)))
    .flatMap((file) => [
      ...importsOf(file)
        .filter(({ to, typeOnly }) => !typeOnly && IMPURE_MODULE.test(to))
        .map(({ line, to }) => `${file.path}:${line}: a pure file may not import ${to}`),
      ...file.text.split('\n').flatMap((line, i) => {
        const word = /^\s*(\/\/|\*|\/\*)/.test(line) ? undefined : IMPURE_WORD.exec(line)?.[0];
        return word === undefined ? [] : [`${file.path}:${i + 1}: a pure file may not use ${word}`];
      }),
    ]);

const isEntry = (path: string) =>
  path === 'src/main.ts' ||
  path.endsWith('.test.ts') ||
  path.endsWith('.d.ts') ||
  /^(scripts\/[\w-]+|bench\/main|test\/helpers\/[\w-]+-daemon)\.ts$/.test(path);

/** Each TypeScript file is reached from the command, a script or a test. */
export const referencedTs: Rule = (files) => {
  const sources = new Map(files.filter(isTs).map((file) => [file.path, file]));
  const seen = new Set<string>();
  const visit = (path: string) => {
    const file = sources.get(path);
    if (file === undefined || seen.has(path)) return;
    seen.add(path);
    for (const { to } of importsOf(file)) visit(to);
  };
  for (const path of sources.keys()) if (isEntry(path)) visit(path);
  return [...sources.keys()]
    .filter((path) => !seen.has(path))
    .map((path) => `${path}:1: nobody imports it`);
};

/** Kinds of files with who must name them. */
const NAMED_BY: readonly { what: RegExp; by: RegExp; bare?: true }[] = [
  { what: /^native\/.*\.(cc|c|S)$/, by: /(CMakeLists\.txt|\.cmake)$/ },
  { what: /^native\/.*\.h$/, by: /\.(cc|c|h|S)$/ },
  { what: /^test\/native\/.*\.(cc|c)$/, by: /CMakeLists\.txt$/, bare: true },
  { what: /^test\/targets\/.*\.(cc|c|go)$/, by: /\.test\.ts$|\/helpers\/|_test\.cc?$/, bare: true },
  { what: /^bench\/.*\.(cc|c)$/, by: /^(bench|scripts)\//, bare: true },
  { what: /^docs\/vm\/.*\.(cc|c)$/, by: /\.test\.ts$/ },
  { what: /^demo\/.*$/, by: /^(README\.md|scripts\/demo\.sh|CMakeLists\.txt)$/, bare: true },
  { what: /^scripts\/.*\.(sh|ts|txt)$/, by: /^(package\.json|\.ci\/run|scripts\/|test\/)/ },
];

/** Kept for what comes next, with the reason. */
const UNUSED_YET: Readonly<Record<string, string>> = {};

/** Every other file is named by what uses it. */
export const referencedFiles: Rule = (files) =>
  NAMED_BY.flatMap(({ what, by, bare }) => {
    const users = files.filter(({ path }) => by.test(path));
    return files
      .filter(({ path }) => what.test(path) && !(path in UNUSED_YET))
      .filter((file) => {
        const base = posix.basename(file.path);
        const names = [base];
        if (bare) names.push(base.replace(/(\.bpf)?\.\w+$/, ''));
        if (base.endsWith('.ts')) names.push(base.replace(/ts$/, 'js'));
        return !users.some(
          (user) => user !== file && names.some((name) => user.text.includes(name)),
        );
      })
      .map(({ path }) => `${path}:1: nobody names it`);
  });

/** All rules about references. */
export const graphRules: Readonly<Record<string, Rule>> = {
  importDirection,
  purity,
  referencedTs,
  referencedFiles,
};
