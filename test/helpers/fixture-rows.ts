// A small tree whose files do nothing but remember, for tests of the file system itself: every
// change that reaches JavaScript is a line of `journal`.
import { type FsError, fail } from '../../src/errors.js';
import type { ControlFs } from '../../src/fs/control-fs.js';
import { failAt, runVerb, type VerbTable } from '../../src/fs/line.js';
import type { Context, Row } from '../../src/fs/node.js';

const name = (path: string) => path.slice(path.lastIndexOf('/') + 1);

const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));

/** Stops the JavaScript thread the hard way. */
function blockThread(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function untilAborted({ signal }: Context): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as FsError), { once: true });
  });
}

/** Rows of the fixture; `journal` holds what happened. */
export function fixtureRows(fs: ControlFs): Row[] {
  const journal: string[] = [];
  let rules: string[] = [];
  const note = (line: string) => journal.push(line);

  // The payload's text says how its commit behaves.
  const commit = async (context: Context, data: Buffer): Promise<void> => {
    const text = data.toString('latin1');
    const what = name(context.path);
    if (text.startsWith('STUCK')) {
      note(`stuck ${what}`);
      await untilAborted(context);
    }
    if (text.startsWith('NEVER')) await new Promise(() => {});
    if (text.startsWith('SLOW')) await sleep(300);
    if (text.startsWith('BAD')) {
      note(`refuse ${what}`);
      fail('ENOEXEC', `${what}: not an object`);
    }
    if (text.startsWith('BUG')) throw new TypeError('undefined is not a function');
    note(`commit ${what} ${data.length}`);
  };
  const payload = {
    commit,
    unlink: ({ path }: Context) => {
      if (name(path) === 'pinned') fail('EBUSY', 'pinned: a thread is inside');
      note(`unlink ${name(path)}`);
    },
    rename: ({ path }: Context, to: string) => {
      note(`rename ${name(path)} ${name(to)}`);
    },
  };

  const verbs: VerbTable<void> = {
    clear: { args: [], run: () => void journal.splice(0) },
    block: { args: ['ms'], run: ([ms]) => blockThread(Number(ms!.text)) },
    emit: {
      args: ['text...'],
      run: (words) => {
        const text = `${words.map((word) => word.text).join(' ')}\n`;
        fs.append('/stream', text);
        fs.append('/growing', text);
      },
    },
    burst: {
      args: ['lines'],
      run: ([count]) => {
        for (let i = 0; i < Number(count!.text); i += 1) {
          fs.append('/stream', `${String(i).padStart(7, '0')}\n`);
        }
      },
    },
    publish: {
      args: ['name', 'text...'],
      run: ([file, ...words]) => {
        const text = `${words.map((word) => word.text).join(' ')}\n`;
        fs.publish(`/published/${file!.text}`, '/published/<name>', text);
      },
    },
    unpublish: { args: ['name'], run: ([file]) => void fs.unpublish(`/published/${file!.text}`) },
  };

  return [
    {
      pattern: '/control',
      kind: 'line',
      doc: 'clear, block MS, emit TEXT, burst N, publish NAME TEXT',
      handlers: {
        line: (_context, lines) => {
          for (const line of lines) runVerb(verbs, line);
        },
      },
    },
    {
      pattern: '/journal',
      kind: 'generated',
      doc: 'what reached JavaScript',
      handlers: { read: () => journal.map((line) => `${line}\n`).join('') },
    },
    {
      pattern: '/rules',
      kind: 'line',
      doc: 'any lines but those that begin with bad',
      maxBytes: 65536,
      handlers: {
        read: () => rules.map((rule) => `${rule}\n`).join(''),
        line: async (context, lines, replaces) => {
          for (const line of lines) {
            const at = line.indexOf('bad');
            if (at >= 0) failAt(line, at, `${line}: bad is no rule`);
            if (line === 'stuck') await untilAborted(context);
          }
          rules = replaces ? lines : [...rules, ...lines];
          note(`${replaces ? 'set' : 'add'} ${lines.join('|')}`);
        },
      },
    },
    { pattern: '/payload', kind: 'dir', doc: 'payload files' },
    {
      pattern: '/payload/<name>',
      kind: 'payload',
      doc: 'BAD SLOW STUCK NEVER BUG or anything',
      maxBytes: 1 << 20,
      handlers: payload,
    },
    { pattern: '/stream', kind: 'stream', doc: 'what emit and burst say', maxBytes: 4096 },
    { pattern: '/growing', kind: 'log', doc: 'what emit says', maxBytes: 4096 },
    { pattern: '/dirs', kind: 'dir', doc: 'mkdir works here' },
    {
      pattern: '/dirs/<dir>',
      kind: 'dir',
      doc: 'made by somebody',
      handlers: {
        mkdir: ({ path }) => {
          if (name(path) === 'bad') fail('EINVAL', 'bad: no such group');
          note(`mkdir ${name(path)}`);
        },
        rmdir: ({ path }) => void note(`rmdir ${name(path)}`),
      },
    },
    {
      pattern: '/dirs/<dir>/value',
      kind: 'generated',
      doc: 'its name',
      handlers: { read: ({ params }) => `${params['dir']}\n` },
    },
    { pattern: '/symbols', kind: 'dir', doc: 'names that begin with ok exist' },
    {
      pattern: '/symbols/<sym>',
      kind: 'generated',
      doc: 'its name',
      handlers: {
        lookup: ({ params }) => {
          if (!params['sym']!.startsWith('ok')) fail('ENOENT', `${params['sym']}: no such symbol`);
        },
        read: ({ params }) => `symbol ${params['sym']}\n`,
      },
    },
    { pattern: '/published', kind: 'dir', doc: 'what was published' },
    { pattern: '/published/<name>', kind: 'snapshot', doc: 'a published text' },
    { pattern: '/procs/<pid>/payload', kind: 'dir', doc: 'payload files of a process' },
    {
      pattern: '/procs/<pid>/payload/<name>',
      kind: 'payload',
      doc: 'as in /payload',
      handlers: payload,
    },
  ];
}
