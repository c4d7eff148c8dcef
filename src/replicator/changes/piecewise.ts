/**
 * A zeroing of a range so large that it is done part by part: each passes the gate, is applied and staged as a
 * change of its own, so that no step is longer than a part asks for.
 *
 * Invariants:
 * - The whole range is claimed until the end: what overlaps and came later waits (I2).
 * - Parts that read as zeroes already change nothing and cost a look at the map; unless they are to be provisioned.
 * - The request is answered once, with the first status that is not 0. FUA is done once, at the end.
 */
import { PENDING, Status, type Completer, type DeviceRequest } from '../../io/device.ts';
import { REGION_BYTES, ZERO_PART_BYTES } from '../../io/limits.ts';
import type { Claim } from './arrivals.ts';

export interface PiecewiseHost {
  readonly volume: { dataFrom(offset: number, end: number): number };
  readonly gate: { claim(offset: number, end: number): Claim; giveBack(claim: Claim): void };
  /** Runs later, in a turn of its own. */
  soon(callback: () => void): void;
  /** Zeroes one part; its status, or PENDING. */
  zeroPart(request: DeviceRequest, claim: Claim): number;
  /** Makes durable what was answered, here and on synchronous mirrors. */
  flush(request: DeviceRequest): number;
}

/** Parts answered at once, one after the other, before others have their turn. */
const PARTS_PER_TURN_MAX = 16;

export class Piecewise implements Completer {
  private readonly host: PiecewiseHost;
  private readonly request: DeviceRequest;
  private readonly claim: Claim;
  private readonly offset: number;
  private readonly end: number;
  private readonly fua: boolean;
  private position: number;

  /** Takes the request over: `begin` follows. */
  constructor(host: PiecewiseHost, request: DeviceRequest) {
    this.host = host;
    this.request = request;
    this.offset = request.offset;
    this.end = request.offset + request.length;
    this.fua = request.fua;
    this.position = request.offset;
    this.claim = host.gate.claim(this.offset, this.end);
    request.fua = false;
  }

  begin(): number {
    return this.proceed();
  }

  completed(_: DeviceRequest, status: number): void {
    this.answer(status === Status.OK ? this.nextTurn() : this.finish(status));
  }

  /** A part was answered later: its end was a turn of its own. */
  private nextTurn(): number {
    this.position = this.request.offset + this.request.length;
    return this.proceed();
  }

  private proceed(): number {
    const { request } = this;
    for (let parts = 0; this.setPart(); parts += 1) {
      if (parts === PARTS_PER_TURN_MAX) {
        this.host.soon(() => this.answer(this.proceed()));
        return PENDING;
      }
      request.push(this);
      const status = this.host.zeroPart(request, this.claim);
      if (status === PENDING) return PENDING;
      request.pop(this);
      if (status !== Status.OK) return this.finish(status);
      this.position = request.offset + request.length;
    }
    return this.finish(Status.OK);
  }

  /** Narrows the request to the next part; false when there is none. */
  private setPart(): boolean {
    const { request, end } = this;
    if (this.position < end && !request.noHole) {
      this.position = this.host.volume.dataFrom(this.position, end);
    }
    const { position } = this;
    if (position >= end) return false;
    const limit = Math.floor((position + ZERO_PART_BYTES) / REGION_BYTES) * REGION_BYTES;
    request.offset = position;
    request.length = Math.min(end, limit) - position;
    return true;
  }

  private finish(status: number): number {
    const { request } = this;
    request.offset = this.offset;
    request.length = this.end - this.offset;
    request.fua = this.fua;
    this.host.gate.giveBack(this.claim);
    return status === Status.OK && this.fua ? this.host.flush(request) : status;
  }

  private answer(status: number): void {
    if (status !== PENDING) this.request.complete(status);
  }
}
