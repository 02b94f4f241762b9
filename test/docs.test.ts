// The documentation does what it says: each command of the README is typed into a shell, against a
// real mount and a real program, and prints what the README shows. `npm run golden` writes what it
// printed into the README.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { generatedDocs } from '../scripts/gen-docs.js';
import { ConsoleSession, matchesPage, parsePage, type Typed } from './helpers/console.js';
import { startMount } from './helpers/mount.js';

const root = fileURLToPath(new URL('../../', import.meta.url)).replace(/\/$/, '');
const COMMAND_TIMEOUT_MS = 20_000;
const updating = process.env['UPDATE_GOLDEN'] === '1';

t.setTimeout(180_000);

/** The page with the output of one command replaced; `shift` lines were added above it. */
function rewrite(page: string, typed: Typed, shift: number, out: string[]): string {
  const lines = page.split('\n');
  lines.splice(typed.line + shift, typed.shown.length, ...out);
  return lines.join('\n');
}

/** A failure must be one that the page shows; grep finds nothing with 1. */
const isExpectedCode = (code: number | undefined, typed: Typed): boolean =>
  code === 0 ||
  (code !== undefined && typed.shown.length > 0) ||
  (code === 1 && typed.command.startsWith('grep '));

await t.test('every command of the README', async (t) => {
  const path = `${root}/README.md`;
  let page = readFileSync(path, 'utf8');
  const commands = parsePage(page);
  t.ok(commands.length > 40, 'the README has its cook book');
  const mount = await startMount({ tree: 'real' });
  const session = new ConsoleSession(root, [
    ['~/bpftimefs', root],
    ['/bpftime/', `${mount.mountpoint}/`],
  ]);
  let shift = 0;
  try {
    for (const typed of commands) {
      const title = `README.md:${typed.line}: ${typed.command}`;
      const { out, code } = await session.type(typed.command, COMMAND_TIMEOUT_MS);
      const asShown = matchesPage(typed.shown, out);
      if (updating && code !== undefined && !asShown) {
        page = rewrite(page, typed, shift, out);
        shift += out.length - typed.shown.length;
      } else if (asShown && isExpectedCode(code, typed)) {
        t.pass(title);
      } else {
        t.fail(title, { code, shown: typed.shown, got: out });
      }
      if (code === undefined) break;
    }
  } finally {
    await session.end();
    await mount.stop();
  }
  if (updating && t.passing()) writeFileSync(path, page);
});

await t.test('figures match figures, and nothing else', async (t) => {
  const same = (shown: string, got: string) => matchesPage([shown], [got]);
  t.ok(same('hits 12', 'hits   7'));
  t.notOk(same('hits 12', 'hits 0'), 'none is not some');
  t.notOk(same('hits 0', 'hits 3'));
  t.ok(same('5563 <+0> e9 9b 3d', '7f00 <+0> e9 fd ff'));
  t.notOk(same('jmp 0x10', 'call 0x10'));
  t.ok(matchesPage(['a', '...', 'b'], ['a', 'x', 'y', 'b']));
  t.notOk(matchesPage([], ['anything']), 'nothing shown means nothing printed');
});

await t.test('generated parts are fresh', async (t) => {
  for (const { path, text } of generatedDocs()) {
    t.ok(readFileSync(path, 'utf8') === text, `${path} is what npm run gen writes`);
  }
});

await t.test('manual pages have no warnings', async (t) => {
  for (const page of ['docs/bpftimefs.5', 'docs/bpftimefs.8', 'docs/bpftime_vm.3']) {
    const { stdout, error } = spawnSync('mandoc', ['-Tlint', `${root}/${page}`], {
      encoding: 'utf8',
    });
    t.equal(error, undefined, 'mandoc runs');
    // Whether other pages are installed is the machine's business.
    const findings = stdout.split('\n').filter((line) => line && !/manual not found/.test(line));
    t.same(findings, [], page);
  }
});

await t.test('links lead somewhere, scripts exist', async (t) => {
  const page = readFileSync(`${root}/README.md`, 'utf8');
  for (const [, link = ''] of page.matchAll(/\]\(([^)]+)\)/g)) {
    t.ok(existsSync(`${root}/${link}`), link);
  }
  const { scripts } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8'));
  for (const [, name = ''] of page.matchAll(/`npm (?:run )?(\w+)[^`]*`/g)) {
    t.ok(scripts[name], `npm ${name}`);
  }
});

await t.test('the manual has every command and option, and doctor is content', async (t) => {
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [`${root}/dist/src/main.js`, ...args], { encoding: 'utf8' });
  const page = readFileSync(`${root}/docs/bpftimefs.8`, 'utf8');
  const commands = [...run('--help').stdout.matchAll(/^ {2}bpftimefs (\w+)/gm)].map((m) => m[1]!);
  t.ok(commands.length >= 3, commands.join(' '));
  for (const command of commands) {
    t.match(page, new RegExp(`^\\.It Cm ${command}$`, 'm'), command);
    const help = run(command, '--help').stdout;
    const nested = [...help.matchAll(/^ {2}bpftimefs (\w+ \w+)/gm)].map((m) => m[1]!.split(' '));
    const helps = [help, ...nested.map((words) => run(...words, '--help').stdout)].join('\n');
    for (const [, option = ''] of helps.matchAll(/--([\w-]+)/g)) {
      if (option === 'help' || option === 'version') continue;
      t.match(page, new RegExp(`-${option}\\b`), `${command} --${option}`);
    }
  }
  const { status, stdout } = run('doctor');
  t.equal(status, 0, stdout);
  t.match(run('frobnicate').stderr, /^bpftimefs: /, 'an unknown command is refused');
});
