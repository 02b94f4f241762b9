// `bpftimefs vm verify`: what the verifier says of an object file, before it is copied anywhere.
// The same code as in the daemon; nothing is attached, no mount is needed.
import { readFileSync } from 'node:fs';
import { refusalOf } from '../errors.js';
import { native } from '../native.js';
import type { ProgramVerdict } from '../native-vm.js';

interface VerifyArgs {
  object: string;
  /** One program of the object; all if it is not given. */
  program?: string | undefined;
  json: boolean;
}

/** The lines about one program: a verdict, and below a refusal how control gets there. */
export function verdictText(verdict: ProgramVerdict): string {
  const { name, code, insnCount, walked, states, timeUs } = verdict;
  if (code === undefined) {
    const cost = `${insnCount} instructions, ${walked} walked, ${states} states, ${timeUs} us`;
    return `ok       ${name}: ${cost}\n`;
  }
  const at = verdict.path.length > 0 ? `insn ${verdict.insn}: ` : '';
  const where = verdict.where === '' ? '' : `, at ${verdict.where}`;
  const path = verdict.path.map((line) => `         ${line}\n`).join('');
  return `refused  ${name}: ${code} ${at}${verdict.reason}${where}\n${path}`;
}

/**
 * Prints a verdict on each program.
 * @returns 0 all are accepted, 1 one is refused, 2 the file is no object or cannot be read
 */
export async function verifyCommand({ object, program, json }: VerifyArgs): Promise<number> {
  let verdicts: ProgramVerdict[];
  try {
    const bytes = readFileSync(object);
    verdicts = await native.bpfVerify({ bytes, ...(program !== undefined && { program }) });
  } catch (error) {
    const refusal = refusalOf(error, object);
    if (!refusal) throw error;
    process.stderr.write(`bpftimefs: ${refusal.reason}\n`);
    return 2;
  }
  const text = json ? `${JSON.stringify(verdicts, null, 2)}\n` : verdicts.map(verdictText).join('');
  process.stdout.write(text);
  return verdicts.some(({ code }) => code !== undefined) ? 1 : 0;
}
