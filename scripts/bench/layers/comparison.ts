/** A figure of our own held against another one of our own, or against a bound. */
import { median } from '../measure.ts';

/** What the project aims at, in terms of the median. */
export type Aim =
  /** At least so many times what it is held against. */
  | { readonly kind: 'ratio'; readonly atLeast: number }
  /** Less than so much in itself. */
  | { readonly kind: 'value'; readonly below: number }
  /** Less than so much above what it is held against. */
  | { readonly kind: 'excess'; readonly below: number };

export interface Comparison {
  readonly name: string;
  /** Of the samples: operations or bytes a second, or milliseconds. */
  readonly unit: 'iops' | 'bytes' | 'ms';
  readonly samples: readonly number[];
  readonly against: { readonly name: string; readonly samples: readonly number[] } | null;
  /** Null for a row that only informs. */
  readonly aim: Aim | null;
  readonly remarks: readonly string[];
}

/** The figure that the aim is about; without an aim the ratio. */
export function outcomeOf({ samples, against, aim }: Comparison): number {
  const middle = median(samples);
  if (aim?.kind === 'value') return middle;
  const other = median(against?.samples ?? []);
  return aim?.kind === 'excess' ? middle - other : middle / other;
}

/** A ratio that is shown as 0.95 has reached 0.95. */
export function isReached(comparison: Comparison): boolean {
  const { aim } = comparison;
  const outcome = outcomeOf(comparison);
  if (aim === null) return true;
  return aim.kind === 'ratio' ? Number(outcome.toFixed(2)) >= aim.atLeast : outcome < aim.below;
}

export function aimText({ aim }: Comparison): string {
  if (aim === null) return '';
  if (aim.kind === 'ratio') return `>= ${aim.atLeast}`;
  return aim.kind === 'value' ? `< ${aim.below} ms` : `< ${aim.below} ms more`;
}

export function outcomeText(comparison: Comparison): string {
  const outcome = outcomeOf(comparison);
  const { aim } = comparison;
  if (aim?.kind === 'value') return '';
  return aim?.kind === 'excess' ? `${outcome.toFixed(1)} ms more` : outcome.toFixed(2);
}
