/**
 * Streams epochs to one mirror: each is written, then flushed, before the next one starts. So what a
 * mirror holds after its own crash is in order up to the epoch in flight (design section 8).
 *
 * Invariants:
 * - One epoch is on its way at a time. Its slabs are held until the mirror answered every request of it,
 *   or the connection is over and nothing reads them any more.
 * - `held` <= the last closed epoch, `durable` of the follower <= `held`.
 */
import assert from 'node:assert';
import type { Timer } from '../io/clock.ts';
import { EPOCH_AGE_MS, EPOCH_ENTRIES_MAX, NBD_PREPARED_REQUESTS_MAX } from '../io/limits.ts';
import type { NbdClient } from '../nbd/client.ts';
import type { Epoch } from './epoch.ts';
import type { MirrorHost } from './mirror-host.ts';
import { closesNow } from './policy.ts';
import type { Follower } from './staging-queue.ts';

assert(EPOCH_ENTRIES_MAX <= NBD_PREPARED_REQUESTS_MAX, 'an epoch fits into one prepared batch');

export class EpochSender {
  /** Every write of the epochs up to this one was answered by the mirror. */
  held: number;
  busy = false;
  private stopped = false;
  private ageTimer: Timer | null = null;
  private releaseSlabs: (() => void) | null = null;
  private readonly host: MirrorHost;
  private readonly client: NbdClient;
  private readonly follower: Follower;
  private readonly onHeld: () => void;
  private readonly onDurable: (epoch: Epoch) => void;
  private readonly onError: (errno: number) => void;
  private readonly onIdle: () => void;

  constructor(options: {
    host: MirrorHost;
    client: NbdClient;
    follower: Follower;
    onHeld: () => void;
    onDurable: (epoch: Epoch) => void;
    /** The mirror answered a write or flush with an error of the protocol. */
    onError: (errno: number) => void;
    /** Stopped, and the last epoch was answered. */
    onIdle: () => void;
  }) {
    this.host = options.host;
    this.client = options.client;
    this.follower = options.follower;
    this.held = options.follower.durable;
    this.onHeld = options.onHeld;
    this.onDurable = options.onDurable;
    this.onError = options.onError;
    this.onIdle = options.onIdle;
  }

  /** Sends the next epoch if the link is idle and there is one; else sees to it that this is called again. */
  pump(): void {
    if (this.busy || this.stopped) return;
    const { queue } = this.host;
    const next = this.follower.durable + 1;
    if (next === queue.openNumber && !this.closeOpen()) return;
    const epoch = queue.epoch(next);
    assert(epoch !== null, 'epochs that are not durable are in the queue');
    this.send(epoch);
  }

  /** No further epoch is begun. Returns whether one is still on its way. */
  stop(): boolean {
    this.stopped = true;
    this.ageTimer?.cancel();
    return this.busy;
  }

  /** The connection is over: nothing is on its way any more. */
  connectionOver(): void {
    this.stop();
    this.busy = false;
    this.letGo();
  }

  private closeOpen(): boolean {
    const { queue, surroundings, hasWaiters } = this.host;
    if (queue.openIsEmpty) return false;
    const ageMs = surroundings.clock.now() - queue.openedAt;
    if (closesNow({ bytes: queue.openBytes, ageMs, waiters: hasWaiters })) {
      queue.close(ageMs >= EPOCH_AGE_MS ? 'age' : 'size');
      return true;
    }
    this.ageTimer?.cancel();
    this.ageTimer = surroundings.clock.after(Math.max(1, EPOCH_AGE_MS - ageMs), () => this.pump());
    return false;
  }

  private send(epoch: Epoch): void {
    this.busy = true;
    this.ageTimer?.cancel();
    this.releaseSlabs = epoch.holdSlabs();
    let parts = 1 + epoch.zeroes.length + (epoch.entryCount > 0 ? 1 : 0);
    let failure = 0;
    const partDone = (errno: number): void => {
      if (errno !== 0) failure = errno;
      parts -= 1;
      if (parts === 0) this.written(epoch, failure);
    };
    for (const { offset, length } of epoch.zeroes) {
      this.client.zero(offset, length, { noHole: false }, partDone);
    }
    if (epoch.entryCount > 0) this.sendPayload(epoch, partDone);
    partDone(0);
  }

  private sendPayload(epoch: Epoch, done: (errno: number) => void): void {
    let failure = 0;
    this.client.sendPrepared(
      {
        id: epoch.number,
        count: epoch.entryCount,
        replied: (_index, errno) => {
          if (errno !== 0) failure = errno;
        },
        done: () => done(failure),
      },
      epoch.chunks(),
    );
  }

  private written(epoch: Epoch, failure: number): void {
    // A connection that ended is dealt with by `connectionOver`.
    if (!this.busy) return;
    this.letGo();
    if (this.stopped) {
      this.busy = false;
      this.onIdle();
    } else if (failure !== 0) {
      this.onError(failure);
    } else {
      this.held = epoch.number;
      this.onHeld();
      this.client.flush((errno) => this.flushed(epoch, errno));
    }
  }

  private flushed(epoch: Epoch, errno: number): void {
    if (!this.busy) return;
    if (this.stopped) {
      // Whatever the answer: what was on its way is marked, and the next run begins only now.
      this.busy = false;
      this.onIdle();
    } else if (errno !== 0) {
      this.onError(errno);
    } else {
      this.busy = false;
      this.onDurable(epoch);
      this.pump();
    }
  }

  private letGo(): void {
    this.releaseSlabs?.();
    this.releaseSlabs = null;
  }
}
