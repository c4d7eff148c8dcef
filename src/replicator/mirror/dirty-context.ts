/**
 * `x-blockferry:dirty/N`: the bytes that may differ between a volume and mirror number N.
 *
 * Flag bit 0 is set for blocks that are marked in the mirror's delta bitmap, that are to be compared, or that
 * were written and are not durable on the mirror yet. N is the mirror's number in the metadata log: it stays
 * the same over restarts and is never given to another mirror.
 *
 * Invariants:
 * - A block without the flag is the same on both sides (I5 read backwards).
 * - A context outlives its mirror. Nobody tracks what a removed mirror lacks: it may differ everywhere.
 */
import type { Extent, StatusContext } from '../../io/device.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import { dirtyContextName } from './dirty-name.ts';
import type { Mirror } from './mirror.ts';
import type { RegionGate } from '../changes/region-gate.ts';

const DIRTY = 1;

export class DirtyContext implements StatusContext {
  readonly name: string;
  /** Null: it was removed. */
  private mirror: Mirror | null;
  private readonly gate: RegionGate;

  constructor(mirror: Mirror, gate: RegionGate) {
    this.name = dirtyContextName(mirror.id);
    this.mirror = mirror;
    this.gate = gate;
  }

  /** The mirror was removed. */
  detach(): void {
    this.mirror = null;
  }

  describe(offset: number, end: number, into: Extent): void {
    const { mirror } = this;
    const first = Math.floor(offset / BLOCK_BYTES);
    const limit = Math.ceil(end / BLOCK_BYTES);
    into.end = end;
    into.flags = DIRTY;
    if (mirror === null || limit > mirror.blocks.dirty.blockCount) return;
    let run = mirror.blocks.runEnd(first, limit);
    if (!mirror.blocks.marked(first)) {
      run = this.gate.stagedRunEnd(mirror, first, run);
      if (!this.gate.isStaged(mirror, first)) into.flags = 0;
    }
    into.end = Math.min(end, run * BLOCK_BYTES);
  }
}

/** Those of the mirrors of one volume. */
export class DirtyContexts {
  private readonly contexts = new Map<Mirror, DirtyContext>();
  private readonly gate: RegionGate;

  constructor(gate: RegionGate) {
    this.gate = gate;
  }

  /** One for each of these mirrors, the same as before where there was one; the others are told that theirs was removed. */
  of(mirrors: readonly Mirror[]): DirtyContext[] {
    for (const [mirror, context] of this.contexts) {
      if (mirrors.includes(mirror)) continue;
      context.detach();
      this.contexts.delete(mirror);
    }
    for (const mirror of mirrors) {
      if (this.contexts.has(mirror)) continue;
      this.contexts.set(mirror, new DirtyContext(mirror, this.gate));
    }
    return [...this.contexts.values()];
  }
}
