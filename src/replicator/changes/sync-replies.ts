/**
 * Replies that wait for synchronous mirrors: a write's until each holds it, a flush's until each has it durable.
 *
 * Invariants:
 * - A mirror that its policy lets degrade is waited for SYNC_DEADLINE_MS at most, and then given up (design section 8).
 * - Without synchronous mirrors nothing waits.
 */
import type { Clock } from '../../io/clock.ts';
import { PENDING, type DeviceRequest } from '../../io/device.ts';
import { SYNC_DEADLINE_MS } from '../../io/limits.ts';
import type { Mirror } from '../mirror/mirror.ts';
import { SyncWaiters, type SyncLevel } from './sync-waiters.ts';

export class SyncReplies {
  /** Whether there is a synchronous mirror. */
  needed = false;
  private readonly waiters = new SyncWaiters();
  private readonly clock: Clock;
  private readonly mirrors: readonly Mirror[];
  private readonly wakeSoon: () => void;

  constructor(options: { clock: Clock; mirrors: readonly Mirror[]; wakeSoon: () => void }) {
    this.clock = options.clock;
    this.mirrors = options.mirrors;
    this.wakeSoon = options.wakeSoon;
  }

  get empty(): boolean {
    return this.waiters.empty;
  }

  /** Keeps the request until the mirrors have its epoch, then completes it; or answers 0: they have. */
  wait(request: DeviceRequest, level: SyncLevel): number {
    if (!this.needed || this.satisfied(level, request.epoch)) return 0;
    this.waiters.add(request, level, request.epoch, this.clock.now());
    this.wakeSoon();
    return PENDING;
  }

  /** Some mirror has more than before, or is not waited for any more. */
  progressed(): void {
    if (!this.waiters.empty) this.waiters.release(this.satisfied);
  }

  /** A mirror that keeps the host waiting too long is given up, if its policy says so. Called now and then. */
  tick(now: number): void {
    this.waiters.overdue(now - SYNC_DEADLINE_MS, (level, epoch) => {
      for (const mirror of this.mirrors) {
        // Others may be what the host waits for: one that has the epoch is not to blame.
        if (!mirror.isWaitedFor || mirror.has(epoch, level)) continue;
        if (mirror.stallPolicy !== 'degrade') continue;
        mirror.stalled(`no answer for ${SYNC_DEADLINE_MS / 1000} s; writes go on without it`);
      }
    });
  }

  private readonly satisfied = (level: SyncLevel, epoch: number): boolean =>
    this.mirrors.every((mirror) => !mirror.isWaitedFor || mirror.has(epoch, level));
}
