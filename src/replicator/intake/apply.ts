/**
 * Changes of a primary, applied to the volume: entries and zeroed ranges, in the order in which they are handed over.
 *
 * Invariants:
 * - Changes that overlap end in their order, the others side by side: the volume sees to that (I2).
 * - A payload is in use until its changes ended, also when one of them failed; then it is released.
 * - What is handed over was judged before (`faultInFrame`).
 * - A table of ranges, each of which may be the whole volume, is handed over a part each turn; what comes later waits behind it.
 * - Requests are made once and used again. At most INTAKE_CHANGES_IN_FLIGHT_MAX and those of one payload are on their way.
 */
import assert from 'node:assert';
import { DeviceRequest, PENDING, Status } from '../../io/device.ts';
import type { Completer } from '../../io/device.ts';
import { INTAKE_CHANGES_IN_FLIGHT_MAX, INTAKE_RANGES_PER_TURN_MAX } from '../../io/limits.ts';
import { faultInEntries, visitEntries } from '../link/entries.ts';
import { FrameKind } from '../link/link-types.ts';
import type { ReceivedPayload } from '../link/link-types.ts';
import { RANGE_BYTES, faultInRanges, visitRanges } from '../link/ranges.ts';

/** What changes are applied to: a volume. */
export interface ChangeTarget {
  write(request: DeviceRequest): number;
  zero(request: DeviceRequest): number;
}

/** Why a payload of this kind cannot be changes of a volume of `sizeBytes`; null: it can. */
export function faultInFrame(
  kind: FrameKind,
  { buffer, length }: ReceivedPayload,
  sizeBytes: number,
): string | null {
  if (kind === FrameKind.DATA || kind === FrameKind.RUN_DATA) {
    return faultInEntries(buffer, length, sizeBytes);
  }
  if (kind === FrameKind.RANGES || kind === FrameKind.RUN_RANGES) {
    return faultInRanges(buffer, length, sizeBytes);
  }
  return null;
}

/** The changes of one payload, on their way. */
interface Batch {
  pending: number;
  status: number;
  done: (status: number) => void;
}

/** A payload that was not handed over yet, or not to its end. */
interface Handing {
  readonly kind: FrameKind;
  readonly payload: ReceivedPayload;
  readonly batch: Batch;
  /** Bytes of a table that were. */
  at: number;
}

const TURN_BYTES = INTAKE_RANGES_PER_TURN_MAX * RANGE_BYTES;

class Change extends DeviceRequest {
  batch: Batch | null = null;

  /** The payload stays where it is until its changes ended. */
  override retain(): void {}
}

const EMPTY = Buffer.alloc(0);

export class Applier {
  private readonly target: ChangeTarget;
  private readonly spare: Change[] = [];
  private pending = 0;
  private waiting: (() => void)[] = [];
  /** The payload that is handed over in this moment. */
  private batch: Batch | null = null;
  /** In their order; a turn for the first is on its way. */
  private readonly handing: Handing[] = [];
  private readonly soon: (callback: () => void) => void;

  /** `soon`: as that of a clock. */
  constructor(target: ChangeTarget, soon: (callback: () => void) => void) {
    this.target = target;
    this.soon = soon;
  }

  /** Changes that the volume has not answered, and payloads that it has not got yet. */
  get inFlight(): number {
    return this.pending + this.handing.length;
  }

  /** Resolves when more may be handed over. */
  async room(): Promise<void> {
    while (this.inFlight > INTAKE_CHANGES_IN_FLIGHT_MAX) await this.oneLess();
  }

  /** Resolves when nothing is on its way. */
  async idle(): Promise<void> {
    while (this.inFlight > 0) await this.oneLess();
  }

  /**
   * Hands over the changes of a payload and calls `done` when all of them ended: with 0, or the errno of one; perhaps before
   * it returned. The payload stays the caller's.
   */
  apply(kind: FrameKind, payload: ReceivedPayload, done: (status: number) => void): void {
    const handing = { kind, payload, batch: { pending: 1, status: Status.OK, done }, at: 0 };
    if (this.handing.length === 0 && this.handOver(handing)) {
      this.ended(handing.batch, Status.OK);
      return;
    }
    if (this.handing.push(handing) === 1) this.soon(this.goOn);
  }

  /** False: there is more of it, for another turn. */
  private handOver(handing: Handing): boolean {
    const { kind, payload, batch, at } = handing;
    const { buffer, length } = payload;
    this.batch = batch;
    if (kind === FrameKind.DATA || kind === FrameKind.RUN_DATA) {
      visitEntries(buffer, length, this.writeOne);
      handing.at = length;
    } else {
      const bytes = Math.min(length - at, TURN_BYTES);
      visitRanges(at === 0 ? buffer : buffer.subarray(at), bytes, this.zeroOne);
      handing.at += bytes;
    }
    this.batch = null;
    return handing.at === length;
  }

  private readonly goOn = (): void => {
    const [first] = this.handing;
    if (first === undefined) return;
    if (this.handOver(first)) {
      this.handing.shift();
      this.ended(first.batch, Status.OK);
      for (const resolve of this.waiting.splice(0)) resolve();
    }
    if (this.handing.length > 0) this.soon(this.goOn);
  };

  /** Makes all of a volume of `sizeBytes` read as zeroes; 0 or an errno. */
  clear(sizeBytes: number): Promise<number> {
    return new Promise((resolve) => {
      const batch: Batch = { pending: 1, status: Status.OK, done: resolve };
      this.batch = batch;
      this.zeroOne(0, sizeBytes, true);
      this.batch = null;
      this.ended(batch, Status.OK);
    });
  }

  private readonly writeOne = (
    offset: number,
    length: number,
    buffer: Buffer,
    start: number,
  ): void => {
    const change = this.take(offset, length);
    change.buffer = buffer;
    change.start = start;
    this.begun(change, this.target.write(change));
  };

  private readonly zeroOne = (offset: number, length: number, trim: boolean): void => {
    const change = this.take(offset, length);
    change.free = trim;
    this.begun(change, this.target.zero(change));
  };

  private take(offset: number, length: number): Change {
    const change = this.spare.pop() ?? new Change();
    change.offset = offset;
    change.length = length;
    change.batch = this.batch;
    change.free = false;
    change.push(this.done);
    return change;
  }

  private begun(change: Change, status: number): void {
    const { batch } = change;
    assert(batch, 'a change belongs to a payload');
    if (status === PENDING) {
      batch.pending += 1;
      this.pending += 1;
      return;
    }
    change.pop(this.done);
    if (status !== Status.OK && batch.status === Status.OK) batch.status = status;
    this.giveBack(change);
  }

  private readonly done: Completer = {
    completed: (request, status) => {
      const change = request as Change;
      const { batch } = change;
      assert(batch, 'a change belongs to a payload');
      this.giveBack(change);
      this.pending -= 1;
      this.ended(batch, status);
      for (const resolve of this.waiting.splice(0)) resolve();
    },
  };

  private ended(batch: Batch, status: number): void {
    if (status !== Status.OK && batch.status === Status.OK) batch.status = status;
    batch.pending -= 1;
    if (batch.pending === 0) batch.done(batch.status);
  }

  private giveBack(change: Change): void {
    change.buffer = EMPTY;
    change.batch = null;
    if (this.spare.length < INTAKE_CHANGES_IN_FLIGHT_MAX) this.spare.push(change);
  }

  private oneLess(): Promise<void> {
    return new Promise((resolve) => {
      this.waiting.push(resolve);
    });
  }
}
