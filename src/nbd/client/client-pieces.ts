/**
 * One request too large for the wire, as pieces that go one after another, a few at a time.
 *
 * Invariants:
 * - At least one piece is on its way until the callback, which comes once.
 * - After the first error no further piece is sent; the callback tells that error.
 */
import assert from 'node:assert';
import { NBD_CLIENT_PIECES_IN_FLIGHT_MAX } from '../../io/limits.ts';
import type { RequestCallback } from './client-requests.ts';

export interface PiecedRequest {
  /** Bytes in all, and of each piece but the last. */
  readonly length: number;
  readonly pieceBytes: number;
  /** Sends the piece `[from .. from + length)`, relative to the request. */
  issue(from: number, length: number, callback: RequestCallback): void;
  /** Whether there is room for more than the one piece that is always allowed. */
  roomForMore(): boolean;
  readonly callback: RequestCallback;
}

export class Pieces {
  private readonly request: PiecedRequest;
  private issued = 0;
  private inFlight = 0;
  private errno = 0;

  private constructor(request: PiecedRequest) {
    assert(request.pieceBytes > 0, 'pieces have bytes');
    this.request = request;
  }

  static start(request: PiecedRequest): void {
    new Pieces(request).issueMore();
  }

  private issueMore(): void {
    const { request } = this;
    while (this.issued < request.length && this.errno === 0) {
      if (this.inFlight >= NBD_CLIENT_PIECES_IN_FLIGHT_MAX) return;
      if (this.inFlight > 0 && !request.roomForMore()) return;
      const from = this.issued;
      const length = Math.min(request.pieceBytes, request.length - from);
      this.issued += length;
      this.inFlight += 1;
      request.issue(from, length, this.ended);
    }
  }

  private readonly ended = (errno: number): void => {
    this.inFlight -= 1;
    if (this.errno === 0) this.errno = errno;
    this.issueMore();
    if (this.inFlight === 0) this.request.callback(this.errno);
  };
}
