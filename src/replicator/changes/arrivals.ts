/**
 * Changes that wait in front of a mirrored volume, and ranges that a change of many parts has claimed.
 *
 * Invariants (I2):
 * - A change goes only when no earlier one that overlaps it waits or has claimed its range.
 * - The parts of a change have its place in the order: what came later waits for all of them.
 * - The list is as long as the in-flight limits of the sessions allow; nobody scans it when it is empty.
 */
import type { DeviceRequest } from '../../io/device.ts';

/** A place in the order of arrival; it may cover a range until it is given back. */
export interface Claim {
  readonly ticket: number;
  readonly offset: number;
  readonly end: number;
}

export interface Waiting {
  readonly request: DeviceRequest;
  /** Applies the request; returns its status or PENDING. */
  readonly apply: (request: DeviceRequest) => number;
  readonly ticket: number;
}

export class Arrivals {
  private readonly entries = new Set<Waiting>();
  private readonly claims = new Set<Claim>();
  private nextTicket = 1;

  /** Nothing waits, and nothing is claimed. */
  get clear(): boolean {
    return this.entries.size === 0 && this.claims.size === 0;
  }

  get waiting(): Iterable<Waiting> {
    return this.entries;
  }

  get waitingCount(): number {
    return this.entries.size;
  }

  /** Whether something of the range waits or is claimed; only what came before `ticket` counts, if it is given. */
  holds(offset: number, end: number, ticket: number = Number.POSITIVE_INFINITY): boolean {
    for (const claim of this.claims) {
      if (claim.ticket < ticket && claim.offset < end && offset < claim.end) return true;
    }
    for (const entry of this.entries) {
      const { request } = entry;
      const overlaps = request.offset < end && offset < request.offset + request.length;
      if (overlaps && entry.ticket < ticket) return true;
    }
    return false;
  }

  /** `claim`: what the request is a part of. */
  add(
    request: DeviceRequest,
    apply: (request: DeviceRequest) => number,
    claim: Claim | null,
  ): void {
    this.entries.add({ request, apply, ticket: claim?.ticket ?? this.take() });
  }

  claim(offset: number, end: number): Claim {
    const claim = { ticket: this.take(), offset, end };
    this.claims.add(claim);
    return claim;
  }

  /** Those who waited for the claim may go: `letGo` follows. */
  giveBack(claim: Claim): void {
    this.claims.delete(claim);
  }

  /** Hands over what `may` go, in order of arrival. `go` may add to the list. */
  letGo(may: (request: DeviceRequest) => boolean, go: (entry: Waiting) => void): void {
    for (const entry of this.entries) {
      const { offset, length } = entry.request;
      if (!may(entry.request)) continue;
      if (this.holds(offset, offset + length, entry.ticket)) continue;
      this.entries.delete(entry);
      go(entry);
    }
  }

  /** Takes out what `accept` says. */
  remove(accept: (request: DeviceRequest) => boolean): Waiting[] {
    const removed = [...this.entries].filter(({ request }) => accept(request));
    for (const entry of removed) this.entries.delete(entry);
    return removed;
  }

  private take(): number {
    this.nextTicket += 1;
    return this.nextTicket;
  }
}
