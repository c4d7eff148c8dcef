/**
 * How one mirror stands: its state, what it is known to hold, and what went wrong last.
 *
 * Invariants:
 * - State changes go through `progress.step` only, and each is emitted as an event.
 */
import type { Contact } from '../contact/contact.ts';
import type { EventKind } from '../event-kinds.ts';
import { step, type MirrorEvent } from './progress.ts';
import type { MirrorState } from '../status.ts';

export class MirrorStanding {
  /** The mirror holds a state that the volume really had. */
  consistent = false;
  /** It has every epoch up to this one, durably; null: that is not known. */
  durableEpoch: number | null = null;
  lastError: string | null = null;
  /** What it did not do about a snapshot, and why. */
  lastRefusal: string | null = null;
  private current: MirrorState;
  readonly emit: (kind: EventKind, message: string) => void;

  constructor(state: MirrorState, emit: (kind: EventKind, message: string) => void) {
    this.current = state;
    this.emit = emit;
  }

  get state(): MirrorState {
    return this.current;
  }

  /** An operator has to resume it. */
  get away(): boolean {
    return this.current === 'paused' || this.current === 'diverged';
  }

  /** Returns whether the event meant anything in the present state. */
  transition(event: MirrorEvent, message: string): boolean {
    const next = step(this.current, event);
    if (next === null) return false;
    this.current = next;
    this.emit(event.kind === 'rested' ? 'mirror-rested' : `mirror-${next}`, message);
    return true;
  }

  /** Something went wrong. Returns whether that is news. */
  failed(message: string): boolean {
    const news = this.lastError !== message;
    this.lastError = message;
    return news;
  }

  /** What the mirror holds before anything is sent. */
  greet(contact: Contact): void {
    if (!contact.alwaysConsistent) return;
    this.consistent = contact.position !== null;
    this.durableEpoch = contact.position;
  }

  /** It holds this epoch, whole and durably. */
  arrived(epoch: number): void {
    this.durableEpoch = epoch;
    this.consistent = true;
  }

  /** Blocks of different moments will be on it. */
  unknown(): void {
    this.consistent = false;
    this.durableEpoch = null;
  }
}
