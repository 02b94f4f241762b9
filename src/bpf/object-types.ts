// The plans for keys, values and records of one object's maps, compiled once.
import type { BpfMapInfo, BpfObjectInfo } from '../native.js';
import { Btf } from './btf.js';
import { compilePlan, type Plan, PlanCode } from './plan.js';

const btfOfObject = new WeakMap<BpfObjectInfo, Btf>();
const plansOfObject = new WeakMap<BpfObjectInfo, Map<string, Plan>>();

/** The object's types; parsed once. */
export function btfOf(object: BpfObjectInfo): Btf {
  let btf = btfOfObject.get(object);
  if (btf === undefined) {
    btf = Btf.parse(object.btf);
    btfOfObject.set(object, btf);
  }
  return btf;
}

/** The plan for a type of the object; type 0, or one of another size, is plain bytes. */
export function planOf(object: BpfObjectInfo, typeId: number, sizeBytes: number): Plan {
  let plans = plansOfObject.get(object);
  if (plans === undefined) {
    plans = new Map();
    plansOfObject.set(object, plans);
  }
  const name = `${typeId} ${sizeBytes}`;
  let plan = plans.get(name);
  if (plan === undefined) {
    const btf = btfOf(object);
    // A type of another size than the map's cannot be what the bytes are.
    const fits = typeId !== 0 && (sizeBytes === 0 || btf.sizeOf(typeId) === sizeBytes);
    plan = fits ? compilePlan(btf, typeId, sizeBytes) : plainPlan(sizeBytes);
    plans.set(name, plan);
  }
  return plan;
}

// Without a type: numbers of a usual size are numbers, all else is hexadecimal.
function plainPlan(sizeBytes: number): Plan {
  const isNumber = [1, 2, 4, 8].includes(sizeBytes);
  const code = isNumber ? PlanCode.int : PlanCode.hex;
  return { ops: [code, 0, sizeBytes, 0], tables: [], strings: '', sizeBytes };
}

/** How keys of a map are printed. */
export function keyPlan(object: BpfObjectInfo, map: BpfMapInfo): Plan {
  return planOf(object, map.btfKeyType, map.keySize);
}

/** How values of a map (of one CPU) are printed. */
export function valuePlan(object: BpfObjectInfo, map: BpfMapInfo): Plan {
  return planOf(object, map.btfValueType, map.valueSize);
}
