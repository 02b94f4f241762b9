// The daemon of the fixture tree: `node fixture-daemon.js MOUNTPOINT [--allow-other]
// [DEADLINE_MS]`.
import { ControlFs } from '../../src/fs/control-fs.js';
import { processBaseRows, rootRows, startStatus } from '../../src/fs/status.js';
import { fixtureRows } from './fixture-rows.js';

const [mountpoint = '', deadline = '10000', allowOther = ''] = process.argv.slice(2);
const fs = new ControlFs([rootRows, processBaseRows, fixtureRows]);
fs.start({ mountpoint, deadlineMs: Number(deadline), allowOther: allowOther === 'allow-other' });
const stopStatus = startStatus(fs);
const ended = new Promise<void>((end) => {
  fs.onEnd(end);
  process.on('SIGTERM', () => end());
});
process.send?.('mounted');
process.disconnect?.();
await ended;
stopStatus();
await fs.stop();
