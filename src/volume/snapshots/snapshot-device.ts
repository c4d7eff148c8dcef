/**
 * A snapshot as a block device: read-only, and the same bytes for as long as it exists.
 *
 * Invariants:
 * - Reads see the snapshot's layers wherever merging has moved its blocks.
 * - After `remove` every request is answered ESHUTDOWN, also one that is on its way: its layers may be merged from then on, and be
 *   written.
 */
import type { Clock } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import type { BlockDevice, DeviceRequest, StatusContext } from '../../io/device.ts';
import { AllocationContext } from '../allocation-context.ts';
import { ReadAhead } from '../read-ahead.ts';
import { Reader } from '../reader.ts';
import type { View } from '../layers/view.ts';

export class SnapshotDevice implements BlockDevice {
  readonly readOnly = true;
  readonly description: string;
  readonly view: View;
  private readonly reader: Reader;
  private readonly readAhead: ReadAhead;
  private readonly clock: Clock;
  private readonly contextList: readonly StatusContext[];
  private removed = false;

  /** `ended` is called when the pool has done something for it. */
  constructor(options: { view: View; description: string; clock: Clock; ended: () => void }) {
    const { view, clock, ended } = options;
    this.view = view;
    this.clock = clock;
    this.description = options.description;
    this.reader = new Reader(view, clock, ended);
    this.readAhead = new ReadAhead(view, ended);
    this.contextList = [new AllocationContext(view)];
  }

  get sizeBytes(): number {
    return this.view.sizeBytes;
  }

  /** The pool works for it. */
  get inUse(): boolean {
    return this.reader.inFlight > 0 || this.readAhead.active;
  }

  /** Requests so far. */
  get requests(): number {
    return this.reader.atOnce + this.reader.pooled;
  }

  get inFlight(): number {
    return this.reader.inFlight;
  }

  /** The snapshot is gone, or its volume closes. */
  remove(): void {
    this.removed = true;
    this.reader.stop();
    this.readAhead.stop();
  }

  read(request: DeviceRequest): number {
    return this.removed ? Status.ESHUTDOWN : this.reader.read(request);
  }

  /** Reads past the protocol: whole blocks of the snapshot. `callback` gets 0 or an errno, never before this returned. */
  readAt(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ): void {
    if (this.removed) this.clock.soon(() => callback(Status.ESHUTDOWN));
    else this.reader.readAt(buffer, start, length, offset, callback);
  }

  /** The longest run from `offset` (a block) that is all data, or all zero, by the map; at most to `end`. */
  runAt(offset: number, end: number): { end: number; zero: boolean } {
    const { view } = this;
    return { end: view.runEndAt(offset, end), zero: !view.isDataAt(offset) };
  }

  write(): number {
    return Status.EPERM;
  }

  zero(): number {
    return Status.EPERM;
  }

  trim(): number {
    return Status.EPERM;
  }

  flush(): number {
    return this.removed ? Status.ESHUTDOWN : Status.OK;
  }

  cache({ offset, length }: DeviceRequest): number {
    if (this.removed) return Status.ESHUTDOWN;
    if (offset + length > this.sizeBytes) return Status.EINVAL;
    this.readAhead.add(offset, length);
    return Status.OK;
  }

  contexts(): readonly StatusContext[] {
    return this.contextList;
  }

  opened(): void {}

  closed(): void {}
}
