// What the closing line of the test run counts.
import t from 'tap';
import { countTap } from '../../scripts/tap-count.js';

const count = (lines: string[], exitedWell = true) => {
  const { passed, failed, skipped } = countTap(`${lines.join('\n')}\n`, exitedWell);
  return `${passed} ${failed} ${skipped}`;
};

await t.test('each assertion counts once', async (t) => {
  t.equal(count(['ok 1 - a', 'not ok 2 - b', '1..2'], false), '1 1 0', 'flat');
  t.equal(
    count(['# Subtest: s', '    ok 1 - a', '    ok 2 - b', '    1..2', 'ok 1 - s', '1..1']),
    '2 0 0',
    "a subtest's summary is no assertion",
  );
  t.equal(
    count([
      '        not ok 1 - a',
      '        1..1',
      '    not ok 1 - inner',
      '    ok 2 - b',
      '    1..2',
      'not ok 1 - outer',
      'ok 2 - c',
      '1..2',
    ]),
    '2 1 0',
    'two levels',
  );
  t.equal(
    count(['    ok 1 - a', '    1..1', 'not ok 1 - threw', '1..1'], false),
    '1 1 0',
    'a subtest that fails by itself',
  );
});

await t.test('skips, diagnostics and early ends', async (t) => {
  t.equal(count(['ok 1 - needs root # SKIP', 'ok 2 - b', '1..2']), '1 0 1', 'skipped');
  t.equal(
    count(['ok 1 - a', '  ---', '  ok 2 - text', '  ...', '1..1']),
    '1 0 0',
    'yaml is no TAP',
  );
  t.equal(count(['ok 1 - a']), '1 1 0', 'no plan: it ended early');
  t.equal(count(['ok 1 - a', '1..2']), '1 1 0', 'fewer than planned');
  t.equal(count(['ok 1 - a', '1..1'], false), '1 1 0', 'the exit code counts');
  t.equal(count([], false), '0 1 0', 'nothing at all');
});
