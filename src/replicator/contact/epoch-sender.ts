/**
 * Streams epochs to one mirror: each is written, then flushed. While the flush of one is on its way the
 * next is written, unless a FLUSH or FUA of the host stands between them: so a mirror that loses power
 * holds, like a disk with a write cache, all that the host had flushed before any write that survived.
 *
 * Invariants:
 * - One epoch is being written at a time; the next begins when every request of it was answered. So
 *   overlapping writes of two epochs are applied in order.
 * - `durable` <= `held` <= the last closed epoch. Behind a barrier nothing is written before `durable`
 *   has reached it.
 * - Slabs of the epoch being written are held until the mirror answered every request of it, or the
 *   connection is over and nothing reads them any more.
 */
import assert from 'node:assert';
import type { Timer } from '../../io/clock.ts';
import {
  EPOCH_AGE_MS,
  EPOCH_BYTES_MAX,
  EPOCH_ENTRIES_MAX,
  NBD_PREPARED_REQUESTS_MAX,
} from '../../io/limits.ts';
import type { NbdClient } from '../../nbd/client/client.ts';
import type { Sender, SenderHooks } from './contact.ts';
import type { Epoch } from '../staging/epoch.ts';
import type { MirrorHost } from '../mirror/mirror-host.ts';
import { closesNow } from '../policy/policy.ts';
import { limitLookMs, type SendLimit } from '../pace/send-limit.ts';

assert(EPOCH_ENTRIES_MAX <= NBD_PREPARED_REQUESTS_MAX, 'an epoch fits into one prepared batch');

/** Epochs written without a flush, however small: zeroes have no bytes. */
const UNFLUSHED_EPOCHS_MAX = 256;

export class EpochSender implements Sender {
  /** Every write of the epochs up to this one was answered by the mirror. */
  held: number;
  /** The mirror flushed every epoch up to this one. */
  durable: number;
  private writing = false;
  private flushing = false;
  private stopped = false;
  /** A FLUSH or FUA of the host stands behind this epoch: it must be durable before the next is written. */
  private barrierAfter = 0;
  /** Payload held and not covered by a flush that was begun. */
  private unflushedBytes = 0;
  private ageTimer: Timer | null = null;
  /** Until more may be sent. */
  private limitTimer: Timer | null = null;
  private readonly limit: SendLimit | null;
  private readonly last: number | null;
  private releaseSlabs: (() => void) | null = null;
  private readonly host: MirrorHost;
  private readonly client: NbdClient;
  private readonly hooks: SenderHooks;

  constructor(options: {
    host: MirrorHost;
    client: NbdClient;
    /** The mirror has everything up to this epoch. */
    after: number;
    /** Nothing is sent of what comes behind this epoch; null: it follows. */
    last?: number | null;
    hooks: SenderHooks;
    /** Bytes a second; no limit if not given. */
    limit?: SendLimit | null;
  }) {
    this.limit = options.limit ?? null;
    this.host = options.host;
    this.client = options.client;
    this.held = options.after;
    this.last = options.last ?? null;
    this.durable = options.after;
    this.hooks = options.hooks;
  }

  private get busy(): boolean {
    return this.writing || this.flushing;
  }

  /**
   * Writes the next epoch if the link is free for it and there is one; flushes what is held when that is
   * due. Else sees to it that this is called again.
   */
  pump(): void {
    if (this.stopped || this.writing) return;
    if (this.durable >= this.barrierAfter && !this.isLimited()) {
      const { queue } = this.host;
      const next = this.held + 1;
      if (this.isWanted(next) && (next < queue.openNumber || this.closeOpen())) {
        const epoch = queue.epoch(next);
        assert(epoch !== null, 'epochs that are not held are in the queue');
        if (queue.fetch(epoch, this.fetched)) this.write(epoch);
      }
    }
    this.flushIfDue();
  }

  /** What waited on disk is in memory. */
  private readonly fetched = (): void => this.pump();

  /** The host flushed when `epoch` was the last one closed. Epochs that are not held yet carry the mark. */
  barrier(epoch: number): void {
    if (epoch <= this.held) this.barrierAfter = Math.max(this.barrierAfter, epoch);
    this.pump();
  }

  /** Nothing further is begun. Returns whether something is still on its way. */
  stop(): boolean {
    this.stopped = true;
    this.ageTimer?.cancel();
    this.limitTimer?.cancel();
    this.limitTimer = null;
    return this.busy;
  }

  /** The connection is over: nothing is on its way any more. */
  connectionOver(): void {
    this.stop();
    this.writing = false;
    this.flushing = false;
    this.letGo();
  }

  private isWanted(epoch: number): boolean {
    return this.last === null || epoch <= this.last;
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

  /** Nothing may be sent now; then it is looked at again. */
  private isLimited(): boolean {
    if (this.limitTimer !== null) return true;
    const waitMs = this.limit?.waitMs ?? 0;
    if (waitMs === 0) return false;
    this.limitTimer = this.host.surroundings.clock.after(limitLookMs(waitMs), () => {
      this.limitTimer = null;
      this.pump();
    });
    return true;
  }

  private write(epoch: Epoch): void {
    this.limit?.take(epoch.bytes);
    this.hooks.onSent(epoch.bytes);
    this.writing = true;
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
    if (!this.writing) return;
    this.writing = false;
    this.letGo();
    if (this.stopped) {
      if (!this.busy) this.hooks.onIdle();
    } else if (failure !== 0) {
      this.hooks.onError(failure);
    } else {
      this.held = epoch.number;
      if (epoch.barrier) this.barrierAfter = epoch.number;
      this.unflushedBytes += epoch.bytes;
      this.hooks.onHeld(epoch);
      this.pump();
    }
  }

  /**
   * One flush at a time. Due at once when the host waits for it or nothing else is to be done, else when
   * enough was written to be worth it.
   */
  private flushIfDue(): void {
    if (this.flushing || this.stopped || this.durable === this.held) return;
    const wanted = !this.writing || this.host.hasWaiters;
    const worth =
      this.unflushedBytes >= EPOCH_BYTES_MAX || this.held - this.durable >= UNFLUSHED_EPOCHS_MAX;
    if (!wanted && !worth) return;
    const target = this.held;
    this.flushing = true;
    this.unflushedBytes = 0;
    this.client.flush((errno) => this.flushed(target, errno));
  }

  private flushed(target: number, errno: number): void {
    if (!this.flushing) return;
    this.flushing = false;
    if (this.stopped) {
      // Whatever the answer: what was on its way is marked, and the next run begins only now.
      if (!this.busy) this.hooks.onIdle();
    } else if (errno !== 0) {
      this.hooks.onError(errno);
    } else {
      this.durable = target;
      this.hooks.onDurable();
      this.pump();
    }
  }

  private letGo(): void {
    this.releaseSlabs?.();
    this.releaseSlabs = null;
  }
}
