/**
 * Group commit of a volume: many flushes, few syncs.
 *
 * Invariants:
 * - A flush is answered 0 only after a sync that began after every write answered before the flush (I4).
 * - Allocation records are appended after the data they make reachable was synced, and the flush is answered
 *   after they are durable too.
 * - One sync is on its way at a time. A flush joins it when nothing was written since it began, else it waits
 *   for the next, which serves all that wait.
 */
import { Status, PENDING } from '../io/device.ts';
import type { Layer } from './layer.ts';
import type { Metadata } from './metadata.ts';
import type { MetadataRecord } from './records.ts';

/** Someone who waits for a flush: a request, or a step of closing or resizing. */
export interface FlushWaiter {
  complete(status: number): void;
}

export interface FlushOwner {
  readonly failed: boolean;
  readonly metadata: Metadata;
  /** The data file could not be synced. */
  syncFailed(errno: number): void;
  /** A flush was answered. */
  noticeIdle(): void;
}

export class Flusher {
  /** Syncs of the data file that began so far. */
  syncs = 0;
  /** Records of an earlier flush are not durable yet: its commit found no space. */
  private logBehind = false;
  /** A sync is on its way. */
  active = false;
  private served: FlushWaiter[] = [];
  private waiting: FlushWaiter[] = [];
  private readonly layer: Layer;
  private readonly owner: FlushOwner;

  constructor(layer: Layer, owner: FlushOwner) {
    this.layer = layer;
    this.owner = owner;
  }

  /** Returns the status, or PENDING and completes the waiter later. */
  flush(waiter: FlushWaiter): number {
    if (this.owner.failed) return Status.EIO;
    if (!this.layer.touched && !this.logBehind) {
      if (!this.active) return Status.OK;
      this.served.push(waiter);
      return PENDING;
    }
    this.waiting.push(waiter);
    if (!this.active) this.start();
    return PENDING;
  }

  private start(): void {
    this.active = true;
    this.served = this.waiting;
    this.waiting = [];
    this.layer.touched = false;
    this.syncs += 1;
    const mustCommit = this.logBehind;
    this.logBehind = false;
    // Taken before the sync begins: what is written from now on belongs to the next one.
    const records = this.layer.takeChanges();
    this.layer.file.datasync((result) => this.synced(result, records, mustCommit));
  }

  private synced(result: number, records: readonly MetadataRecord[], mustCommit: boolean): void {
    if (result < 0) {
      this.owner.syncFailed(-result);
      this.answer(Status.EIO);
      return;
    }
    const { metadata } = this.owner;
    for (const record of records) metadata.append(record);
    if (records.length === 0 && !mustCommit) {
      this.answer(this.owner.failed ? Status.EIO : Status.OK);
      return;
    }
    metadata.commit((status) => {
      if (status !== Status.OK) this.logBehind = true;
      this.answer(status);
    });
  }

  private answer(status: number): void {
    const served = this.served;
    this.served = [];
    this.active = false;
    const orphans = this.owner.failed ? this.waiting : [];
    if (this.owner.failed) this.waiting = [];
    else if (this.waiting.length > 0) this.start();
    for (const waiter of served) waiter.complete(status);
    for (const waiter of orphans) waiter.complete(Status.EIO);
    this.owner.noticeIdle();
  }
}
