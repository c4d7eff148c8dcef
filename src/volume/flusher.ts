/**
 * Group commit of a volume: many flushes, few syncs.
 *
 * Invariants:
 * - A flush is answered 0 only after a sync that began after every write answered before the flush (I4), and
 *   after every sync that began before that one succeeded: an error that one of them met may be about its writes.
 * - Allocation records are appended after the data they make reachable was synced, and the flush is answered
 *   after they are durable too. Of a very large change to the base layer FLUSH_RECORDS_MAX records go with one flush and
 *   the others with the next ones: a map that lags behind is completed from the file (recovery.ts). Of a layer above another one
 *   the recorded map alone counts after a power cut: all of its records go with the flush.
 * - What a flush records was taken when it began: zeroes that were recorded since then, or ahead
 *   of the map, are recorded behind it again.
 * - A flush covers every layer that may have been written since the last one: the top, and one that was the top until a
 *   moment ago.
 * - At most SYNCS_IN_FLIGHT_MAX syncs are on their way. A flush joins the last of them when nothing was written
 *   since it began; else it begins one, or waits for the next, which serves all that wait.
 */
import { Status, PENDING } from '../io/device.ts';
import type { DiskFile } from '../io/disk.ts';
import { FLUSH_RECORDS_MAX, SYNCS_IN_FLIGHT_MAX } from '../io/limits.ts';
import type { Layer } from './layers/layer.ts';
import type { Metadata } from './log/metadata.ts';
import type { MapRecord } from './log/metadata-state.ts';
import { RecordedZeroes } from './recorded-zeroes.ts';
import type { AllocatedRecord } from './recorded-zeroes.ts';

/** Someone who waits for a flush: a request, or a step of closing or resizing. */
export interface FlushWaiter {
  complete(status: number): void;
}

export interface FlushOwner {
  readonly failed: boolean;
  readonly metadata: Metadata;
  /** The data file could not be synced. */
  syncFailed(errno: number, file: DiskFile): void;
  /** Appends a record of a layer, unless the layer is gone by now. */
  record(record: MapRecord): void;
  /** Tells of zeroes that the log has and the map has not yet. */
  eachAhead(visit: (record: AllocatedRecord) => void): void;
  /** Appends what `record` does beneath those. */
  beneathAhead(record: () => void): void;
  /** What was recorded of the layers is folded: live maps and recorded ones may be alike again. */
  recorded(): void;
  /** A flush was answered. */
  noticeIdle(): void;
  soon(callback: () => void): void;
}

interface Sync {
  readonly waiters: FlushWaiter[];
  readonly records: readonly MapRecord[];
  /** Recorded since it began. */
  readonly zeroes: RecordedZeroes;
  /** All that is appended. */
  recorded: boolean;
  /** The data is durable. */
  done: boolean;
}

export class Flusher {
  /** Syncs of the data file that began so far. */
  syncs = 0;
  /** Records of an earlier flush, or of the start, are not durable yet: their commit found no space, or is still to come. */
  private logBehind: boolean;
  /** Syncs not answered yet, in the order in which they began. */
  private readonly begun: Sync[] = [];
  /** Records of some of these are being made durable. */
  private committing = false;
  private waiting: FlushWaiter[] = [];
  /** Layers that are not sealed; the top is the last of them. */
  private readonly layers: () => readonly Layer[];
  private readonly owner: FlushOwner;

  constructor(layers: () => readonly Layer[], owner: FlushOwner) {
    this.layers = layers;
    this.owner = owner;
    this.logBehind = owner.metadata.isBehind;
  }

  /** A flush is on its way. */
  get active(): boolean {
    return this.begun.length > 0;
  }

  /** Returns the status, or PENDING and completes the waiter later. */
  flush(waiter: FlushWaiter): number {
    if (this.owner.failed) return Status.EIO;
    if (!this.touched && !this.logBehind) {
      const last = this.begun.at(-1);
      if (last === undefined) return Status.OK;
      last.waiters.push(waiter);
      return PENDING;
    }
    this.waiting.push(waiter);
    if (this.begun.length < SYNCS_IN_FLIGHT_MAX) this.begin();
    return PENDING;
  }

  /** This was appended just now, and not for a flush. */
  noteRecorded(record: AllocatedRecord): void {
    for (const { recorded, records, zeroes } of this.begun) {
      if (!recorded && records.length > 0) zeroes.note(record);
    }
  }

  private get touched(): boolean {
    for (const layer of this.layers()) if (layer.touched) return true;
    return false;
  }

  private begin(): void {
    // Taken before the sync begins: what is written from now on belongs to the next one.
    const records: MapRecord[] = [];
    const touched: Layer[] = [];
    for (const layer of this.layers()) {
      const most = layer.parent === null ? FLUSH_RECORDS_MAX : Number.POSITIVE_INFINITY;
      for (const record of layer.takeChanges(most)) records.push(record);
      if (!layer.touched) continue;
      layer.touched = false;
      touched.push(layer);
    }
    const zeroes = new RecordedZeroes();
    if (records.length > 0) this.owner.eachAhead((record) => zeroes.note(record));
    const sync: Sync = { waiters: this.waiting, records, zeroes, recorded: false, done: false };
    this.waiting = [];
    this.begun.push(sync);
    this.syncs += 1;
    this.syncAll(touched, () => {
      sync.done = true;
      this.proceed();
    });
  }

  private syncAll(layers: readonly Layer[], done: () => void): void {
    let left = layers.length;
    // Only records of an earlier flush are behind.
    if (left === 0) return this.owner.soon(done);
    for (const layer of layers) {
      layer.pin();
      layer.file.datasync((result) => {
        layer.unpin();
        if (result < 0) this.owner.syncFailed(-result, layer.file);
        left -= 1;
        if (left === 0) done();
      });
    }
  }

  /** Makes the records of the syncs at the front durable, and answers them. */
  private proceed(): void {
    if (this.owner.failed) {
      this.failAll();
      return;
    }
    if (this.committing) return;
    let count = 0;
    let mustCommit = this.logBehind;
    for (const sync of this.begun) {
      if (!sync.done) break;
      const { records, zeroes } = sync;
      count += 1;
      sync.recorded = true;
      if (records.length > 0) {
        this.owner.beneathAhead(() => {
          for (const record of records) this.owner.record(record);
        });
      }
      for (const record of zeroes.records()) this.owner.record(record);
      mustCommit ||= records.length > 0;
    }
    if (count === 0) return;
    if (!mustCommit) {
      this.answer(count, Status.OK);
      return;
    }
    this.committing = true;
    this.logBehind = false;
    this.owner.metadata.commit((status) => {
      this.committing = false;
      if (status !== Status.OK) this.logBehind = true;
      this.owner.recorded();
      if (this.owner.failed) this.failAll();
      else this.answer(count, status);
    });
  }

  /** Answers the first `count` syncs, and begins what may now. */
  private answer(count: number, status: number): void {
    const answered = this.begun.splice(0, count);
    if (this.waiting.length > 0) this.begin();
    for (const { waiters } of answered) for (const waiter of waiters) waiter.complete(status);
    this.owner.noticeIdle();
    this.proceed();
  }

  /** The volume failed: nobody is told that anything is durable. Syncs on their way still end. */
  private failAll(): void {
    const waiters = [...this.begun.flatMap((sync) => sync.waiters.splice(0)), ...this.waiting];
    this.waiting = [];
    while (!this.committing && this.begun[0]?.done === true) this.begun.shift();
    for (const waiter of waiters) waiter.complete(Status.EIO);
    this.owner.noticeIdle();
  }
}
