// The commands of `bpftimefs vm` as one table: what yargs parses, what --help and the manual say.
import type { Argv } from 'yargs';
import { verifyCommand } from './vm.js';
import { compileCommand } from './vm-compile.js';
import { runCommand } from './vm-run.js';

/** An option, as the manual lists it. */
export interface VmOption {
  /** The word for its value in the manual; absent for a switch. */
  arg?: string;
  /** One letter for it. */
  alias?: string;
  type: 'string' | 'number' | 'boolean';
  choices?: readonly string[];
  fallback?: string | number | boolean;
  /** A sentence with its full stop. */
  doc: string;
}

/** A command: `bpftimefs vm NAME OBJECT [options]`. */
export interface VmCommand {
  name: string;
  /** For --help: lower case, no full stop. */
  brief: string;
  /** For the manual: sentences. */
  doc: string;
  options: Readonly<Record<string, VmOption>>;
  /** @returns the exit code */
  run(args: Record<string, unknown>): number | Promise<number>;
}

/** In the order of the manual. */
export const vmCommands: readonly VmCommand[] = [
  {
    name: 'verify',
    brief: 'what the verifier says of each program of an object file',
    doc: 'Says of each program of an eBPF object whether it would be accepted when it is copied into a process: "ok" and what it took to find out, or "refused", the errno, the instruction, what is wrong, why, what to write instead and the source line, and below it the branches that lead there and what the registers hold. Needs neither a mount nor a process.',
    options: {
      program: { arg: 'name', type: 'string', doc: 'Only this program.' },
      json: {
        type: 'boolean',
        fallback: false,
        doc: 'An array of objects with the same facts.',
      },
    },
    run: (args) =>
      verifyCommand({
        object: String(args['object']),
        program: args['program'] as string | undefined,
        json: args['json'] === true,
      }),
  },
  {
    name: 'run',
    brief: 'run a program of an object file here, and time it',
    doc: 'Loads an eBPF object as a copy into a process would, runs one of its programs in the command itself, and prints what it returned and how long a run took. Maps are new and empty. Needs neither a mount nor a process.',
    options: {
      program: {
        arg: 'name',
        type: 'string',
        doc: 'The program; may be left out if the object has one.',
      },
      mem: {
        arg: 'file',
        type: 'string',
        doc: 'What the context begins with, at most 4096 bytes; the rest is zero. For probes it is struct pt_regs. All runs have the same context, and see what earlier ones wrote to it.',
      },
      repeat: {
        arg: 'count',
        type: 'number',
        fallback: 1,
        doc: 'How often it is run, 1 to 1000000000. The time is the mean of all.',
      },
      engine: {
        arg: 'jit | interp | checked | aot',
        type: 'string',
        choices: ['jit', 'interp', 'checked', 'aot'],
        fallback: 'jit',
        doc: 'Machine code, as in processes, the interpreter, one that looks at each access of memory and stops a run after 1000000000 instructions, or an image that is kept from run to run (vm compile).',
      },
    },
    run: (args) =>
      runCommand({
        object: String(args['object']),
        program: args['program'] as string | undefined,
        mem: args['mem'] as string | undefined,
        repeat: args['repeat'] as number,
        engine: args['engine'] as 'jit' | 'interp' | 'checked' | 'aot',
      }),
  },
  {
    name: 'compile',
    brief: 'an object file as a file of machine code',
    doc: 'Verifies and compiles the programs of an eBPF object into an image, which vm run takes in place of the object and starts without either. An image serves the build and the kind of processor that made it; one that is stale, damaged or foreign is refused. It is not verified again: who can write to it decides what is run, and processes never get one.',
    options: {
      output: {
        arg: 'file',
        alias: 'o',
        type: 'string',
        doc: 'Where to; by default ~/.cache/bpftimefs/images, under the digest of the object.',
      },
    },
    run: (args) =>
      compileCommand({
        object: String(args['object']),
        output: args['output'] as string | undefined,
      }),
  },
];

/** The options of a command for yargs, taken from the table. */
function withOptions(command: Argv, { options }: VmCommand): Argv {
  let all = command.positional('object', { type: 'string', demandOption: true });
  for (const [name, { alias, type, choices, fallback, doc }] of Object.entries(options)) {
    all = all.option(name, {
      type,
      requiresArg: type !== 'boolean',
      describe: doc,
      ...(alias && { alias }),
      ...(choices && { choices }),
      ...(fallback !== undefined && { default: fallback }),
    });
  }
  return all;
}

/** `vm` and its commands, for yargs. */
export function vmCommand(parser: Argv): Argv {
  let all = parser;
  for (const command of vmCommands) {
    all = all.command(
      `${command.name} <object>`,
      command.brief,
      (one) => withOptions(one, command),
      async (args) => {
        process.exitCode = await command.run(args);
      },
    );
  }
  const names = vmCommands.map(({ name }) => `vm ${name} OBJECT`).join(', ');
  return all.demandCommand(1, `vm: what of it? (${names})`);
}
