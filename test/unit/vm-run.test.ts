// `bpftimefs vm run` and `vm compile` as they are typed: test/transcripts/vm-*.transcript.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { compileBpf } from '../helpers/bpf-objects.js';
import { runTranscript } from '../helpers/transcript.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'bpftimefs-vm-run-'));
t.teardown(() => rmSync(dir, { recursive: true }));
t.setTimeout(180_000);

const object = join(dir, 'maps.bpf.o');
writeFileSync(object, compileBpf('maps'));
for (const name of ['vm-run', 'vm-compile']) {
  runTranscript(t, `${root}test/transcripts/${name}.transcript`, {
    cwd: dir,
    variables: {
      O: object,
      XDG_CACHE_HOME: join(dir, 'cache'),
      PATH: `${root}bin:${process.env['PATH']}`,
    },
  });
}
