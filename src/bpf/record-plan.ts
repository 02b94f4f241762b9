// The plan by which native prints the records of a ring; see native.eventsAdd.
import type { BpfMapInfo, BpfObjectInfo } from '../native.js';
import { btfOf, planOf } from './object-types.js';
import { encodePlan } from './plan.js';

/**
 * The encoded plan for records of a ring buffer or perf event array: by `__type(value, struct T)`,
 * else `struct event`; undefined when there is neither (the record is printed as hex).
 */
export function planOfRecord(object: BpfObjectInfo, map: BpfMapInfo): Buffer | undefined {
  const btf = btfOf(object);
  const declared = btf.resolve(map.btfValueType);
  const typeId = declared.kind === 'struct' ? declared.id : btf.find('event', 'struct')?.id;
  return typeId === undefined ? undefined : encodePlan(planOf(object, typeId, 0));
}
