/**
 * Memory of the payloads that came over all links of a node.
 *
 * Invariants:
 * - From LINK_NODE_BYTES_HIGH on, links that hold more than LINK_SHARE_BYTES_MIN are not read, until it fell to
 *   LINK_NODE_BYTES_LOW, or they hold less. So a few links that are slow to let go hold up the others, but not for good.
 * - Of those that are not read, one at a time has its turn, for LINK_TURN_MS: it is read as if it were alone, so that what it
 *   holds in part becomes whole and can be let go of. So no link waits for itself, or for another, for ever.
 * - Nothing is done and no timer runs while there is room.
 * - What links keep for reuse counts where it is asked whether one may keep much (`isRoomy`), and holds up none.
 */
import type { Clock, Timer } from '../../io/clock.ts';
import {
  LINK_NODE_BYTES_HIGH,
  LINK_NODE_BYTES_LOW,
  LINK_SHARE_BYTES_MIN,
  LINK_TURN_MS,
} from '../../io/limits.ts';

/** The memory of one link. */
export interface MemoryMember {
  readonly lentBytes: number;
  /** It may be read again; whether that is so is asked again. */
  roomAgain(): void;
}

export class LinkMemory {
  private readonly clock: Clock;
  private total = 0;
  /** Kept for reuse, over all links. */
  private idle = 0;
  private full = false;
  /** Not read, in the order of their turns. */
  private readonly held = new Set<MemoryMember>();
  private turn: MemoryMember | null = null;
  private timer: Timer | null = null;

  constructor(clock: Clock) {
    this.clock = clock;
  }

  /** Bytes in the hands of owners, over all links. */
  get bytes(): number {
    return this.total;
  }

  get idleBytes(): number {
    return this.idle;
  }

  /** Whether so much more may be kept for reuse, beyond the little that each link may keep. */
  isRoomy(bytes: number): boolean {
    return this.total + this.idle + bytes <= LINK_NODE_BYTES_HIGH;
  }

  /** A link keeps so much more for reuse, or less. */
  keeps(more: number): void {
    this.idle += more;
  }

  took(bytes: number): void {
    this.total += bytes;
    if (this.total >= LINK_NODE_BYTES_HIGH) this.full = true;
  }

  gave(member: MemoryMember, bytes: number): void {
    this.total -= bytes;
    if (!this.full) return;
    if (this.total <= LINK_NODE_BYTES_LOW) return this.open();
    if (member.lentBytes < LINK_SHARE_BYTES_MIN && this.held.delete(member)) member.roomAgain();
  }

  /** Whether nothing more should be read for this one; if so, it is told when that changes. */
  holds(member: MemoryMember): boolean {
    if (!this.full || this.turn === member) return false;
    if (member.lentBytes < LINK_SHARE_BYTES_MIN) return false;
    this.held.add(member);
    this.timer ??= this.clock.after(LINK_TURN_MS, this.nextTurn);
    return true;
  }

  /** Its link is over. What it still has is given back later. */
  forget(member: MemoryMember): void {
    this.held.delete(member);
    if (this.turn === member) this.turn = null;
  }

  private open(): void {
    this.full = false;
    this.turn = null;
    this.timer?.cancel();
    this.timer = null;
    const held = [...this.held];
    this.held.clear();
    for (const member of held) member.roomAgain();
  }

  private readonly nextTurn = (): void => {
    this.timer = null;
    const [next] = this.held;
    this.turn = next ?? null;
    if (next === undefined) return;
    this.held.delete(next);
    // Also when nobody else waits: its turn ends, and it asks for another.
    this.timer = this.clock.after(LINK_TURN_MS, this.nextTurn);
    next.roomAgain();
  };
}
