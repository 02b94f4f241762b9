// Numbers of a benchmark: what a trial returns, and the row that is made of it. Pure.

/** One figure with its spread: what `--json` writes. */
export interface Row {
  name: string;
  unit: string;
  median: number;
  min: number;
  max: number;
  /** Samples behind the median; each is itself a median where the trial says so. */
  n: number;
}

/** What a trial measured. */
export interface Measured {
  samples: number[];
  /** The same samples before the cost of the unprobed call was taken off. */
  absolutes?: number[];
  /** Something that a reader must know about this run. */
  note?: string;
}

/** The middle of the samples; of an even number, the lower one of the two. */
export function median(samples: readonly number[]): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? Number.NaN;
}

/** Median and spread of samples. */
export function rowOf(name: string, unit: string, samples: readonly number[]): Row {
  return {
    name,
    unit,
    median: median(samples),
    min: Math.min(...samples),
    max: Math.max(...samples),
    n: samples.length,
  };
}

/** Thrown by a trial that this machine or user cannot run; the report says why. */
export class Unavailable extends Error {}
