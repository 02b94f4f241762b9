// Counts the assertions of a TAP stream. Subtests are indented streams that end in one summary
// point of their parent; only the points inside count, unless there are none. Pure.

/** Assertions of one test program. */
export interface TapCounts {
  passed: number;
  failed: number;
  skipped: number;
  /** The skipped points, as printed. */
  skips: string[];
}

const POINT = /^( *)(not )?ok \d+\b(.*)$/;

/**
 * Counts a whole stream.
 * @param exitedWell whether the program ended with 0; if not, at least one failure is counted
 */
export function countTap(text: string, exitedWell: boolean): TapCounts {
  const counts: TapCounts = { passed: 0, failed: 0, skipped: 0, skips: [] };
  // By depth: points (and failures) of streams that are open below, not yet summarised.
  const open: { depth: number; failed: boolean }[] = [];
  let plan: number | undefined;
  let outer = 0;
  let yamlEnd: string | undefined;
  for (const line of text.split('\n')) {
    if (yamlEnd !== undefined) {
      if (line === yamlEnd) yamlEnd = undefined;
      continue;
    }
    if (/^ *---$/.test(line)) yamlEnd = line.replace('---', '...');
    const plans = /^1\.\.(\d+)/.exec(line);
    if (plans) plan = Number(plans[1]);
    const point = POINT.exec(line);
    if (!point) continue;
    const depth = point[1]!.length;
    const failed = point[2] !== undefined;
    const rest = point[3]!;
    if (depth === 0) outer++;
    const inside = open.filter((one) => one.depth > depth);
    open.splice(0, open.length, ...open.filter((one) => one.depth <= depth));
    open.push({ depth, failed: failed || inside.some((one) => one.failed) });
    if (/# (SKIP|TODO)\b/i.test(rest)) {
      counts.skipped++;
      counts.skips.push(rest.replace(/^[ -]+/, ''));
    } else if (inside.length === 0) {
      if (failed) counts.failed++;
      else counts.passed++;
    } else if (failed && !inside.some((one) => one.failed)) {
      counts.failed++; // a subtest that threw or timed out with all its points well
    }
  }
  if (counts.failed === 0 && (!exitedWell || plan === undefined || plan !== outer)) {
    counts.failed = 1; // it ended before it was done
  }
  return counts;
}
