/**
 * One mirror's place in the staging queue: what is staged for it, what was shed of that, and whether it waits for a lost link.
 *
 * Invariants:
 * - `follower` is set exactly while host writes are staged for this mirror; else they are marked in
 *   `blocks.dirty` (I5). Leaving turns what is staged and not durable there into marks (I6).
 * - `bridge` is set while what is staged waits for a lost link to come back; it ends with the following of the queue.
 * - What was shed is marked as in flight until the mirror has flushed it.
 */
import assert from 'node:assert';
import type { Sender } from '../contact/contact.ts';
import type { MirrorBlocks } from './mirror-blocks.ts';
import type { MirrorHost } from './mirror-host.ts';
import type { Backlog, Follower } from '../staging/staging-queue.ts';
import { StreamBridge } from './stream-bridge.ts';

export class MirrorPlace {
  follower: Follower | null = null;
  bridge: StreamBridge | null = null;
  /** When the stream went on over a bridge, or the mirror last had more since then; null: it is in step. */
  private bridgedAt: number | null = null;
  /** Epochs up to this one were shed; 0: none is. Their blocks are in `blocks.inFlight`. */
  private shedUpTo = 0;
  private shedSince: number | null = null;
  /** Clock time since when it lacks something, while it has no place. */
  private behindSince: number;
  private readonly host: MirrorHost;
  private readonly blocks: MirrorBlocks;

  constructor(host: MirrorHost, blocks: MirrorBlocks) {
    this.host = host;
    this.blocks = blocks;
    this.behindSince = host.surroundings.clock.now();
  }

  get stagedBytes(): number {
    return this.follower === null ? 0 : this.host.queue.stagedBytesOf(this.follower);
  }

  /** How far it lags behind in the stream; null when it is not in it. */
  get backlog(): Backlog | null {
    return this.follower === null ? null : this.host.queue.backlogOf(this.follower);
  }

  /** Clock time of the oldest staged write that the mirror has not flushed; null: it has all, or no place. */
  get lackingSince(): number | null {
    if (this.follower === null) return null;
    return this.shedSince ?? this.host.queue.behindSince(this.follower);
  }

  /** As `lackingSince`, but what waited for the link is old, and on its way. */
  get lateSince(): number | null {
    const since = this.lackingSince;
    return since === null ? null : Math.max(since, this.bridgedAt ?? since);
  }

  /** Clock time since when the mirror is behind; null: it is not. `inOrder`: what is staged is all that it lacks. */
  lagsSince(inOrder: boolean): number | null {
    return this.follower !== null && inOrder ? this.lackingSince : this.behindSince;
  }

  /** What is staged waits for the link, or did and is on its way. */
  get bridged(): boolean {
    return this.bridge !== null || this.bridgedAt !== null;
  }

  /** From now on host writes are staged for this mirror. */
  take(): void {
    this.follower ??= this.host.queue.follow();
  }

  /**
   * Gives the memory of epochs back that the mirror answered and has not flushed: their blocks are
   * marked instead, until it has.
   */
  shed({ held }: Sender): void {
    const { follower } = this;
    if (follower === null || held === follower.released) return;
    const { queue } = this.host;
    this.shedSince ??= queue.behindSince(follower);
    for (let number = follower.released + 1; number <= held; number += 1) {
      queue.epoch(number)?.eachRange((offset, length) => this.blocks.markInFlight(offset, length));
    }
    this.shedUpTo = held;
    queue.release(follower, held);
  }

  /** The mirror has every epoch up to `durable`, durably: nothing of them is needed for it any more. */
  settle(durable: number): void {
    const { follower } = this;
    assert(follower !== null, 'a mirror that follows');
    if (durable >= this.shedUpTo && this.shedUpTo > 0) {
      this.blocks.settleInFlight();
      this.shedUpTo = 0;
      this.shedSince = null;
    }
    if (durable > follower.released) this.host.queue.release(follower, durable);
    if (this.bridgedAt !== null) this.bridgedAt = this.host.surroundings.clock.now();
  }

  /** The mirror has what was staged until it came. */
  inStep(): void {
    this.bridgedAt = null;
  }

  /** What is staged waits for the next link. Of the last one: the last epoch that was sent whole, and that was durable. */
  buildBridge({ sent, durable }: { readonly sent: number; readonly durable: number }): void {
    const { host, follower } = this;
    assert(follower !== null, 'a bridge is for what is staged');
    follower.away = true;
    this.bridge = new StreamBridge({ host, follower, sent, durable });
  }

  /** The stream goes on over it. */
  crossBridge(): void {
    assert(this.follower !== null, 'a bridge is for what is staged');
    this.follower.away = false;
    this.bridge = null;
    this.bridgedAt = this.host.surroundings.clock.now();
  }

  /** The mirror has the content of that moment (clock milliseconds), and no place. */
  ranAt(moment: number): void {
    assert(this.follower === null, 'it has left');
    this.behindSince = moment;
  }

  /** What is staged becomes marks. Returns whether there was a place. */
  leave(): boolean {
    const { follower } = this;
    if (follower === null) return false;
    this.behindSince = this.lackingSince ?? this.host.surroundings.clock.now();
    this.follower = null;
    this.bridge = null;
    this.bridgedAt = null;
    this.shedUpTo = 0;
    this.shedSince = null;
    this.host.queue.leave(follower, (offset, length) => this.blocks.mark(offset, length));
    return true;
  }
}
