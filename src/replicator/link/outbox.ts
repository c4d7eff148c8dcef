/**
 * What a link sends: on which lane, how much of it waits, and who is to be told.
 *
 * Invariants:
 * - Every sender is told once, never inside `send`.
 * - What is sent in one go leaves each lane in one system call, behind the code that runs: no other event comes between.
 * - `drained` follows each time that the backlog was at LINK_BACKLOG_BYTES_LOW or above.
 */
import assert from 'node:assert';
import type { Clock } from '../../io/clock.ts';
import { LINK_BACKLOG_BYTES_LOW, LINK_BACKLOG_BYTES_MAX } from '../../io/limits.ts';
import type { DrainMeter } from './drain-meter.ts';
import type { Lane } from './lane.ts';
import type { FrameHeader } from './link-types.ts';
import type { OutgoingFrame } from './outgoing-frame.ts';

export interface OutboxOwner {
  /** More waits than LINK_BACKLOG_BYTES_MAX. */
  overflowed(): void;
  /** The backlog fell below LINK_BACKLOG_BYTES_LOW. */
  drained(): void;
  /** A sender was told; maybe it was the last. */
  settled(): void;
}

export class Outbox {
  /** Bytes that the system took, while the link stood. */
  bytesSent = 0;
  /** Told of what waits and what left; null: nobody wants to know. */
  meter: DrainMeter | null = null;
  private readonly clock: Clock;
  private readonly lanes: readonly Lane[];
  private readonly owner: OutboxOwner;
  /** Bytes given to lanes. */
  private queued = 0;
  /** Bytes that are to be given to lanes later. */
  private reserved = 0;
  private owesDrained = false;
  /** Frames given to lanes, or dropped, whose sender was not told yet. */
  private untold = 0;
  private flushing = false;
  /** Lanes were cut: what they had is not sent any more. */
  private cut = false;

  /** `lanes` may grow. */
  constructor(clock: Clock, lanes: readonly Lane[], owner: OutboxOwner) {
    this.clock = clock;
    this.lanes = lanes;
    this.owner = owner;
  }

  get backlogBytes(): number {
    return this.queued + this.reserved;
  }

  /** Every sender was told. */
  get isSettled(): boolean {
    return this.untold === 0;
  }

  lane(index: number): Lane {
    for (const lane of this.lanes) if (lane.index === index) return lane;
    assert.fail(`a link has a lane ${index}`);
  }

  /** Where the least waits. Of equals the first: what fits one system call is not spread over several. */
  idlestLane(): Lane {
    let best = this.lanes[0];
    assert(best !== undefined, 'a link has a lane');
    for (const lane of this.lanes) if (lane.queuedBytes < best.queuedBytes) best = lane;
    return best;
  }

  send(
    lane: Lane,
    header: FrameHeader,
    payload: readonly Buffer[],
    sent: (() => void) | null,
  ): void {
    const before = lane.queuedBytes;
    lane.send(header, payload, sent);
    this.untold += 1;
    this.queued += lane.queuedBytes - before;
    this.rose();
    if (this.backlogBytes > LINK_BACKLOG_BYTES_MAX) return this.owner.overflowed();
    if (this.flushing) return;
    this.flushing = true;
    queueMicrotask(this.flush);
  }

  /** A frame that comes too late. */
  drop(sent: () => void): void {
    this.untold += 1;
    this.clock.soon(() => {
      sent();
      this.untold -= 1;
      this.owner.settled();
    });
  }

  /** No part of the frame is in use any more. */
  parted({ bytes, plainBytes, sent }: OutgoingFrame): void {
    this.queued -= bytes;
    if (!this.cut) this.bytesSent += bytes;
    this.meter?.left(bytes, plainBytes);
    sent?.();
    this.untold -= 1;
    this.fell();
    this.owner.settled();
  }

  /** So many bytes follow later, by `send`: they count from now on, until `unreserve`. */
  reserve(bytes: number): void {
    this.reserved += bytes;
    this.rose();
  }

  unreserve(bytes: number): void {
    assert(bytes <= this.reserved, 'what is given back was reserved');
    this.reserved -= bytes;
    this.fell();
  }

  /** The lanes were cut. */
  stop(): void {
    this.cut = true;
  }

  private rose(): void {
    if (this.backlogBytes >= LINK_BACKLOG_BYTES_LOW) this.owesDrained = true;
    this.meter?.waits(this.backlogBytes, this.queued);
  }

  private fell(): void {
    this.meter?.waits(this.backlogBytes, this.queued);
    if (!this.owesDrained || this.backlogBytes >= LINK_BACKLOG_BYTES_LOW) return;
    this.owesDrained = false;
    this.owner.drained();
  }

  private readonly flush = (): void => {
    this.flushing = false;
    for (const lane of this.lanes) lane.flush();
  };
}
