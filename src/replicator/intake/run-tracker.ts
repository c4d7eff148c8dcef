/**
 * Which frames of a delta run are there: pure. They are counted from 0, over all lanes in any order.
 *
 * Invariants:
 * - A frame is taken once; one that came before, or is too far ahead of the first that is missing, is LINK_PROTOCOL.
 * - `has(n)`: every frame below `n` came, and its changes ended.
 */
import { BlockferryError } from '../../io/errors.ts';
import { INTAKE_RUN_FRAMES_MAX } from '../../io/limits.ts';

/** The numbers from 0 on that were added, each once. */
class Prefix {
  /** All below it were added. */
  end = 0;
  private readonly ahead = new Set<number>();

  has(index: number): boolean {
    return index < this.end || this.ahead.has(index);
  }

  add(index: number): void {
    if (index !== this.end) {
      this.ahead.add(index);
      return;
    }
    this.end += 1;
    while (this.ahead.size > 0 && this.ahead.delete(this.end)) this.end += 1;
  }
}

export class RunTracker {
  private readonly arrived = new Prefix();
  private readonly written = new Prefix();
  private highest = -1;

  /** One more than the highest index that came. */
  get frames(): number {
    return this.highest + 1;
  }

  /** Frame `index` came. Throws LINK_PROTOCOL. */
  came(index: number): void {
    if (this.arrived.has(index)) throw wrong(`frame ${index} came twice`);
    if (index >= this.written.end + INTAKE_RUN_FRAMES_MAX) {
      throw wrong(`frame ${index} came, and ${this.written.end} is not written`);
    }
    this.highest = Math.max(this.highest, index);
    this.arrived.add(index);
  }

  /** The changes of a frame ended. */
  ended(index: number): void {
    this.written.add(index);
  }

  /** All frames below `count` came and are written. */
  has(count: number): boolean {
    return this.written.end >= count;
  }
}

function wrong(why: string): BlockferryError {
  return new BlockferryError('LINK_PROTOCOL', `the primary sent what no delta run has: ${why}`);
}
