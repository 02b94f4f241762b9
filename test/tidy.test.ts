// The style guide that executes. Each rule is applied to the repository, and is shown to find a
// sample that breaks it: a rule that cannot fail is no rule.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { rowsFactories } from '../src/fs/all-rows.js';
import { ControlFs } from '../src/fs/control-fs.js';
import { modeOf } from '../src/fs/tree.js';
import { graphRules } from './helpers/tidy-graph.js';
import { type Rule, type Source, textRules } from './helpers/tidy-rules.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const ROOMS = ['src', 'native', 'test', 'bench', 'scripts', 'demo', 'docs', 'bin', '.ci'];
const TEXT = /\.(ts|cc|c|h|S|sh|md|txt|cmake|json)$|\/(run|bpftimefs)$/;

t.setTimeout(120_000);

function repository(): Source[] {
  const paths = ROOMS.flatMap((room) =>
    readdirSync(`${root}${room}`, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => `${entry.parentPath}/${entry.name}`.slice(root.length)),
  );
  return [...paths, 'README.md', 'package.json']
    .filter((path) => TEXT.test(path))
    .map((path) => ({ path, text: readFileSync(root + path, 'utf8') }));
}

/** For each rule, files that break it; the finding must name the first of them. */
const BROKEN: Readonly<Record<string, Source[][]>> = {
  fileLength: [[{ path: 'src/a.ts', text: '// a\n'.repeat(401) }]],
  lineLength: [[{ path: 'native/a.cc', text: `int ${'a'.repeat(100)};\n` }]],
  functionLength: [
    [{ path: 'src/a.ts', text: `export function a() {\n${'  b();\n'.repeat(70)}}\n` }],
    [
      {
        path: 'src/a.ts',
        text: `class A {\n  async b(c: D) {\n${'    c();\n'.repeat(70)}  }\n}\n`,
      },
    ],
    [{ path: 'native/a.cc', text: `int a(int b,\n      int c) {\n${'  d();\n'.repeat(70)}}\n` }],
  ],
  headerComment: [
    [{ path: 'src/a.ts', text: "import t from 'tap';\n" }],
    [{ path: 'native/a.cc', text: '// SPDX-License-Identifier: MIT\n#include "a.h"\n' }],
    [{ path: 'scripts/a.sh', text: '#!/bin/sh\necho\n' }],
  ],
  licenceLine: [[{ path: 'native/a.h', text: '// A header.\n' }]],
  banned: [
    ...['strcpy(a, b);', 'sprintf(a, "b");', 'system(a);', 'throw 1;'].map((text) => [
      { path: 'native/a.cc', text },
    ]),
    ...[
      'console.log(a);',
      'const a: any = 1;',
      'const b = a as any;',
      'execSync(`ls $' + '{a}`);',
      'export default a;',
      '// @ts-ignore',
      'foo(); // TODO: later',
      '// FIXME',
    ].map((text) => [{ path: 'src/a.ts', text }]),
    [{ path: 'scripts/a.sh', text: 'pkill redis' }],
    [{ path: 'test/a.test.ts', text: "spawn('killall', ['a']);" }],
  ],
  documentedExports: [[{ path: 'src/a.ts', text: '// A.\n\nexport function a() {}\n' }]],
  importDirection: [
    [{ path: 'src/process/a.ts', text: "import { b } from '../fs/b.js';\n" }],
    [{ path: 'src/bpf/a.ts', text: "import { native } from '../native.js';\n" }],
    [{ path: 'src/errors.ts', text: "import { b } from './config.js';\n" }],
  ],
  purity: [
    [{ path: 'src/attach/plan.ts', text: "import { readFileSync } from 'node:fs';\n" }],
    [{ path: 'src/fs/tree.ts', text: "import { native } from '../native.js';\n" }],
    [{ path: 'src/fs/format.ts', text: 'const now = Date.now();\n' }],
  ],
  referencedTs: [
    [
      { path: 'src/fs/a.ts', text: '' },
      { path: 'src/main.ts', text: '' },
    ],
  ],
  referencedFiles: [
    [
      { path: 'native/a.cc', text: '' },
      { path: 'native/CMakeLists.txt', text: 'b.cc' },
    ],
    [{ path: 'scripts/a.sh', text: '' }],
  ],
};

const files = repository();
for (const [name, rule] of Object.entries<Rule>({ ...textRules, ...graphRules })) {
  await t.test(name, async (t) => {
    t.same(rule(files), [], 'the repository');
    for (const sample of BROKEN[name] ?? []) {
      const found = rule(sample).filter((line) => line.startsWith(`${sample[0]!.path}:`));
      t.ok(found.length > 0, `finds ${JSON.stringify(sample[0]!.text.slice(0, 40))}`);
    }
    t.ok(BROKEN[name], 'the rule is shown to work');
  });
}

await t.test('every row of the tree has a doc and a mode', async (t) => {
  const { tree } = new ControlFs(rowsFactories);
  t.ok(tree.rows.length > 30, 'the whole tree');
  for (const row of tree.rows) {
    t.ok(row.doc.length > 0 && !/\n|\.$/.test(row.doc), `${row.pattern}: one line, no full stop`);
    const mode = modeOf(row);
    t.equal(mode & ~0o777, 0, `${row.pattern}: permission bits`);
    const writable = (mode & 0o222) !== 0;
    const { line, commit } = row.handlers ?? {};
    if (row.kind === 'line' || row.kind === 'payload') {
      t.equal(writable, Boolean(line ?? commit), `${row.pattern}: writable when it can be written`);
    }
  }
});

await t.test('everything is formatted', async (t) => {
  const { status, stdout, stderr } = spawnSync('bash', ['scripts/fmt.sh', '--check'], {
    cwd: root,
    encoding: 'utf8',
  });
  t.equal(status, 0, 'scripts/fmt.sh --check');
  if (status !== 0) t.comment(`${stdout}${stderr}`.slice(0, 8000));
});
