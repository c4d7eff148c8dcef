/**
 * Requests whose answer waits for synchronous mirrors, in order.
 *
 * Invariant: epochs of waiting requests never fall from one to the next within a level, so releasing
 * from the front is enough.
 */
import type { DeviceRequest } from '../../io/device.ts';

/** `held`: the mirror has the write. `durable`: the mirror has flushed it. */
export type SyncLevel = 'held' | 'durable';

interface Waiter {
  readonly request: DeviceRequest;
  readonly epoch: number;
  readonly since: number;
}

export class SyncWaiters {
  private readonly held: Waiter[] = [];
  private readonly durable: Waiter[] = [];

  get empty(): boolean {
    return this.held.length === 0 && this.durable.length === 0;
  }

  /** Tells what requests wait for that came at `since` (the clock) or earlier: the first of each level. */
  overdue(since: number, visit: (level: SyncLevel, epoch: number) => void): void {
    const [held] = this.held;
    const [durable] = this.durable;
    if (held !== undefined && held.since <= since) visit('held', held.epoch);
    if (durable !== undefined && durable.since <= since) visit('durable', durable.epoch);
  }

  /** `epoch`: the last one that the request depends on; `now`: the clock. */
  add(request: DeviceRequest, level: SyncLevel, epoch: number, now: number): void {
    const queue = level === 'held' ? this.held : this.durable;
    // A local sync may overtake another one: then the later request waits a little longer than it has to.
    queue.push({ request, epoch: Math.max(epoch, queue.at(-1)?.epoch ?? 0), since: now });
  }

  /** Answers, oldest first, what `satisfied` says is where it has to be. */
  release(satisfied: (level: SyncLevel, epoch: number) => boolean): void {
    this.releaseFrom(this.held, 'held', satisfied);
    this.releaseFrom(this.durable, 'durable', satisfied);
  }

  private releaseFrom(
    queue: Waiter[],
    level: SyncLevel,
    satisfied: (level: SyncLevel, epoch: number) => boolean,
  ): void {
    let count = 0;
    for (const waiter of queue) {
      if (!satisfied(level, waiter.epoch)) break;
      count += 1;
    }
    for (const waiter of queue.splice(0, count)) waiter.request.complete(0);
  }
}
