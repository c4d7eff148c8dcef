/**
 * Who may come in: the limits on connections (server-limits.ts), counted.
 *
 * Invariants:
 * - A client that was admitted counts until `left`, and as one that shakes hands until `chose` or `left`.
 * - At most `limits.handshakes` shake hands: the oldest has to go for one more, so that clients which say nothing
 *   cannot keep others out (CVE-2024-7409).
 */
import assert from 'node:assert';
import type { NbdLimits } from './server-limits.ts';

/** What happened to clients since the server was made. */
export interface ClientCounters {
  /** Let in, and refused, at accept. */
  accepted: number;
  refused: number;
  /** Handshakes that the server ended: malformed, too slow, too many. */
  failed: number;
  /** Times that an export was refused to a client by its rules. */
  denied: number;
}

interface Client {
  /** As `Connection.remoteIp`. */
  readonly remoteIp: string | null;
}

export class Admission<C extends Client> {
  private readonly limits: NbdLimits;
  private readonly clients = new Set<C>();
  /** Oldest first. */
  private readonly shakingHands = new Set<C>();
  private readonly perAddress = new Map<string, number>();

  constructor(limits: NbdLimits) {
    this.limits = limits;
  }

  get all(): ReadonlySet<C> {
    return this.clients;
  }

  get handshakes(): number {
    return this.shakingHands.size;
  }

  /** Why a client from there cannot come in now, or null. */
  refusal(remoteIp: string | null): string | null {
    const { connections, connectionsPerClient } = this.limits;
    if (this.clients.size >= connections) return `more than ${connections} connections`;
    if (remoteIp === null || this.countOf(remoteIp) < connectionsPerClient) return null;
    return `more than ${connectionsPerClient} connections from ${remoteIp}`;
  }

  /** Counts a client; returns the one whose handshake has to end for it, or null. */
  enter(client: C): C | null {
    assert(!this.clients.has(client), 'a client comes in once');
    this.clients.add(client);
    this.shakingHands.add(client);
    if (client.remoteIp !== null) this.count(client.remoteIp, 1);
    if (this.shakingHands.size <= this.limits.handshakes) return null;
    const [oldest] = this.shakingHands;
    assert(oldest !== undefined && oldest !== client, 'there is room for one handshake');
    this.shakingHands.delete(oldest);
    return oldest;
  }

  /** The handshake is over. */
  chose(client: C): void {
    this.shakingHands.delete(client);
  }

  left(client: C): void {
    if (!this.clients.delete(client)) return;
    this.shakingHands.delete(client);
    if (client.remoteIp !== null) this.count(client.remoteIp, -1);
  }

  private countOf(remoteIp: string): number {
    return this.perAddress.get(remoteIp) ?? 0;
  }

  /** Addresses without clients are forgotten: the map stays as small as the number of clients. */
  private count(remoteIp: string, change: 1 | -1): void {
    const count = this.countOf(remoteIp) + change;
    assert(count >= 0, 'every client leaves once');
    if (count === 0) this.perAddress.delete(remoteIp);
    else this.perAddress.set(remoteIp, count);
  }
}
