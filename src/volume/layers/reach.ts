/**
 * Who looks at the blocks of one layer, in one piece: nobody, one view, or several.
 *
 * Invariants:
 * - A block is in `any` when at least one view reaches it, and in `many` when more than one does.
 * - The views that reach a block alone are in `sole`: no block is there twice, and none that is in `many`.
 */
import { newWords } from './layer-pieces.ts';
import type { Words } from './layer-pieces.ts';

interface Sole {
  readonly view: number;
  readonly words: Words;
}

export class Reach {
  sole: readonly Sole[] = [];
  private readonly any = newWords();
  private readonly many = newWords();
  private readonly words: number;

  /** Nobody looks; `words`: those of the piece. */
  constructor(words: number) {
    this.words = words;
  }

  get isEmpty(): boolean {
    return isZero(this.any, this.words);
  }

  /** One view more, of the blocks `seen`, which are given away. */
  join(view: number, seen: Words): void {
    const { any, many } = this;
    for (let index = 0; index < this.words; index += 1) {
      many[index] = (many[index] ?? 0) | ((any[index] ?? 0) & (seen[index] ?? 0));
      any[index] = (any[index] ?? 0) | (seen[index] ?? 0);
    }
    this.settle([...this.sole, { view, words: seen }]);
  }

  /** All that looked through another layer, which is given away. Their views are none of those here. */
  joinAll(other: Reach): void {
    const { any, many } = this;
    for (let index = 0; index < this.words; index += 1) {
      const both = (any[index] ?? 0) & (other.any[index] ?? 0);
      many[index] = (many[index] ?? 0) | (other.many[index] ?? 0) | both;
      any[index] = (any[index] ?? 0) | (other.any[index] ?? 0);
    }
    this.settle([...this.sole, ...other.sole]);
  }

  /** The blocks that a layer holds itself hide what is below it. */
  hide({ data, zero }: { readonly data: Words; readonly zero: Words }): void {
    const { any, many } = this;
    for (let index = 0; index < this.words; index += 1) {
      const open = ~((data[index] ?? 0) | (zero[index] ?? 0));
      any[index] = (any[index] ?? 0) & open;
      many[index] = (many[index] ?? 0) & open;
      for (const { words } of this.sole) words[index] = (words[index] ?? 0) & open;
    }
    this.sole = this.sole.filter(({ words }) => !isZero(words, this.words));
  }

  private settle(sole: readonly Sole[]): void {
    for (const { words } of sole) {
      for (let index = 0; index < this.words; index += 1) {
        words[index] = (words[index] ?? 0) & ~(this.many[index] ?? 0);
      }
    }
    this.sole = sole.filter(({ words }) => !isZero(words, this.words));
  }
}

function isZero(words: Words, count: number): boolean {
  for (let index = 0; index < count; index += 1) if (words[index] !== 0) return false;
  return true;
}
