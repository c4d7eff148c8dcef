/**
 * Moves closed epochs that wait for a slow link from memory to the staging ring, and back before they are sent.
 *
 * Invariants:
 * - Epochs go to the ring in order, one at a time, and none goes twice. The oldest ones, which the links take
 *   next, stay in memory.
 * - An epoch is in memory until it is on disk whole, and on disk until it is in memory whole; its place in the
 *   ring is freed once, when it is back or was let go.
 * - What comes back is what was written, proven by checksum; else nobody is sent it (`onUnreadable`).
 */
import assert from 'node:assert';
import { crc32 } from 'node:zlib';
import { STAGING_SLAB_BYTES } from '../../io/limits.ts';
import type { Epoch, Segment } from './epoch.ts';
import type { Slab, SlabPool } from './slab.ts';
import type { RingPlace, StagingRing } from './staging-ring.ts';

/** Where the payload of an epoch is while it is not in memory. */
export interface StoredEpoch {
  readonly place: RingPlace;
  /** Of each segment. */
  readonly lengths: readonly number[];
  readonly checksums: readonly number[];
  /** Called when it is back; null while nobody asked for it. */
  waiting: (() => void)[] | null;
}

export class EpochSpill {
  /** Payload bytes, in the count of the queue, of epochs that are on disk only. */
  bytes = 0;
  private writing: Epoch | null = null;
  private last = 0;
  /** Takes what is read back. */
  private slab: Slab | null = null;
  private readonly ring: StagingRing;
  private readonly pool: SlabPool;
  private readonly onUnreadable: () => void;

  constructor(options: { ring: StagingRing; pool: SlabPool; onUnreadable: () => void }) {
    this.ring = options.ring;
    this.pool = options.pool;
    this.onUnreadable = options.onUnreadable;
  }

  get sizeBytes(): number {
    return this.ring.sizeBytes;
  }

  /** The disk failed: nothing more goes there. */
  get failed(): boolean {
    return this.ring.failed;
  }

  /** One is on its way to disk, or none can be. */
  get busy(): boolean {
    return this.writing !== null || this.ring.failed;
  }

  /** The number of the next epoch that may go to disk, at least `from`. */
  next(from: number): number {
    return Math.max(from, this.last + 1);
  }

  /** The epoch is not to go to disk, or not again. */
  skip(epoch: Epoch): void {
    this.last = epoch.number;
  }

  /** Begins to write a closed epoch; `done` when something changed. False: the ring has no room. */
  begin(epoch: Epoch, done: () => void): boolean {
    assert(
      this.writing === null && epoch.closed !== null && epoch.stored === null,
      'one at a time',
    );
    const chunks = epoch.chunks();
    const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    if (length === 0) {
      this.skip(epoch);
      return true;
    }
    const place = this.ring.reserve(length);
    if (place === null) return false;
    this.skip(epoch);
    this.writing = epoch;
    const stored: StoredEpoch = {
      place,
      lengths: chunks.map((chunk) => chunk.length),
      checksums: chunks.map((chunk) => crc32(chunk)),
      waiting: null,
    };
    const letGo = epoch.holdSlabs();
    this.forEachSegment(
      stored,
      (index, at, segmentDone) => {
        const chunk = chunks[index];
        assert(chunk !== undefined);
        this.ring.write(place, at, chunk, segmentDone);
      },
      (ok) => {
        this.writing = null;
        letGo();
        if (ok && !epoch.released) {
          epoch.toDisk(stored);
          this.bytes += epoch.bytes;
        } else this.ring.free(place);
        done();
      },
    );
    return true;
  }

  /** Brings an epoch back; `ready` when it is in memory. Never called for one that cannot be read, or was let go. */
  load(epoch: Epoch, ready: () => void): void {
    const { stored } = epoch;
    assert(stored !== null, 'the epoch is on disk');
    if (stored.waiting !== null) {
      if (!stored.waiting.includes(ready)) stored.waiting.push(ready);
      return;
    }
    stored.waiting = [ready];
    const segments = stored.lengths.map((length) => this.roomFor(length));
    this.forEachSegment(
      stored,
      (index, at, segmentDone) => {
        const segment = segments[index];
        assert(segment !== undefined);
        const { slab, start, end } = segment;
        const into = { buffer: slab.buffer, start, length: end - start };
        this.ring.read(stored.place, at, into, segmentDone);
      },
      (ok) => this.loaded(epoch, stored, segments, ok),
    );
  }

  /** Nothing is staged: the next epoch that comes back begins another slab. What is being read holds the one it is read into. */
  rest(): void {
    this.slab?.release();
    this.slab = null;
  }

  /** The queue let the epoch go. */
  released(epoch: Epoch): void {
    const { stored } = epoch;
    if (stored === null) return;
    this.bytes -= epoch.bytes;
    // What is being read is freed when that is done.
    if (stored.waiting === null) this.ring.free(stored.place);
  }

  private loaded(epoch: Epoch, stored: StoredEpoch, segments: Segment[], ok: boolean): void {
    const sound =
      ok &&
      segments.every(
        ({ slab, start, end }, index) =>
          crc32(slab.buffer.subarray(start, end)) === stored.checksums[index],
      );
    if (epoch.released) {
      for (const { slab } of segments) slab.release();
      this.ring.free(stored.place);
      return;
    }
    if (!sound) {
      for (const { slab } of segments) slab.release();
      stored.waiting = null;
      this.onUnreadable();
      return;
    }
    this.bytes -= epoch.bytes;
    epoch.toMemory(segments);
    this.ring.free(stored.place);
    for (const ready of stored.waiting ?? []) ready();
  }

  /** Room for one segment, its slab held once for it. */
  private roomFor(length: number): Segment {
    assert(length <= STAGING_SLAB_BYTES, 'a segment lies in one slab');
    if (this.slab === null || this.slab.free < length) {
      this.slab?.release();
      this.slab = this.pool.take();
    }
    const { slab } = this;
    const start = slab.used;
    slab.used += length;
    slab.hold();
    return { slab, start, end: slab.used };
  }

  private forEachSegment(
    stored: StoredEpoch,
    run: (index: number, at: number, done: (ok: boolean) => void) => void,
    done: (ok: boolean) => void,
  ): void {
    let left = stored.lengths.length;
    let allOk = true;
    let at = 0;
    for (const [index, length] of stored.lengths.entries()) {
      run(index, at, (ok) => {
        allOk &&= ok;
        left -= 1;
        if (left === 0) done(allOk);
      });
      at += length;
    }
  }
}
