/**
 * Shares of the thread pool, which is one for the whole process: cold reads, and writes to a disk that pushes
 * back, may keep every thread waiting; syncs and other work then stand behind all of them.
 *
 * Invariants:
 * - At most `limit` pieces of work of a lane are handed to the pool at one time; the rest wait in order.
 * - Work that waits is bounded by who asks for it: requests in flight.
 */
import assert from 'node:assert';

/** Threads that libuv makes when nothing says otherwise. */
const THREADS_DEFAULT = 4;

export class PoolLane {
  private running = 0;
  private waiting: (() => void)[] = [];
  private head = 0;
  private readonly limit: number;

  constructor(limit: number) {
    assert(limit >= 1, 'a lane lets something through');
    this.limit = limit;
  }

  /** Starts the work now or later; `ended` is called when it is over. */
  enter(start: () => void): void {
    if (this.running >= this.limit) {
      this.waiting.push(start);
      return;
    }
    this.running += 1;
    start();
  }

  ended(): void {
    assert(this.running > 0, 'work ended that never began');
    const next = this.waiting[this.head];
    if (next === undefined) {
      this.running -= 1;
      return;
    }
    this.head += 1;
    if (this.head === this.waiting.length) {
      this.waiting = [];
      this.head = 0;
    } else if (this.head >= 1024) {
      this.waiting = this.waiting.slice(this.head);
      this.head = 0;
    }
    next();
  }
}

/** Threads of the pool: libuv reads the same variable, once, before this program begins. */
function threads(): number {
  const size = Number(process.env['UV_THREADPOOL_SIZE'] ?? THREADS_DEFAULT);
  return Number.isInteger(size) && size > 0 ? size : THREADS_DEFAULT;
}

/** Three quarters of the threads: each waits for the disk. */
export const readLane: PoolLane = new PoolLane(Math.max(1, Math.floor((threads() * 3) / 4)));
/** Half of them: writes to one file wait for each other anyway. */
export const writeLane: PoolLane = new PoolLane(Math.max(1, Math.floor(threads() / 2)));
