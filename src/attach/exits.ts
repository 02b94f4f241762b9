// How the returns of a function are caught. Where its `ret`s stand is best: nothing on the stack
// changes, so unwinders, debuggers and coroutines see what they always saw. Where some way out is
// no `ret` with room for a jump, the return address is replaced while the function runs
// (docs/adr/0003), which some functions do not bear.
import { fail, refusalOf } from '../errors.js';
import { type ExitForm, type NativeError, native } from '../native.js';
import type { Place } from '../symbols/resolve.js';
import { returnProbeRefusal } from './plan.js';
import type { EnteredProcess } from './state.js';

/**
 * Chooses for one function.
 * @throws {FsError} EOPNOTSUPP when neither way is possible, with both reasons
 */
export async function exitFormOf(process: EnteredProcess, place: Place): Promise<ExitForm> {
  const known = process.sites.get(place.addr)?.exitForm;
  if (known !== undefined) return known;
  try {
    const { functionAddr, functionSize } = place;
    const isGo = place.go !== undefined;
    await native.targetCheckExits(process.session, functionAddr, functionSize, isGo);
    return 'ret';
  } catch (error) {
    const { code, reason } = error as NativeError;
    if (code !== 'EOPNOTSUPP') throw refusalOf(error, place.name.text) ?? error;
    if (place.go) {
      fail(
        'EOPNOTSUPP',
        `${place.name.text}: its return cannot be probed: ${reason}, and Go code bears no other way`,
      );
    }
    // Any of its names may be the one that tells.
    const refusal = place.names.map(returnProbeRefusal).find((why) => why !== undefined);
    if (refusal) {
      fail('EOPNOTSUPP', `${place.name.text}: its return cannot be probed: ${reason}, ${refusal}`);
    }
    return 'balanced';
  }
}
