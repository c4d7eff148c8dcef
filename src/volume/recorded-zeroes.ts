/**
 * Zeroes that went into the log while a flush was on its way, or ahead of the map before that. What the flush will record was
 * taken without them, and may hold whole regions: it must not undo them, for above other layers nothing but the log tells of
 * them after a kill.
 */
import { BlockSet } from './maps/block-set.ts';
import { BlockState } from './maps/layer-map.ts';
import type { MapRecord } from './log/metadata-state.ts';

export type AllocatedRecord = Extract<MapRecord, { kind: 'allocated' }>;

/** Blocks that one record tells of at most. */
const RUN_BLOCKS_MAX = 2 ** 20;

export class RecordedZeroes {
  private readonly byLayer = new Map<number, BlockSet>();

  /** This was recorded now. */
  note({ layer, first, count, state }: AllocatedRecord): void {
    const end = first + count;
    const known = this.byLayer.get(layer);
    if (state !== BlockState.ZERO) {
      if (known !== undefined && first < known.blockCount) {
        known.remove(first, Math.min(end, known.blockCount) - first);
      }
      return;
    }
    const blocks = known ?? new BlockSet(end);
    if (known === undefined) this.byLayer.set(layer, blocks);
    if (blocks.blockCount < end) blocks.resize(end);
    blocks.add(first, count);
  }

  /** To be recorded once more. */
  *records(): Generator<AllocatedRecord> {
    for (const [layer, blocks] of this.byLayer) {
      let run = blocks.nextRun(0, RUN_BLOCKS_MAX);
      while (run !== null) {
        yield { kind: 'allocated', layer, ...run, state: BlockState.ZERO };
        run = blocks.nextRun(run.first + run.count, RUN_BLOCKS_MAX);
      }
    }
  }
}
