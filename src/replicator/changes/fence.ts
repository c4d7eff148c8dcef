/**
 * Keeps changes from a volume that another node may have gone on from.
 *
 * Invariants (I7):
 * - From the moment at which a newer generation is heard of no change that comes is applied or answered, until an operator
 *   decides. That is recorded: it holds for every run of the process that follows.
 * - A process that begins asks its mirrors first: changes wait until each has answered or could not be reached, but no longer
 *   than FENCE_ASK_MS_MAX.
 * - What waits passes in the order in which it came. It is bounded by the in-flight limits of the sessions that sent it; what
 *   belongs to a session that ends is answered ESHUTDOWN. Behind `close` nothing passes any more.
 */
import type { Clock, Timer } from '../../io/clock.ts';
import { PENDING, Status, type DeviceRequest } from '../../io/device.ts';
import { FENCE_ASK_MS_MAX } from '../../io/limits.ts';
import type { Metadata } from '../../volume/log/metadata.ts';

interface Held {
  readonly request: DeviceRequest;
  readonly apply: (request: DeviceRequest) => number;
}

export class Fence {
  /** Changes are held. */
  up: boolean;
  private held: Held[] = [];
  private why: string | null;
  /** They are, while it is not known whether a mirror took over. */
  private paused: boolean;
  /** Mirrors that may know of a newer generation. */
  private readonly unheard = new Set<object>();
  private timer: Timer | null = null;
  private closed = false;
  private readonly metadata: Metadata;
  private readonly clock: Clock;

  constructor(metadata: Metadata, clock: Clock) {
    this.metadata = metadata;
    this.clock = clock;
    this.why = metadata.state.fenced;
    this.paused = metadata.state.handover !== null;
    this.up = this.why !== null || this.paused;
  }

  /** Why an operator has to decide; null: nobody has to. */
  get reason(): string | null {
    if (this.why !== null || !this.paused || this.metadata.state.handover === null) return this.why;
    return 'it was handed over to a mirror, and it is not known whether that took over';
  }

  /** Changes wait until `unpause`. */
  pause(): void {
    this.paused = true;
    this.up = true;
  }

  unpause(): void {
    this.paused = false;
    this.letGo();
  }

  /** Keeps the change until it may be applied, then applies and completes it. */
  hold(request: DeviceRequest, apply: (request: DeviceRequest) => number): number {
    if (this.closed || request.ending) return Status.ESHUTDOWN;
    request.retain();
    this.held.push({ request, apply });
    return PENDING;
  }

  /** Holds changes until `heard` was called for each of these, or the time is over. */
  ask(mirrors: Iterable<object>): void {
    for (const mirror of mirrors) this.unheard.add(mirror);
    if (this.unheard.size === 0) return;
    this.up = true;
    this.timer = this.clock.after(FENCE_ASK_MS_MAX, () => {
      this.unheard.clear();
      this.letGo();
    });
  }

  /** It answered, could not be reached, or is none any more. */
  heard(mirror: object): void {
    if (this.unheard.delete(mirror)) this.letGo();
  }

  /** Somebody has a newer generation. Returns whether that is news. */
  raise(reason: string): boolean {
    if (this.closed || this.why !== null) return false;
    this.why = reason;
    this.up = true;
    this.metadata.append({ kind: 'fenced', reason });
    // What does not fit on the disk now goes with the next commit; until then every start hears of it again.
    this.metadata.commit(() => {});
    return true;
  }

  /** The operator decided, and that is recorded: a generation was opened here. */
  lower(): void {
    this.why = null;
    this.paused = false;
    this.letGo();
  }

  /** Sessions end: their requests wait no longer. */
  ending(): void {
    if (this.held.length === 0) return;
    const { held } = this;
    this.held = held.filter(({ request }) => !request.ending);
    for (const { request } of held) {
      if (request.ending) request.complete(Status.ESHUTDOWN);
    }
  }

  /** For good: what waits, and what comes, is answered ESHUTDOWN. */
  close(): void {
    this.closed = true;
    this.up = true;
    this.timer?.cancel();
    for (const { request } of this.held.splice(0)) request.complete(Status.ESHUTDOWN);
  }

  private letGo(): void {
    if (this.closed || this.why !== null || this.paused || this.unheard.size > 0) return;
    this.up = false;
    this.timer?.cancel();
    const { held } = this;
    this.held = [];
    for (const { request, apply } of held) {
      const status = apply(request);
      if (status !== PENDING) request.complete(status);
    }
  }
}
