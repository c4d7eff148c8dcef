/**
 * The staging queue: writes applied locally and not yet durable on every mirror in stream, in order.
 *
 * Invariants:
 * - Epoch numbers rise by one. The open epoch is the youngest; `epochs` holds the closed ones that some
 *   follower still needs, oldest first, without gaps.
 * - An epoch leaves the queue only when every follower released it (I6): its mirror has it durable, or it is
 *   marked there. A queue without followers
 *   stages nothing: what is written then is in each mirror's delta bitmap (I5).
 * - A FLUSH or FUA is always the end of an epoch, never inside one. So is a command.
 * - A change that is appended in parts is in one epoch, whole: the epoch is closed before it or behind it.
 * - No epoch is longer than EPOCH_BYTES_MAX, or the one change that is all there is in it.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import {
  BLOCK_BYTES,
  EPOCHS_MAX,
  EPOCHS_ON_DISK_MAX,
  EPOCH_BYTES,
  EPOCH_BYTES_MAX,
  EPOCH_PUSH_BYTES,
  STAGING_BYTES_MAX,
  STAGING_KEPT_PART,
  STAGING_LOADED_PART,
  STAGING_SLAB_BYTES,
} from '../../io/limits.ts';
import { Epoch, SlabWriter, type CloseReason } from './epoch.ts';
import type { StreamCommand } from '../link/messages.ts';
import { EpochSpill } from './epoch-spill.ts';
import { SlabPool } from './slab.ts';
import type { StagingRing } from './staging-ring.ts';

/** One mirror's place in the queue. */
export interface Follower {
  /** Every epoch up to this one was released. Only ever rises, by `release`. */
  readonly released: number;
  /** Its mirror is out of contact: it releases nothing for now. */
  away: boolean;
}

/** What is staged for one mirror: payload bytes and closed epochs, of at most so many. */
export interface Backlog {
  readonly bytes: number;
  readonly limitBytes: number;
  readonly epochs: number;
  readonly limitEpochs: number;
}

class FollowerState implements Follower {
  released: number;
  away = false;

  constructor(released: number) {
    this.released = released;
  }
}

export class StagingQueue {
  /** Payload of the open epoch that is worth to be sent before its end, when nobody waits for it. */
  readonly pushBytes: number;
  /** With so many bytes in the open epoch the links are to be woken; infinite: none asked for it since they were. */
  private wakeAt = Number.POSITIVE_INFINITY;
  private readonly writer: SlabWriter;
  private readonly followers = new Set<FollowerState>();
  /** Closed epochs, the oldest at `head`; compacted now and then. */
  private epochs: Epoch[] = [];
  private head = 0;
  private open: Epoch;
  /** Whoever wants what is on disk while memory has no room for it. */
  private readonly waitingForRoom = new Set<() => void>();
  private appendedBytes = 0;
  private releasedBytes = 0;
  /** A change is being appended in parts. */
  private changing = false;
  private readonly limitBytes: number;
  private readonly pool: SlabPool;
  private spill: EpochSpill | null = null;
  private readonly clock: Pick<Clock, 'wall'>;

  constructor(options: {
    firstEpoch: number;
    clock: Pick<Clock, 'wall'>;
    /** Payload in memory before a mirror must leave; STAGING_BYTES_MAX if not given. */
    limitBytes?: number;
    /** What came to the open epoch before a link sends it ahead; EPOCH_PUSH_BYTES if not given, 0: at every turn. */
    pushBytes?: number;
    /** Memory that it shares with other queues; its own if not given. */
    slabs?: SlabPool;
  }) {
    this.clock = options.clock;
    this.limitBytes = options.limitBytes ?? STAGING_BYTES_MAX;
    this.pushBytes = options.pushBytes ?? EPOCH_PUSH_BYTES;
    this.pool = options.slabs ?? SlabPool.forQueues(this.limitBytes);
    this.writer = new SlabWriter(this.pool);
    this.open = new Epoch(options.firstEpoch, this.writer);
  }

