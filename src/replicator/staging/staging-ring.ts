/**
 * A file of fixed size, used as a ring: staged payloads that memory has no room for. It means nothing to a later
 * process, which marks in the delta bitmap what was staged.
 *
 * Invariants:
 * - Places are given in order and their space comes back in order. A place is never given while an earlier use
 *   of its bytes is under way.
 * - At most `sizeBytes` of the disk are in use; what is free is given back to the disk.
 * - After a write that failed nothing more is written: what is in memory stays there.
 */
import assert from 'node:assert';
import type { Disk, DiskFile } from '../../io/disk.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';

/** Whole blocks of the ring. `position` counts on from one place to the next, around and around. */
export interface RingPlace {
  readonly position: number;
  readonly length: number;
}

interface Use {
  readonly place: RingPlace;
  freed: boolean;
}

/** `ok`: all bytes were written, or read. Never called before the call returned. */
export type RingCallback = (ok: boolean) => void;

export class StagingRing {
  readonly sizeBytes: number;
  /** A write failed. */
  failed = false;
  /** Where the next place begins, and the oldest that is in use. */
  private head = 0;
  private tail = 0;
  private readonly uses: Use[] = [];
  private inFlight = 0;
  private closing: (() => void) | null = null;
  private readonly file: DiskFile;
  private readonly disk: Disk;

  /** Begins with an empty file at `path`, whatever was there. Throws errors of Node. */
  constructor(options: { disk: Disk; path: string; sizeBytes: number }) {
    assert(options.sizeBytes >= BLOCK_BYTES, 'a ring has room');
    this.sizeBytes = options.sizeBytes - (options.sizeBytes % BLOCK_BYTES);
    this.disk = options.disk;
    this.file = options.disk.open(options.path, { create: true });
    this.file.truncateNow(0);
  }

  get usedBytes(): number {
    return this.head - this.tail;
  }

  /** Room for at least `length` bytes, or null while there is none. */
  reserve(length: number): RingPlace | null {
    assert(length > 0, 'a place has bytes');
    if (this.failed || this.closing !== null) return null;
    const room = Math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES;
    if (this.usedBytes + room > this.sizeBytes) return null;
    const place = { position: this.head, length: room };
    this.head += room;
    this.uses.push({ place, freed: false });
    return place;
  }

  /** Writes at byte `at` of the place. The buffer is in use until `done`. */
  write(place: RingPlace, at: number, chunk: Buffer, done: RingCallback): void {
    this.eachPart(place, at, chunk.length, done, (start, length, position, part) => {
      this.file.write(chunk, start, length, position, (status) => {
        if (status < 0) this.failed = true;
        part(status >= 0);
      });
    });
  }

  /** Reads from byte `at` of the place into `buffer[start ..]`. */
  read(
    place: RingPlace,
    at: number,
    into: { readonly buffer: Buffer; readonly start: number; readonly length: number },
    done: RingCallback,
  ): void {
    this.eachPart(place, at, into.length, done, (start, length, position, part) => {
      this.file.read(into.buffer, into.start + start, length, position, (count) =>
        part(count === length),
      );
    });
  }

  /** The place is needed no longer; nothing of it is under way. Its space is free a moment later. */
  free(place: RingPlace): void {
    if (this.closing !== null) return;
    this.eachPart(
      place,
      0,
      place.length,
      () => this.reclaim(place),
      (_start, length, position, part) => this.file.punchHole(position, length, () => part(true)),
    );
  }

  /** Removes the file when nothing is under way any more. */
  close(closed: () => void): void {
    assert(this.closing === null, 'closed once');
    this.closing = (): void => {
      try {
        this.file.closeNow();
        this.disk.remove(this.file.path);
      } catch {
        // Whoever uses the directory next removes it.
      }
      closed();
    };
    if (this.inFlight === 0) this.closing();
  }

  private reclaim(place: RingPlace): void {
    const use = this.uses.find((each) => each.place === place);
    assert(use !== undefined && !use.freed, 'freed once');
    use.freed = true;
    while (this.uses[0]?.freed === true) {
      this.tail += this.uses[0].place.length;
      this.uses.shift();
    }
  }

  /** Calls `run` for the one or two parts that a run of bytes has in the file, and `done` behind them. */
  private eachPart(
    place: RingPlace,
    at: number,
    length: number,
    done: RingCallback,
    run: (start: number, length: number, position: number, part: RingCallback) => void,
  ): void {
    assert(at >= 0 && at + length <= place.length, 'bytes of the place');
    const position = (place.position + at) % this.sizeBytes;
    const first = Math.min(length, this.sizeBytes - position);
    let left = first < length ? 2 : 1;
    let allOk = true;
    const part = (ok: boolean): void => {
      allOk &&= ok;
      left -= 1;
      this.inFlight -= 1;
      if (left === 0) done(allOk);
      if (this.inFlight === 0) this.closing?.();
    };
    this.inFlight += left;
    run(0, first, position, part);
    if (first < length) run(first, length - first, 0, part);
  }
}
