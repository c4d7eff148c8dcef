/** A figure of our own held against another one of our own, or against a bound. */
import { median } from '../measure.ts';

/** What the project aims at, in terms of the median unless it says otherwise. */
export type Aim =
  /** At least so many times what it is held against. */
  | { readonly kind: 'ratio'; readonly atLeast: number }
  /** At most so many times what it is held against. */
  | { readonly kind: 'ratio-most'; readonly atMost: number }
  /** Less than so much in itself. */
  | { readonly kind: 'value'; readonly below: number }
  /** At least so much in itself. */
  | { readonly kind: 'least'; readonly atLeast: number }
  /** Of a hundred samples, all but one are less than so much. */
  | { readonly kind: 'p99'; readonly below: number }
  /** Less than so much above what it is held against. */
  | { readonly kind: 'excess'; readonly below: number };

export type Unit = 'iops' | 'bytes' | 'ms' | 'mib' | 'percent';

export interface Comparison {
  readonly name: string;
  /** Of the samples: operations or bytes a second, milliseconds, MiB, or hundredths. */
  readonly unit: Unit;
  readonly samples: readonly number[];
  readonly against: { readonly name: string; readonly samples: readonly number[] } | null;
  /** Null for a row that only informs. */
  readonly aim: Aim | null;
  readonly remarks: readonly string[];
}

/** The sample that 99 of 100 do not exceed: the greatest of fewer than a hundred. */
function p99(samples: readonly number[]): number {
  const sorted = samples.toSorted((a, b) => a - b);
  return sorted[Math.ceil(sorted.length * 0.99) - 1] ?? Number.NaN;
}

/** The figure that the aim is about; without an aim the ratio. */
export function outcomeOf({ samples, against, aim }: Comparison): number {
  const kind = aim?.kind ?? 'ratio';
  if (kind === 'p99') return p99(samples);
  const middle = median(samples);
  if (kind === 'value' || kind === 'least') return middle;
  const other = median(against?.samples ?? []);
  return kind === 'excess' ? middle - other : middle / other;
}

/** A ratio that is shown as 0.95 has reached 0.95. */
export function isReached(comparison: Comparison): boolean {
  const { aim } = comparison;
  if (aim === null) return true;
  const outcome = outcomeOf(comparison);
  const shown = Number(outcome.toFixed(2));
  switch (aim.kind) {
    case 'ratio':
      return shown >= aim.atLeast;
    case 'ratio-most':
      return shown <= aim.atMost;
    case 'least':
      return outcome >= aim.atLeast;
    case 'value':
    case 'excess':
    case 'p99':
      return outcome < aim.below;
  }
}

/** A figure with its unit, as people read it. */
export function amount(value: number, unit: Unit): string {
  switch (unit) {
    case 'ms':
      return `${value.toFixed(value < 1 ? 3 : 1)} ms`;
    case 'mib':
      return `${value.toFixed(1)} MiB`;
    case 'percent':
      return `${value.toFixed(2)} %`;
    case 'bytes':
      return `${(value / 1e9).toFixed(2)} GB/s`;
    case 'iops':
      return `${(value / 1000).toFixed(1)} k/s`;
  }
}

/** The same without needless digits. */
function boundary(value: number, unit: Unit): string {
  return amount(value, unit).replace(/\.0+ /, ' ');
}

export function aimText({ aim, unit }: Comparison): string {
  if (aim === null) return '';
  switch (aim.kind) {
    case 'ratio':
      return `>= ${aim.atLeast}`;
    case 'ratio-most':
      return `<= ${aim.atMost}`;
    case 'least':
      return `>= ${boundary(aim.atLeast, unit)}`;
    case 'p99':
      return `p99 < ${boundary(aim.below, unit)}`;
    case 'value':
      return `< ${boundary(aim.below, unit)}`;
    case 'excess':
      return `< ${boundary(aim.below, unit)} more`;
  }
}

/** Empty when the median says it all. */
export function outcomeText(comparison: Comparison): string {
  const outcome = outcomeOf(comparison);
  const kind = comparison.aim?.kind ?? 'ratio';
  if (kind === 'value' || kind === 'least') return '';
  if (kind === 'p99') return `p99 ${amount(outcome, comparison.unit)}`;
  return kind === 'excess' ? `${amount(outcome, comparison.unit)} more` : outcome.toFixed(2);
}
