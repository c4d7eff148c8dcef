/**
 * The bound on what all connections of a server hold together: payloads, data being read, replies not yet
 * sent, requests not yet parsed.
 *
 * Invariants:
 * - While the limit is reached only a connection that holds nothing may begin a request: each goes on, one
 *   request at a time, however much the others hold.
 * - Those that wait are woken one at a time, the longest waiting first, as long as memory is free. Whenever
 *   some wait and memory is free, a wake-up is on its way.
 */
import type { Clock } from '../../io/clock.ts';
import type { BufferPool } from '../transmission/buffer-pool.ts';

export interface MemoryWaiter {
  /** Memory was freed; it waits no longer. It may find none again, and wait again. */
  memoryFreed(): void;
}

export class MemoryLimit {
  private readonly clock: Clock;
  private readonly buffers: BufferPool;
  private readonly limitBytes: number;
  /** In the order in which they came. */
  private readonly waiters = new Set<MemoryWaiter>();
  private planned = false;
  private readonly wake: () => void = () => this.wakeFirst();

  constructor(clock: Clock, buffers: BufferPool, limitBytes: number) {
    this.clock = clock;
    this.buffers = buffers;
    this.limitBytes = limitBytes;
    buffers.onFreed = () => this.freed();
  }

  get reached(): boolean {
    return this.buffers.lentBytes >= this.limitBytes;
  }

  /** How many wait. */
  get waiting(): number {
    return this.waiters.size;
  }

  /** To be called when more memory than now is needed. Who waits already keeps its place. */
  wait(waiter: MemoryWaiter): void {
    this.waiters.add(waiter);
    this.freed();
  }

  /** It does not wait any more. */
  leave(waiter: MemoryWaiter): void {
    this.waiters.delete(waiter);
  }

  private freed(): void {
    if (this.waiters.size === 0 || this.planned || this.reached) return;
    this.planned = true;
    this.clock.soon(this.wake);
  }

  private wakeFirst(): void {
    this.planned = false;
    if (this.reached) return;
    for (const waiter of this.waiters) {
      this.waiters.delete(waiter);
      waiter.memoryFreed();
      break;
    }
    this.freed();
  }
}