  /**
   * Room for more on disk, or none any more; what is there must have been let go of then. `onUnreadable`: something cannot be
   * read back, so no mirror may wait for it.
   */
  spillTo(disk: { readonly ring: StagingRing; readonly onUnreadable: () => void } | null): void {
    assert((this.spill?.bytes ?? 0) === 0, 'nothing that is staged is lost');
    this.spill?.rest();
    this.spill = disk === null ? null : new EpochSpill({ ...disk, pool: this.pool });
  }

  /** What memory has no room for is kept on disk. */
  get hasDisk(): boolean {
    return this.spill !== null && !this.spill.failed;
  }

  get active(): boolean {
    return this.followers.size > 0;
  }

  /** A link took what it wants of the open epoch: it is to be woken by the change that brings it to so many bytes, or comes behind its end. */
  wantsMore(bytes: number): void {
    this.wakeAt = Math.min(this.wakeAt, bytes);
  }

  /** Whether links are to be woken now, by whoever asks. */
  takeWake(): boolean {
    if (this.open.bytes < this.wakeAt && this.open.bytes < EPOCH_BYTES) return false;
    this.wakeAt = Number.POSITIVE_INFINITY;
    return true;
  }

  /** The number of the epoch that takes the next write. */
  get openNumber(): number {
    return this.open.number;
  }

  /** The last epoch that has something in it, or was closed. */
  get stagedEpoch(): number {
    return this.open.empty ? this.open.number - 1 : this.open.number;
  }

  get openBytes(): number {
    return this.open.bytes;
  }

  get openIsEmpty(): boolean {
    return this.open.empty;
  }

  /** Clock time of the oldest write in the open epoch; meaningless while it is empty. */
  get openedAt(): number {
    return this.open.openedAt;
  }

  /** Payload bytes that some follower still needs. */
  get stagedBytes(): number {
    return this.appendedBytes - this.releasedBytes;
  }

  /** Payload bytes that are staged and in memory. */
  get memoryBytes(): number {
    return this.stagedBytes - (this.spill?.bytes ?? 0);
  }

  get closedCount(): number {
    return this.epochs.length - this.head;
  }

  /** Half full: from here on the policy looks at each follower. */
  get crowded(): boolean {
    return (
      this.memoryBytes >= this.limitBytes / 2 ||
      this.stagedBytes >= this.roomBytes / 2 ||
      this.closedCount >= this.limitEpochs / 2
    );
  }

  /** A link waits for room in memory, and none comes of itself: only followers that are away need the oldest epoch. */
  get starved(): boolean {
    const oldest = this.epochs[this.head];
    if (this.waitingForRoom.size === 0 || oldest === undefined) return false;
    if (this.spill !== null && !this.spill.failed && this.spill.busy) return false;
    for (const follower of this.followers) {
      if (!follower.away && this.needsOldest(follower)) return false;
    }
    return true;
  }

  /** The follower is one of those that need the oldest epoch. */
  needsOldest({ released }: Follower): boolean {
    const oldest = this.epochs[this.head];
    return oldest !== undefined && released < oldest.number;
  }

  /** Closed epochs that may wait: those on disk take less memory. */
  private get limitEpochs(): number {
    return this.spill === null ? EPOCHS_MAX : EPOCHS_ON_DISK_MAX;
  }

  /** What may be staged in all. */
  private get roomBytes(): number {
    return this.limitBytes + (this.spill?.sizeBytes ?? 0);
  }

  /** Starts following with the next write: everything before it is the caller's business. */
  follow(): Follower {
    // Sealed even when empty: requests may wait for the number that was open until now.
    this.seal();
    const follower = new FollowerState(this.open.number - 1);
    this.followers.add(follower);
    return follower;
  }

  /** Stops following and tells the ranges that are still staged for this follower. */
  leave(follower: Follower, visit: (offset: number, length: number) => void): void {
    assert(follower instanceof FollowerState && this.followers.has(follower), 'an active follower');
    if (!this.open.empty) this.close('command');
    for (let index = this.head; index < this.epochs.length; index += 1) {
      const epoch = this.epochs[index];
      assert(epoch !== undefined);
      if (epoch.number > follower.released) epoch.eachRange(visit);
    }
    this.followers.delete(follower);
    this.trim();
  }

  /** Payload bytes that were ever staged. */
  get totalBytes(): number {
    return this.appendedBytes;
  }

