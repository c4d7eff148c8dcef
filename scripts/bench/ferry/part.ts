/** A measurement of the pair that gives one or several lines of the table. */
import type { Contender, Maker } from '../contenders.ts';
import type { Comparison } from '../layers/comparison.ts';
import type { RoundOptions } from '../measure.ts';
import type { Pair } from './pair.ts';

/** What all parts share. */
export interface Bench {
  readonly pair: Pair;
  readonly options: RoundOptions;
  /** A short run: smaller volumes where their size is the row's own. */
  readonly quick: boolean;
  /** Peers, made when a row wants them, each once. */
  readonly peer: (make: Maker) => Promise<Contender>;
  /** For what is neither a node's nor a peer's. */
  readonly dir: string;
}

export interface Part {
  /** Of its lines; it is measured when `--rows` selects one of them. */
  readonly names: readonly string[];
  readonly measure: (bench: Bench) => Promise<Comparison[]>;
}
