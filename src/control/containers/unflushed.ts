/**
 * The changes to an export that no flush covers yet, kept so that they can be done again: whoever restarts the server may
 * have lost them.
 *
 * Invariants:
 * - Changes stand in the order in which they were sent. Those that overlap are never on their way together.
 * - A change leaves when a flush succeeds on the connection that answered it, and that began after the answer; or when it
 *   failed, for then nobody counts on it.
 * - At most CONTAINER_UNFLUSHED_BYTES_MAX bytes and CONTAINER_UNFLUSHED_CHANGES_MAX changes, but for one that is larger alone.
 */
import {
  BLOCK_BYTES,
  CONTAINER_REPLAYS_MAX,
  CONTAINER_UNFLUSHED_BYTES_MAX,
  CONTAINER_UNFLUSHED_CHANGES_MAX,
} from '../../io/limits.ts';

const UNANSWERED = -1;

export interface Change {
  readonly position: number;
  readonly length: number;
  /** Null: zeroes. */
  readonly bytes: Buffer | null;
  readonly noHole: boolean;
  /** Takes the answer: a count or 0, or a negative errno. Null when it was given. */
  callback: ((result: number) => void) | null;
  /** Flushes that had begun when it was answered on this connection. */
  stamp: number;
}

export class Unflushed {
  bytes = 0;
  private readonly changes = new Set<Change>();
  private flushes = 0;

  /** A change of `length` bytes may be added. */
  hasRoom(length: number): boolean {
    if (this.changes.size === 0) return true;
    if (this.changes.size >= CONTAINER_UNFLUSHED_CHANGES_MAX) return false;
    return this.bytes + length <= CONTAINER_UNFLUSHED_BYTES_MAX;
  }

  /** More than half of what there may be is here. */
  get isHalfFull(): boolean {
    const { bytes, changes } = this;
    return (
      bytes * 2 > CONTAINER_UNFLUSHED_BYTES_MAX ||
      changes.size * 2 > CONTAINER_UNFLUSHED_CHANGES_MAX
    );
  }

  /** A flush would let some of them go. */
  get canShrink(): boolean {
    for (const { stamp } of this.changes) if (stamp !== UNANSWERED) return true;
    return false;
  }

  add(change: Omit<Change, 'stamp'>): Change {
    const added = { ...change, stamp: UNANSWERED };
    this.changes.add(added);
    this.bytes += added.bytes?.length ?? 0;
    return added;
  }

  answered(change: Change): void {
    change.stamp = this.flushes;
  }

  drop(change: Change): void {
    if (this.changes.delete(change)) this.bytes -= change.bytes?.length ?? 0;
  }

  /** A flush begins; returns its number for `flushed`. */
  flushing(): number {
    this.flushes += 1;
    return this.flushes;
  }

  /** A flush succeeded, on the connection on which it began. */
  flushed(flush: number): void {
    for (const change of this.changes) {
      if (change.stamp !== UNANSWERED && change.stamp < flush) this.drop(change);
    }
  }

  /** The connection is lost: nothing that was answered counts. */
  forget(): void {
    for (const change of this.changes) change.stamp = UNANSWERED;
  }

  /** Those whose answer is still owed. */
  owed(): Change[] {
    return [...this.changes].filter(({ callback }) => callback !== null);
  }

  /** The first of them that were not answered on this connection, in order, as many as may be done side by side. */
  nextToReplay(): Change[] {
    const batch: Change[] = [];
    for (const change of this.changes) {
      if (change.stamp !== UNANSWERED) continue;
      if (batch.length >= CONTAINER_REPLAYS_MAX) break;
      if (batch.some((other) => overlap(other, change))) break;
      batch.push(change);
    }
    return batch;
  }
}

/** By whole blocks: one of which a part is written may be read before that. */
function overlap(one: Change, other: Change): boolean {
  return firstOf(one) < endOf(other) && firstOf(other) < endOf(one);
}

function firstOf({ position }: Change): number {
  return Math.floor(position / BLOCK_BYTES);
}

function endOf({ position, length }: Change): number {
  return Math.ceil((position + length) / BLOCK_BYTES);
}