  /** Bytes that are still staged for one follower. */
  stagedBytesOf(follower: Follower): number {
    return this.appendedBytes - this.cumulativeAt(follower.released);
  }

  /** How far one follower lags behind, and how far it may. */
  backlogOf(follower: Follower): Backlog {
    return {
      bytes: this.stagedBytesOf(follower),
      // A disk that cannot follow is none.
      limitBytes: this.memoryBytes >= this.limitBytes * 0.9 ? this.limitBytes : this.roomBytes,
      epochs: this.open.number - 1 - follower.released,
      limitEpochs: this.limitEpochs,
    };
  }

  /** Clock time since when the follower lacks something, or null when it has everything. */
  behindSince(follower: Follower): number | null {
    for (let number = follower.released + 1; number < this.open.number; number += 1) {
      const epoch = this.epoch(number);
      // Sealed empty: it has no time, and nothing in it is lacking.
      if (epoch !== null && !epoch.empty) return epoch.openedAt;
    }
    return this.open.empty ? null : this.open.openedAt;
  }

  /** A change follows in parts, until `endChange`: payloads anywhere in this range of whole blocks. */
  beginPayloads(offset: number, length: number): void {
    assert(!this.changing, 'one change at a time');
    this.makeRoom(offset, length);
    this.changing = true;
  }

  /** A change follows in parts, until `endChange`: payloads and zeroes in this range of whole blocks. */
  beginMixed(offset: number, length: number): void {
    assert(!this.changing, 'one change at a time');
    const { open } = this;
    if (open.conflictsWithZeroes(offset, length) || open.conflictsWithPayload(offset, length)) {
      this.close('conflict');
    }
    this.changing = true;
  }

  endChange(): void {
    assert(this.changing, 'a change was begun');
    this.changing = false;
    this.closeIfFull();
  }

  /**
   * Adds the content of whole blocks that were just applied locally. `offset` and `length` are multiples
   * of the block size; `now` is the clock. Returns the number of the epoch that took it.
   */
  append(offset: number, buffer: Buffer, start: number, length: number, now: number): number {
    assert(this.active, 'nobody follows');
    assert(offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0, 'whole blocks');
    if (!this.changing) this.makeRoom(offset, length);
    if (this.open.empty) this.open.openedAt = now;
    const before = this.open.bytes;
    this.open.add(offset, buffer, start, length);
    this.appendedBytes += this.open.bytes - before;
    return this.closeIfFull();
  }

  /** Adds a range of whole blocks that now reads as zeroes. Returns the number of the epoch. */
  appendZeroes(offset: number, length: number, now: number, trim: boolean): number {
    assert(this.active, 'nobody follows');
    assert(offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0, 'whole blocks');
    if (!this.changing && this.open.conflictsWithPayload(offset, length)) this.close('conflict');
    if (this.open.empty) this.open.openedAt = now;
    this.open.addZeroes(offset, length, trim);
    return this.closeIfFull();
  }

  /** Closes the open epoch if there is anything in it; returns the number of the last closed epoch. */
  close(reason: CloseReason): number {
    if (!this.open.empty) {
      this.rotate(reason);
    } else if (reason === 'barrier') {
      // It was closed for another reason, and now the host wants it kept apart from what follows.
      const last = this.epoch(this.open.number - 1);
      if (last !== null) last.barrier = true;
    }
    return this.open.number - 1;
  }

  /** Closes the open epoch even when empty, so that later writes have a higher number. */
  seal(): number {
    this.rotate('command');
    return this.open.number - 1;
  }

  /** Ends the open epoch, also when it is empty, with a command; returns its number. */
  closeWithCommand(command: StreamCommand): number {
    this.open.command = command;
    return this.seal();
  }

  /** Whether the payload of a held epoch is in memory; if not, it is brought there, and `ready` called then. */
  fetch(epoch: Epoch, ready: () => void): boolean {
    if (epoch.stored === null) return true;
    assert(this.spill !== null, 'what is on disk was spilled');
    const room = this.limitBytes * STAGING_LOADED_PART - this.memoryBytes;
    // The oldest always gets there, so that there is room again.
    if (epoch.bytes > room && epoch !== this.epochs[this.head]) this.waitingForRoom.add(ready);
    else this.spill.load(epoch, ready);
    return false;
  }

