/**
 * Requests that wait until a volume may be used: what a promotion left in its journal is applied first.
 *
 * Invariants:
 * - What waits goes on in the order in which it came. It is bounded by the in-flight limits of the sessions; what belongs to a
 *   session that ends is answered ESHUTDOWN.
 */
import { PENDING, Status, type DeviceRequest } from '../../io/device.ts';

interface Held {
  readonly request: DeviceRequest;
  readonly apply: (request: DeviceRequest) => number;
}

export class StartHold {
  private held: Held[] = [];
  /** What is answered to whatever comes; null: it waits. */
  private refusal: number | null = null;

  /** Keeps the request until it may be applied, then applies and completes it. */
  hold(request: DeviceRequest, apply: (request: DeviceRequest) => number): number {
    if (this.refusal !== null) return this.refusal;
    if (request.ending) return Status.ESHUTDOWN;
    request.retain();
    this.held.push({ request, apply });
    return PENDING;
  }

  /** A session ends. */
  ending(): void {
    const ends = this.held.filter(({ request }) => request.ending);
    this.held = this.held.filter(({ request }) => !request.ending);
    for (const { request } of ends) request.complete(Status.ESHUTDOWN);
  }

  letGo(): void {
    for (const { request, apply } of this.held.splice(0)) {
      const status = apply(request);
      if (status !== PENDING) request.complete(status);
    }
  }

  /** Nothing that waits, or comes, is ever applied. */
  refuse(status: number): void {
    this.refusal = status;
    for (const { request } of this.held.splice(0)) request.complete(status);
  }
}
