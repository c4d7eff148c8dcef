/**
 * Expands compressed payloads on their way out of a link.
 *
 * Invariants:
 * - A frame is passed on when its payload is whole again, exactly as long as its header said; frames may overtake each other.
 * - The memory for a payload is taken when its turn comes, and not before the other side released enough of what it has: so
 *   a small frame that expands to a large one cannot take more memory than a large one.
 * - Many frames that wait make the link stop reading; too many end it.
 * - After `stop` nothing is passed on; what is under way gives its memory back when it is done.
 */
import {
  LINK_COMPRESSED_FRAMES_HIGH,
  LINK_COMPRESSED_FRAMES_MAX,
  LINK_EXPANDED_BYTES_MAX,
  LINK_EXPANDING_MAX,
} from '../../io/limits.ts';
import type { Compressor, Expansion } from '../../workers/compressor.ts';
import { COMPRESSED } from './frame-kinds.ts';
import type { FrameHeader } from './link-types.ts';
import type { PayloadPool, PooledPayload } from './payload-pool.ts';

export interface ExpanderOwner {
  expanded(header: FrameHeader, payload: PooledPayload): void;
  /** The other side sent what is nothing compressed. */
  notExpanded(what: string): void;
  /** Nobody is there who expands. */
  cannotExpand(): void;
  /** Fewer wait than made the link stop reading. */
  expanderHasRoom(): void;
  /** Nothing waits, and nothing is under way. */
  expanderIdle(): void;
}

interface Waiting {
  readonly header: FrameHeader;
  readonly packed: PooledPayload;
}

export class FrameExpander {
  private readonly compressor: Compressor;
  private readonly pool: PayloadPool;
  private readonly owner: ExpanderOwner;
  /** From `first` on. */
  private waiting: Waiting[] = [];
  private first = 0;
  /** Memory of the payloads that wait. */
  private waitingBytes = 0;
  private working = 0;
  private full = false;
  private stopped = false;

  constructor(compressor: Compressor, pool: PayloadPool, owner: ExpanderOwner) {
    this.compressor = compressor;
    this.pool = pool;
    this.owner = owner;
    pool.onReleased = () => this.next();
  }

  get idle(): boolean {
    return this.working === 0 && this.count === 0;
  }

  /** Nothing more should be read until `expanderHasRoom`. */
  get isFull(): boolean {
    return this.full;
  }

  private get count(): number {
    return this.waiting.length - this.first;
  }

  /** Takes a frame and its payload. `header` is the expander's own. */
  take(header: FrameHeader, packed: PooledPayload): void {
    if (this.stopped) return packed.release();
    this.waiting.push({ header, packed });
    this.waitingBytes += packed.buffer.length;
    if (this.count >= LINK_COMPRESSED_FRAMES_HIGH) this.full = true;
    if (this.count > LINK_COMPRESSED_FRAMES_MAX) {
      return this.owner.notExpanded(`more than ${LINK_COMPRESSED_FRAMES_MAX} frames at once`);
    }
    this.next();
  }

  /** There may be memory again. */
  resume(): void {
    this.next();
  }

  stop(): void {
    this.stopped = true;
    const waiting = this.waiting.slice(this.first);
    this.forget();
    for (const { packed } of waiting) packed.release();
  }

  private forget(): void {
    this.waiting = [];
    this.first = 0;
    this.waitingBytes = 0;
  }

  private next(): void {
    while (!this.stopped && this.working < LINK_EXPANDING_MAX && this.hasMemory) {
      const next = this.shift();
      if (next === null) return;
      this.working += 1;
      void this.expand(next);
    }
  }

  /** What is not waiting may be no more than this; a payload in work has its memory twice. */
  private get hasMemory(): boolean {
    if (this.pool.lentBytes - this.waitingBytes >= LINK_EXPANDED_BYTES_MAX) return false;
    return !this.pool.nodeIsFull();
  }

  private shift(): Waiting | null {
    const next = this.waiting[this.first];
    if (next === undefined) return null;
    this.first += 1;
    this.waitingBytes -= next.packed.buffer.length;
    if (this.count === 0) this.forget();
    // A list that never runs empty is cut now and then.
    else if (this.first >= LINK_COMPRESSED_FRAMES_HIGH) {
      this.waiting = this.waiting.slice(this.first);
      this.first = 0;
    }
    if (this.full && this.count <= LINK_COMPRESSED_FRAMES_HIGH / 2) {
      this.full = false;
      this.owner.expanderHasRoom();
    }
    return next;
  }

  private async expand({ header, packed }: Waiting): Promise<void> {
    const plain = this.pool.take(header.length);
    const from = packed.buffer.subarray(0, packed.length);
    const outcome = await this.compressor.expand(from, plain.buffer.subarray(0, plain.length));
    this.working -= 1;
    packed.release();
    if (this.stopped) return plain.release();
    this.tell(outcome, header, plain);
    this.next();
    if (this.idle && !this.stopped) this.owner.expanderIdle();
  }

  private tell(outcome: Expansion, header: FrameHeader, plain: PooledPayload): void {
    if (outcome === 'whole') {
      return this.owner.expanded({ ...header, flags: header.flags & ~COMPRESSED }, plain);
    }
    plain.release();
    if (outcome === 'broken') this.owner.notExpanded('a payload that is nothing compressed');
    else this.owner.cannotExpand();
  }
}
