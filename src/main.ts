// The command line: argv → one of src/cli. No logic.
import yargs from 'yargs';
import { hideBin } from 'yargs/helpers';
import { doctor } from './cli/doctor.js';
import { serve, serveBehind } from './cli/mount.js';
import { umount } from './cli/umount.js';
import { vmCommand } from './cli/vm-commands.js';
import { DEFAULT_MOUNTPOINT } from './config.js';
import { rowsFactories } from './fs/all-rows.js';
import { VERSION } from './fs/status.js';

const argv = hideBin(process.argv);

await yargs(argv)
  .scriptName('bpftimefs')
  .usage('$0 COMMAND\n\nA file system for live processes: trace them with cp, cat and rm.')
  .command(
    'mount [mountpoint]',
    'mount and serve until umount or a signal',
    (command) =>
      command
        .positional('mountpoint', { type: 'string', default: DEFAULT_MOUNTPOINT })
        .option('daemon', { alias: 'd', type: 'boolean', default: false, describe: 'go behind' })
        .option('allow-other', {
          type: 'boolean',
          default: false,
          describe: 'other users may use it, each with their own rights',
        }),
    async (args) => {
      if (args.daemon) process.exitCode = await serveBehind(argv);
      else await serve(args, rowsFactories);
    },
  )
  .command(
    'umount [mountpoint]',
    'end a mount, also one whose daemon was killed',
    (command) => command.positional('mountpoint', { type: 'string', default: DEFAULT_MOUNTPOINT }),
    (args) => {
      process.exitCode = umount(args.mountpoint);
    },
  )
  .command(
    'doctor',
    'what this machine allows, and what to do about the rest',
    () => {},
    () => {
      process.exitCode = doctor();
    },
  )
  .command('vm', 'the virtual machine by itself', vmCommand)
  .demandCommand(1, 'a command is needed')
  .strict()
  .version(VERSION)
  .fail((message, error) => {
    process.stderr.write(`bpftimefs: ${error ? error.message : message}\n`);
    process.exit(1);
  })
  .parseAsync();
