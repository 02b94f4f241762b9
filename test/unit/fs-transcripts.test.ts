// What a user types, on a real mount of the fixture tree: test/transcripts/fs-*.transcript.
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { startMount } from '../helpers/mount.js';
import { runTranscript } from '../helpers/transcript.js';

const dir = fileURLToPath(new URL('../../../test/transcripts/', import.meta.url));
const only = process.argv[2] ?? '';

for (const file of readdirSync(dir).sort()) {
  if (!file.startsWith('fs-') || !file.includes(only)) continue;
  await t.test(file, async (t) => {
    const mount = await startMount({ tree: 'fixture' });
    try {
      const variables = { M: mount.mountpoint, T: mount.scratch };
      runTranscript(t, dir + file, { cwd: mount.scratch, variables });
    } finally {
      await mount.stop();
    }
  });
}
