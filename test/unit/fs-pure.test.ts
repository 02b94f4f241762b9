// The parts of the file system that need no mount: the table, line grammars, formats, payload
// headers, transcripts.
import t from 'tap';
import { errnoMeaning, errnoNumber, FsError, fail, refusalOf } from '../../src/errors.js';
import { jsonLine, keyedLines, oneLine, table } from '../../src/fs/format.js';
import { caretLines, runVerb, splitLines, splitWords, type VerbTable } from '../../src/fs/line.js';
import type { Row } from '../../src/fs/node.js';
import { buildTree, filesText, modeOf, paramsOf } from '../../src/fs/tree.js';
import { judge, linesMatch, parseTranscript } from '../helpers/transcript.js';

/** What a call refused with: `EINVAL reason`. */
function refused(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof FsError) return `${error.errno} ${error.reason}`;
    throw error;
  }
  return 'accepted';
}

t.test('errors', async (t) => {
  t.equal(errnoNumber('ENOENT'), 2);
  t.equal(errnoNumber('ENOTUNIQ'), 76);
  t.equal(errnoNumber('nonsense'), 5, 'unknown: EIO');
  for (const errno of Object.keys(errnoMeaning)) {
    t.ok(errno === 'EIO' || errnoNumber(errno) !== 5, `${errno} has a number`);
  }
  t.equal(
    refused(() => fail('EBUSY', 'x: y')),
    'EBUSY x: y',
  );
  const native = Object.assign(new Error('boom'), { code: 'ESRCH', reason: 'it died' });
  t.match(refusalOf(native, 'attach'), { errno: 'ESRCH', reason: 'attach: it died' });
  t.equal(refusalOf(new TypeError('bug'), 'x'), undefined, 'a bug is no refusal');
  t.equal(refusalOf(Object.assign(new Error('x'), { code: 'ERR_ASSERT' }), 'x'), undefined);
});

t.test('lines', async (t) => {
  t.same(splitLines(Buffer.from('a\n\n  # no\n b \n')), ['a', ' b ']);
  t.same(splitWords('  p=1%  x'), [
    { text: 'p=1%', column: 2 },
    { text: 'x', column: 8 },
  ]);
  const verbs: VerbTable<string[] | number> = {
    set: { args: ['name', 'value'], run: (words: { text: string }[]) => words.map((w) => w.text) },
    list: { args: ['name...'], run: (words: { text: string }[]) => words.length },
  };
  t.same(runVerb(verbs, 'set a b'), ['a', 'b']);
  t.equal(runVerb(verbs, 'list'), 0);
  t.equal(runVerb(verbs, 'list a b c'), 3);
  t.equal(
    refused(() => runVerb(verbs, 'set a')),
    "EINVAL set: usage is 'set name value'",
  );
  t.equal(
    refused(() => runVerb(verbs, 'constructor')),
    'EINVAL constructor: unknown verb (want set, list)',
  );
  t.match(
    refused(() => runVerb(verbs, 'x'.repeat(5000))),
    /^E2BIG line: 5000 bytes/,
  );
  t.equal(caretLines('set a', 4), '  set a\n      ^\n');
});

t.test('formats', async (t) => {
  t.equal(keyedLines([['a', 1] as const, ['b', 2n] as const]), 'a 1\nb 2\n');
  t.equal(table(['id', 'name'], [['10', 'x']]), 'id  name\n10  x\n');
  t.equal(oneLine('a\nb\u0007'), 'a\\nb\\x07');
  t.equal(
    jsonLine({ a: 18446744073709551615n, b: 'x\n' }),
    '{"a":18446744073709551615,"b":"x\\n"}\n',
  );
});

t.test('the tree', async (t) => {
  const rows: Row[] = [
    { pattern: '/', kind: 'dir', doc: 'root' },
    { pattern: '/procs', kind: 'dir', doc: 'processes', listsProcesses: true },
    { pattern: '/procs/<pid>', kind: 'dir', doc: 'one' },
    { pattern: '/procs/<pid>/up', kind: 'dir', doc: 'probes' },
    {
      pattern: '/procs/<pid>/up/<fn>',
      kind: 'payload',
      doc: 'a probe',
      maxBytes: 9,
      handlers: { commit() {} },
    },
    { pattern: '/sym', kind: 'dir', doc: 'symbols' },
    { pattern: '/sym/<name>', kind: 'generated', doc: 'a symbol', handlers: { lookup() {} } },
    { pattern: '/groups', kind: 'dir', doc: 'groups' },
    { pattern: '/groups/<g>', kind: 'dir', doc: 'a group', handlers: { mkdir() {} } },
    { pattern: '/text', kind: 'snapshot', doc: 'text', content: 'x\n' },
  ];
  const tree = buildTree(rows);
  const cls = (name: string) => tree.classes.find((candidate) => candidate.name === name);
  t.match(cls('/procs'), { provider: 'procs', childClass: '/procs/<pid>' });
  t.match(cls('/procs/<pid>/up'), { provider: 'published', createClass: '/procs/<pid>/up/<fn>' });
  t.match(cls('/procs/<pid>/up/<fn>'), { kind: 'payload', mode: 0o644, maxBytes: 9 });
  t.match(cls('/sym'), { provider: 'lookup', childClass: '/sym/<name>' });
  t.match(cls('/groups'), { mkdirClass: '/groups/<g>' });
  t.match(cls('/text'), { content: 'x\n', mode: 0o444 });
  t.same(cls('/procs/<pid>')?.children, {
    README: '/procs/<pid>/README',
    up: '/procs/<pid>/up',
  });
  t.equal(cls('/groups/<g>/README')?.content, 'a group\n');
  t.equal(tree.lookupRowOf('/sym')?.doc, 'a symbol');
  t.same(paramsOf('/procs/<pid>/up/<fn>', '/procs/12/up/main'), { pid: '12', fn: 'main' });
  t.equal(modeOf(rows[0]!), 0o755);
  t.match(filesText(tree), /^\/procs\/<pid>\/up\/<fn> {2}a probe$/m);
  t.throws(() => buildTree([...rows, rows[9]!]), /twice/);
  t.throws(() => buildTree([rows[0]!, { ...rows[9]!, pattern: '/a/b' }]), /no parent/);
  t.throws(() => buildTree([{ ...rows[0]!, doc: '' }]), /no doc/);
});

t.test('transcripts', async (t) => {
  const [step] = parseTranscript('# c\n\n$ ls\na\n~ ^b+$\n...\nz\n! oops\n? 2\n');
  t.same(step, {
    line: 3,
    command: 'ls',
    stdout: ['a', '~ ^b+$', '...', 'z'],
    stderr: ['oops'],
    code: 2,
  });
  t.throws(() => parseTranscript('stray'));
  t.ok(linesMatch(['a', '...', 'z'], ['a', 'z']));
  t.ok(linesMatch(['a', '...', 'z'], ['a', 'b', 'c', 'z']));
  t.notOk(linesMatch(['a'], ['a', 'b']));
  t.equal(judge(step!, { stdout: ['a', 'bb', 'z'], stderr: 'oops!', code: 2 }), undefined);
  t.equal(judge(step!, { stdout: ['a', 'bb', 'z'], stderr: 'oops!', code: 1 }), 'exit code 1');
  t.equal(judge(step!, { stdout: ['a', 'z'], stderr: '', code: 2 }), 'standard output differs');
});