  /** An epoch that is still held, or the open one; null when it was let go. */
  epochOrOpen(number: number): Epoch | null {
    return number === this.open.number ? this.open : this.epoch(number);
  }

  /** A closed epoch that is still held, or null. */
  epoch(number: number): Epoch | null {
    const first = this.epochs[this.head];
    if (first === undefined || number < first.number) return null;
    return this.epochs[this.head + (number - first.number)] ?? null;
  }

  /** The follower needs no epoch up to `number` any more: durable on its mirror, or marked. */
  release(follower: Follower, number: number): void {
    assert(follower instanceof FollowerState && this.followers.has(follower), 'an active follower');
    assert(number >= follower.released && number < this.open.number, 'released only rises');
    follower.released = number;
    this.trim();
  }

  /** Closes the open epoch when it cannot take a payload for these blocks. */
  private makeRoom(offset: number, length: number): void {
    const { open } = this;
    if (open.empty) return;
    if (open.bytes + length > EPOCH_BYTES_MAX) this.close('size');
    else if (open.conflictsWithZeroes(offset, length) || open.conflictsWithTaken(offset, length)) {
      this.close('conflict');
    }
  }

  /** Returns the number of the epoch that was written last, closed now or not. */
  private closeIfFull(): number {
    const { number } = this.open;
    if (this.changing) return number;
    if (this.open.bytes >= EPOCH_BYTES_MAX || this.open.full) this.close('size');
    return number;
  }

  private rotate(reason: CloseReason): void {
    this.open.cumulativeBytes = this.appendedBytes;
    this.open.close(reason, this.clock.wall());
    this.epochs.push(this.open);
    if (this.wakeAt !== Number.POSITIVE_INFINITY) this.wakeAt = 0;
    this.open = new Epoch(this.open.number + 1, this.writer);
    if (!this.active) this.trim();
    this.spillSome();
  }

  /** Starts to write to disk what memory has no room for, oldest first; but what the links take next stays. */
  private spillSome(): void {
    const { spill } = this;
    if (spill === null) return;
    const kept = this.limitBytes * STAGING_KEPT_PART;
    while (this.memoryBytes > kept) {
      const epoch = this.epoch(spill.next(this.epochs[this.head]?.number ?? 0));
      if (epoch === null || spill.busy) return;
      if (epoch.cumulativeBytes - this.releasedBytes <= kept) spill.skip(epoch);
      else if (!spill.begin(epoch, this.spilled)) return;
    }
  }

  private readonly spilled = (): void => {
    this.spillSome();
    this.tellRoom();
  };

  private cumulativeAt(number: number): number {
    const epoch = this.epoch(number);
    return epoch === null ? this.releasedBytes : epoch.cumulativeBytes;
  }

  /** Lets go of the epochs that every follower has. */
  private trim(): void {
    let released = this.open.number - 1;
    for (const follower of this.followers) released = Math.min(released, follower.released);
    for (;;) {
      const oldest = this.epochs[this.head];
      if (oldest === undefined || oldest.number > released) break;
      this.releasedBytes = oldest.cumulativeBytes;
      this.spill?.released(oldest);
      oldest.release();
      this.head += 1;
    }
    // Nothing is staged: the next write may as well begin a slab that the processor still has in its caches.
    if (this.head === this.epochs.length && this.open.empty) this.rest();
    if (this.head > 64 && this.head * 2 > this.epochs.length) {
      this.epochs = this.epochs.slice(this.head);
      this.head = 0;
    }
    this.tellRoom();
  }

  private rest(): void {
    this.writer.close();
    this.spill?.rest();
  }

  /** Something left memory: whoever waits for room asks again. */
  private tellRoom(): void {
    if (this.waitingForRoom.size === 0) return;
    const waiting = [...this.waitingForRoom];
    this.waitingForRoom.clear();
    for (const ready of waiting) ready();
  }
}

/** Slabs that a full queue takes; a check that the limits fit together. */
assert(STAGING_BYTES_MAX % STAGING_SLAB_BYTES === 0);
