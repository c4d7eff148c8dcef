/**
 * `base:allocation` of a volume: which bytes take space and which read as zeroes, by the layer map alone.
 *
 * Asked for every structured READ, so it allocates nothing and looks at the map no further than the range.
 */
import type { Extent, StatusContext } from '../io/device.ts';
import type { ReadSource } from './layers/layer.ts';

/** Flags of `base:allocation`: the range takes no space (1), and reads as zeroes (2). */
const HOLE_AND_ZERO = 1 | 2;
const DATA = 0;

export class AllocationContext implements StatusContext {
  readonly name = 'base:allocation';
  private readonly source: ReadSource;

  constructor(source: ReadSource) {
    this.source = source;
  }

  describe(offset: number, end: number, into: Extent): void {
    const { source } = this;
    if (end > source.sizeBytes) {
      // The volume shrank under the connection: what is past its end is refused, not described.
      into.end = end;
      into.flags = DATA;
      return;
    }
    into.end = source.runEndAt(offset, end);
    into.flags = source.isDataAt(offset) ? DATA : HOLE_AND_ZERO;
  }
}
