/** What was measured against what the project aims at. */
import type { FootprintValue } from './footprint.ts';
import {
  aimText,
  amount,
  isReached,
  outcomeOf,
  outcomeText,
  type Comparison,
} from './layers/comparison.ts';
import { median, type Measured } from './measure.ts';

/** Another Node reaches at least this share of the rate under the Node that runs the benchmark. */
export const OTHER_NODE_RATIO_MIN = 0.9;

export interface Outcome {
  readonly serving: readonly Measured[];
  readonly mirrored: readonly Measured[];
  readonly footprint: readonly FootprintValue[];
  readonly layered: readonly Comparison[];
  readonly ferry: readonly Comparison[];
}

/** Ratio of the medians of two contenders; NaN when one of them was not in the row. */
export function ratio({ series }: Measured, of: string, to: string): number {
  const middle = (name: string): number =>
    median(series.find(({ contender }) => contender === name)?.samples ?? []);
  return middle(of) / middle(to);
}

/** A ratio that is shown as 1.00 has reached 1. */
export function reaches(value: number, target: number): boolean {
  return Number(value.toFixed(2)) >= target;
}

export function otherRuntimes({ series }: Measured): string[] {
  return series.map(({ contender }) => contender).filter((name) => /^blockferry ./.test(name));
}

function missedIn(results: readonly Measured[], reference: string): string[] {
  return results.flatMap((measured) => {
    const { name, target } = measured.workload;
    const value = ratio(measured, 'blockferry', reference);
    if (target === undefined || reaches(value, target)) return [];
    return [`${name}: ${value.toFixed(2)} of ${reference}, the target is ${target}`];
  });
}

function missedUnderOthers(results: readonly Measured[]): string[] {
  return results.flatMap((measured) =>
    otherRuntimes(measured).flatMap((runtime) => {
      const value = ratio(measured, runtime, 'blockferry');
      if (reaches(value, OTHER_NODE_RATIO_MIN)) return [];
      return [
        `${measured.workload.name}: ${runtime} reaches ${value.toFixed(2)}, the target is ${OTHER_NODE_RATIO_MIN}`,
      ];
    }),
  );
}

/** What the aim is about, with its unit. */
function outcomeShown(comparison: Comparison): string {
  const text = outcomeText(comparison);
  return text === '' ? amount(outcomeOf(comparison), comparison.unit) : text;
}

/** One line for each target that was missed. */
export function missedTargets({ serving, mirrored, footprint, layered, ferry }: Outcome): string[] {
  return [
    ...missedIn(serving, 'nbdkit'),
    ...missedUnderOthers(serving),
    ...missedIn(mirrored, 'qemu mirror'),
    ...footprint
      .filter(({ value, bound }) => !(value < bound.below))
      .map(({ bound, contender, value }) => {
        const { name, unit, below } = bound;
        return `${name}: ${contender} took ${value.toFixed(2)} ${unit}, the target is below ${below} ${unit}`;
      }),
    ...[...layered, ...ferry]
      .filter((comparison) => !isReached(comparison))
      .map((missed) => `${missed.name}: ${outcomeShown(missed)}, the target is ${aimText(missed)}`),
  ];
}
