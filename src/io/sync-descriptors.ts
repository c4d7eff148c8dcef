/**
 * Descriptors of one file for syncs that run side by side.
 *
 * The system reports a failed write of a file once to each descriptor that it was opened with. Two syncs on one
 * descriptor could so both be about the same lost write, and only one would hear of it.
 *
 * Invariants:
 * - One sync is on its way for each descriptor. Where no further one can be opened, syncs wait for each other.
 * - A sync is never repeated, not even after EINTR: a second one may forget what the first could not write.
 */
import assert from 'node:assert';
import * as fs from 'node:fs';

type Callback = (error: NodeJS.ErrnoException | null) => void;

export class SyncDescriptors {
  private readonly own: number;
  private readonly opened: number[] = [];
  private readonly idle: number[];
  private readonly waiting: Callback[] = [];

  /** `own`: the descriptor of the file itself, which stays the caller's. */
  constructor(own: number) {
    this.own = own;
    this.idle = [own];
  }

  /** fdatasync on the pool; calls back later, never at once. */
  run(callback: Callback): void {
    const descriptor = this.idle.pop() ?? this.openAnother();
    if (descriptor === null) {
      this.waiting.push(callback);
      return;
    }
    fs.fdatasync(descriptor, (error) => {
      this.idle.push(descriptor);
      const next = this.waiting.shift();
      if (next !== undefined) this.run(next);
      callback(error);
    });
  }

  /** Closes what was opened here. No sync is on its way. */
  close(): void {
    assert.equal(this.idle.length, this.opened.length + 1, 'no sync is on its way');
    for (const descriptor of this.opened) fs.closeSync(descriptor);
  }

  /** The same file, whatever its name is by now; null where that cannot be had. */
  private openAnother(): number | null {
    try {
      const descriptor = fs.openSync(`/proc/self/fd/${this.own}`, 'r+');
      this.opened.push(descriptor);
      return descriptor;
    } catch {
      return null;
    }
  }
}
