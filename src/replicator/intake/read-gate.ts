/**
 * Reads of a mirror's export, and the changes that take its content from one state of the primary to the next.
 *
 * Invariants (I3):
 * - While somebody is inside, no read is under way: a read sees one state, whole.
 * - Reads that come while one waits to enter, or is inside, wait until it left; then all of them go first. So a read waits
 *   for one change, and a change for the reads of one moment.
 * - While a change failed half-way, what is read is made whole with it (`patch`); where that cannot be (`torn`), reads are
 *   refused.
 * - Waiting reads are bounded by the in-flight limits of the sessions. Nothing is allocated for a read that need not wait.
 */
import assert from 'node:assert';
import { PENDING, Status } from '../../io/device.ts';
import type { Completer, DeviceRequest } from '../../io/device.ts';
import type { EpochPatch } from './epoch-patch.ts';

export class ReadGate {
  /** Why reads are refused; null: they are not. */
  torn: string | null = null;
  /** Put over what is read; null: the content is whole without. Set by whoever is inside. */
  patch: EpochPatch | null = null;
  /** Reads that the device has not answered. */
  private running = 0;
  private inside = false;
  private readonly waitingReads: DeviceRequest[] = [];
  private readonly waitingToEnter: (() => void)[] = [];
  /** Reads that waited are handed on in this moment. */
  private releasing = false;
  private readonly target: (request: DeviceRequest) => number;

  /** `target` reads: a status, or PENDING. */
  constructor(target: (request: DeviceRequest) => number) {
    this.target = target;
  }

  /** The content is that of one moment. */
  get whole(): boolean {
    return this.torn === null && this.patch === null;
  }

  /** A read would be handed on at once, and is answered from the volume alone. */
  get open(): boolean {
    return !this.inside && this.waitingToEnter.length === 0 && this.whole;
  }

  /** Reads, as a device does. */
  read(request: DeviceRequest): number {
    if (this.inside || this.waitingToEnter.length > 0) {
      request.retain();
      this.waitingReads.push(request);
      return PENDING;
    }
    return this.begin(request);
  }

  /** Resolves when no read is under way, and none begins until `leave`. */
  async enter(): Promise<void> {
    if (!this.inside && this.running === 0 && this.waitingToEnter.length === 0) {
      this.inside = true;
      return;
    }
    await new Promise<void>((resolve) => {
      this.waitingToEnter.push(resolve);
    });
    assert(this.inside, 'whoever waited was let in');
  }

  leave(): void {
    assert(this.inside, 'somebody is inside');
    this.inside = false;
    this.releasing = true;
    for (const request of this.waitingReads.splice(0)) {
      const status = this.begin(request);
      if (status !== PENDING) request.complete(status);
    }
    this.releasing = false;
    this.letIn();
  }

  private begin(request: DeviceRequest): number {
    if (this.torn !== null) return Status.EIO;
    request.push(this.done);
    const status = this.target(request);
    if (status === PENDING) {
      this.running += 1;
      return status;
    }
    request.pop(this.done);
    if (status === Status.OK) this.patch?.over(request);
    return status;
  }

  private readonly done: Completer = {
    completed: (request, status) => {
      this.running -= 1;
      if (status === Status.OK) this.patch?.over(request);
      request.complete(status);
      this.letIn();
    },
  };

  private letIn(): void {
    if (this.inside || this.releasing || this.running > 0) return;
    const next = this.waitingToEnter.shift();
    if (next === undefined) return;
    this.inside = true;
    next();
  }
}
