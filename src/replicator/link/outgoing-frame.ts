/**
 * A frame on its way out: its header, and how many of its parts the connection still uses.
 *
 * Invariants:
 * - `parted` is told once for each frame, when no part of it is in use any more.
 * - The memory of frames is used again; sending one takes none.
 */
import assert from 'node:assert';
import { LINK_IDLE_FRAMES_MAX } from '../../io/limits.ts';
import { newHeaderMemory, type HeaderMemory } from './frame.ts';

export interface FrameOwner {
  /** Nothing of the frame is in use; it is given back to the pool after this. */
  parted(frame: OutgoingFrame): void;
}

export class OutgoingFrame {
  readonly header: HeaderMemory = newHeaderMemory();
  /** Bytes on the wire. */
  bytes = 0;
  /** The same before compression. */
  plainBytes = 0;
  /** What to tell the sender, if it asked. */
  sent: (() => void) | null = null;
  /** Who is told of the end. */
  owner: FrameOwner | null = null;
  /** Parts in use. */
  parts = 0;
  private readonly pool: OutgoingPool;

  constructor(pool: OutgoingPool) {
    this.pool = pool;
  }

  /** For the connection: one part is free again. */
  readonly partSent = (): void => {
    assert(this.parts > 0, 'each part is sent once');
    this.parts -= 1;
    if (this.parts > 0) return;
    const { owner } = this;
    assert(owner !== null, 'a frame on its way has an owner');
    owner.parted(this);
    this.owner = null;
    this.sent = null;
    this.pool.giveBack(this);
  };
}

export class OutgoingPool {
  private readonly idle: OutgoingFrame[] = [];

  take(): OutgoingFrame {
    return this.idle.pop() ?? new OutgoingFrame(this);
  }

  giveBack(frame: OutgoingFrame): void {
    if (this.idle.length < LINK_IDLE_FRAMES_MAX) this.idle.push(frame);
  }
}
