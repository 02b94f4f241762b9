// `bpftimefs vm run` as it is typed: test/transcripts/vm-run.transcript.
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
runTranscript(t, `${root}test/transcripts/vm-run.transcript`, {
  cwd: dir,
  variables: { O: object, PATH: `${root}bin:${process.env['PATH']}` },
});
