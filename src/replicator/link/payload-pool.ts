/**
 * Memory of the payloads that come over one link.
 *
 * Invariants:
 * - A payload is one owner's from `take` to `release`; giving it back twice is a programmer error.
 * - Memory is at most a quarter more than the payload, and a sixteenth: so what a sender may have unacknowledged fits
 *   below LINK_RECEIVED_BYTES_LOW, and a link that is not read is always read again.
 * - At most LINK_IDLE_BYTES_MAX are kept for reuse; while much is lent, more, but not more of both than LINK_RECEIVED_BYTES_LOW,
 *   and only while there is room in the memory of the node: what is left to the garbage collector and taken anew costs more than all
 *   else that is done with a payload.
 */
import assert from 'node:assert';
import {
  LINK_FRAME_BYTES_MAX,
  LINK_IDLE_BYTES_MAX,
  LINK_RECEIVED_BYTES_HIGH,
  LINK_RECEIVED_BYTES_LOW,
} from '../../io/limits.ts';
import type { ChecksumKind } from '../payload-checksum.ts';
import type { LinkMemory, MemoryMember } from './link-memory.ts';
import type { ReceivedPayload } from './link-types.ts';

const SIZE_MIN = 64;
const STEPS_PER_DOUBLING = 4;

/** Sizes in four steps for each doubling. The sixty-fourth more is for the headers between whole blocks. */
function classSizes(): readonly number[] {
  const sizes: number[] = [];
  for (let base = SIZE_MIN; ; base *= 2) {
    for (let step = 0; step < STEPS_PER_DOUBLING; step += 1) {
      const plain = base + (base / STEPS_PER_DOUBLING) * step;
      const size = Math.ceil(plain + plain / 64);
      sizes.push(size);
      if (size >= LINK_FRAME_BYTES_MAX) return sizes;
    }
  }
}

const SIZES = classSizes();

/** The first class that holds `bytes`: a binary search. */
function classFor(bytes: number): number {
  let low = 0;
  let high = SIZES.length - 1;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((SIZES[middle] ?? 0) >= bytes) high = middle;
    else low = middle + 1;
  }
  return low;
}

export class PooledPayload implements ReceivedPayload {
  readonly buffer: Buffer;
  /** Which list of the pool it belongs to. */
  readonly sizeClass: number;
  /** Bytes of the payload, from the start of the buffer. */
  length = 0;
  checksum = 0;
  checksumKind: ChecksumKind | null = null;
  private lent = false;
  private readonly pool: PayloadPool;

  constructor(pool: PayloadPool, sizeClass: number, capacity: number) {
    this.pool = pool;
    this.sizeClass = sizeClass;
    this.buffer = Buffer.allocUnsafeSlow(capacity);
  }

  lend(length: number): void {
    assert(!this.lent, 'a payload has one owner');
    this.lent = true;
    this.length = length;
    this.checksumKind = null;
  }

  release(): void {
    assert(this.lent, 'a payload is released once');
    this.lent = false;
    this.pool.giveBack(this);
  }
}

export class PayloadPool implements MemoryMember {
  /** Called whenever memory was given back. */
  onReleased: (() => void) | null = null;
  private readonly idle: PooledPayload[][] = SIZES.map(() => []);
  private readonly onRoom: () => void;
  private idleTotal = 0;
  private lentTotal = 0;
  private waiting = false;
  private left = false;
  private readonly memory: LinkMemory | null;

  /** `onRoom`: after it was full, there may be room. `memory`: of all links of the node; null: there is no bound but its own. */
  constructor(onRoom: () => void, memory: LinkMemory | null = null) {
    this.onRoom = onRoom;
    this.memory = memory;
  }

  /** Bytes of memory in the hands of owners. */
  get lentBytes(): number {
    return this.lentTotal;
  }

  get idleBytes(): number {
    return this.idleTotal;
  }

  /** Asked after bytes came: when true, nothing more is read until `onRoom`. */
  isFull(): boolean {
    if (this.lentTotal >= LINK_RECEIVED_BYTES_HIGH) this.waiting = true;
    return this.waiting || this.nodeIsFull();
  }

  /** The links of the node hold so much together that this one has to wait; then `onRoom` follows. */
  nodeIsFull(): boolean {
    return this.memory?.holds(this) === true;
  }

  /** For the memory of the node. */
  roomAgain(): void {
    this.onRoom();
  }

  /** The link is over: nothing more is taken, and nothing kept. */
  leave(): void {
    this.left = true;
    this.trim(0);
    this.memory?.forget(this);
  }

  /** Memory for a payload of 1 to LINK_FRAME_BYTES_MAX bytes. Its content is undefined. */
  take(length: number): PooledPayload {
    assert(length > 0 && length <= LINK_FRAME_BYTES_MAX, 'a payload is bounded');
    const sizeClass = classFor(length);
    const found = this.idle[sizeClass]?.pop();
    if (found !== undefined) this.keeps(-found.buffer.length);
    const payload = found ?? new PooledPayload(this, sizeClass, SIZES[sizeClass] ?? 0);
    payload.lend(length);
    this.lentTotal += payload.buffer.length;
    this.memory?.took(payload.buffer.length);
    return payload;
  }

  giveBack(payload: PooledPayload): void {
    const { length } = payload.buffer;
    this.lentTotal -= length;
    this.keep(payload, length);
    if (this.lentTotal === 0) this.trim(LINK_IDLE_BYTES_MAX);
    this.memory?.gave(this, length);
    if (this.waiting && this.lentTotal <= LINK_RECEIVED_BYTES_LOW) {
      this.waiting = false;
      this.onRoom();
    }
    this.onReleased?.();
  }

  /** What came last is likely to come again: it takes the place of what is kept most. */
  private keep(payload: PooledPayload, length: number): void {
    if (this.left) return;
    const isRoomy = this.memory?.isRoomy(length) !== false;
    const whileBusy = isRoomy ? LINK_RECEIVED_BYTES_LOW - this.lentTotal : 0;
    this.trim(Math.max(LINK_IDLE_BYTES_MAX, whileBusy) - length);
    this.idle[payload.sizeClass]?.push(payload);
    this.keeps(length);
  }

  private keeps(more: number): void {
    this.idleTotal += more;
    this.memory?.keeps(more);
  }

  private trim(most: number): void {
    while (this.idleTotal > most) this.dropOne();
  }

  private dropOne(): void {
    let largest = 0;
    let most = -1;
    for (const [sizeClass, list] of this.idle.entries()) {
      const bytes = list.length * (SIZES[sizeClass] ?? 0);
      if (bytes <= most) continue;
      most = bytes;
      largest = sizeClass;
    }
    const dropped = this.idle[largest]?.pop();
    assert(dropped !== undefined, 'what is kept is somewhere');
    this.keeps(-dropped.buffer.length);
  }
}
