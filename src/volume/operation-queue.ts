/**
 * Changes to a volume that could not be applied at once, and reads of what they change, in the order of their arrival.
 *
 * Invariants:
 * - An operation starts only when every earlier one that touches a block of its range has ended (I2): `blockers` counts
 *   them. Reads do not wait for reads.
 * - While the queue is held, nothing starts; what runs already goes on.
 * - The length is bounded by the requests in flight of all connections; a scan is linear in it, and nobody
 *   scans when it is empty.
 */
import assert from 'node:assert';
import type { DeviceRequest } from '../io/device.ts';
import type { DiskCallback } from '../io/disk.ts';
import { BLOCK_BYTES } from '../io/limits.ts';
import { BlockState } from './maps/layer-map.ts';

export type OperationKind = 'write' | 'zero' | 'read';

/** One request. Pooled: it begins with `enter`, and `leave` keeps it for another. */
export class Operation {
  request: DeviceRequest | null = null;
  kind: OperationKind = 'write';
  offset = 0;
  end = 0;
  /** What it keeps others away from: whole blocks, since a part of one may be copied up with the rest of it. */
  lockStart = 0;
  lockEnd = 0;
  /** Zeroes: blocks of a layer above others were marked, which has to be recorded before the answer. */
  holed = false;
  /** Zeroes: the log was told of the piece on its way. */
  recorded = false;
  /** Zeroes: what the log said of the first block of that piece before. */
  recordedBefore: BlockState = BlockState.ABSENT;
  /** Zeroes: how far they are written, and where the piece on its way begins and ends. */
  position = 0;
  pieceStart = 0;
  pieceEnd = 0;
  /** Zeroes: what the piece on its way does. */
  piece: 'write' | 'punch' | 'provision' = 'write';
  /** Zeroes: runs of blocks that the piece touches, and when the disk got it (milliseconds). */
  runs = 0;
  startedAt = 0;
  /** Zeroes: runs that were punched out so far. */
  punchedRuns = 0;
  running = false;
  blockers = 0;
  earlier: Operation | null = null;
  later: Operation | null = null;
  /** Takes the result of the disk. Made once, so that nothing is allocated for a request. */
  readonly done: DiskCallback;

  constructor(done: (operation: Operation, result: number) => void) {
    this.done = (result) => done(this, result);
  }
}

/** Operations kept for reuse. More are left to the garbage collector. */
const SPARE_OPERATIONS_MAX = 256;

export class OperationQueue {
  length = 0;
  private first: Operation | null = null;
  private last: Operation | null = null;
  private holds = 0;
  private readonly spare: Operation[] = [];
  private readonly start: (operation: Operation) => void;
  private readonly done: (operation: Operation, result: number) => void;

  /** `start` runs an operation; `done` gets what the disk answered to it. */
  constructor(
    start: (operation: Operation) => void,
    done: (operation: Operation, result: number) => void,
  ) {
    this.start = start;
    this.done = done;
  }

  /** Whether a change of the range would have to wait. */
  overlaps(offset: number, end: number): boolean {
    for (let other = this.first; other !== null; other = other.later) {
      if (other.lockStart < end && offset < other.lockEnd) return true;
    }
    return false;
  }

  /** Whether something changes the range, or is about to. */
  changes(offset: number, end: number): boolean {
    for (let other = this.first; other !== null; other = other.later) {
      if (other.kind !== 'read' && other.lockStart < end && offset < other.lockEnd) return true;
    }
    return false;
  }

  /** Queues a request; it starts at once unless something is in its way. */
  enter(request: DeviceRequest, kind: OperationKind): void {
    const operation = this.spare.pop() ?? new Operation(this.done);
    operation.request = request;
    operation.kind = kind;
    operation.offset = request.offset;
    operation.end = request.offset + request.length;
    operation.position = request.offset;
    operation.punchedRuns = 0;
    operation.lockStart = Math.floor(operation.offset / BLOCK_BYTES) * BLOCK_BYTES;
    operation.lockEnd = Math.ceil(operation.end / BLOCK_BYTES) * BLOCK_BYTES;
    operation.holed = false;
    operation.recorded = false;
    operation.running = false;
    this.countBlockers(operation, null);
    this.link(operation);
    this.startIfFree(operation);
  }

  /** Ends an operation and lets those start that waited for it alone. */
  leave(operation: Operation): void {
    assert(operation.blockers === 0, 'a blocked operation cannot end');
    const after = operation.later;
    this.unlink(operation);
    for (let other = after; other !== null;) {
      const next = other.later;
      if (overlap(operation, other)) {
        other.blockers -= 1;
        assert(other.blockers >= 0, 'every blocker was counted');
        this.startIfFree(other);
      }
      other = next;
    }
    operation.request = null;
    if (this.spare.length < SPARE_OPERATIONS_MAX) this.spare.push(operation);
  }

  /** Nothing starts until `release`; holds add up. */
  hold(): void {
    this.holds += 1;
  }

  release(): void {
    assert(this.holds > 0, 'the queue is held');
    this.holds -= 1;
    for (let operation = this.first; operation !== null;) {
      const next: Operation | null = operation.later;
      this.startIfFree(operation);
      operation = next;
    }
  }

  /** Changes on the pool or waiting for it. */
  get changeCount(): number {
    let count = 0;
    for (let operation = this.first; operation !== null; operation = operation.later) {
      if (operation.kind !== 'read') count += 1;
    }
    return count;
  }

  /** Changes that the disk is working on. */
  get runningCount(): number {
    let count = 0;
    for (let operation = this.first; operation !== null; operation = operation.later) {
      if (operation.running && operation.kind !== 'read') count += 1;
    }
    return count;
  }

  /** Takes out every change that has not started, in order of arrival. Reads stay, and wait for less. */
  takeWaiting(): DeviceRequest[] {
    const requests: DeviceRequest[] = [];
    for (let operation = this.first; operation !== null;) {
      const next: Operation | null = operation.later;
      if (!operation.running && operation.kind !== 'read' && operation.request !== null) {
        requests.push(operation.request);
        operation.request = null;
        this.unlink(operation);
      }
      operation = next;
    }
    for (let operation = this.first; operation !== null;) {
      const next: Operation | null = operation.later;
      if (!operation.running) {
        this.countBlockers(operation, operation);
        this.startIfFree(operation);
      }
      operation = next;
    }
    return requests;
  }

  /** Counts what an operation waits for among those before `end`; null: among all. */
  private countBlockers(operation: Operation, end: Operation | null): void {
    operation.blockers = 0;
    for (let other = this.first; other !== end && other !== null; other = other.later) {
      if (overlap(other, operation)) operation.blockers += 1;
    }
  }

  private startIfFree(operation: Operation): void {
    if (this.holds > 0 || operation.running || operation.blockers > 0) return;
    operation.running = true;
    this.start(operation);
  }

  private link(operation: Operation): void {
    operation.earlier = this.last;
    operation.later = null;
    if (this.last === null) this.first = operation;
    else this.last.later = operation;
    this.last = operation;
    this.length += 1;
  }

  private unlink(operation: Operation): void {
    if (operation.earlier === null) this.first = operation.later;
    else operation.earlier.later = operation.later;
    if (operation.later === null) this.last = operation.earlier;
    else operation.later.earlier = operation.earlier;
    operation.earlier = null;
    operation.later = null;
    this.length -= 1;
  }
}

function overlap(one: Operation, other: Operation): boolean {
  if (one.kind === 'read' && other.kind === 'read') return false;
  return one.lockStart < other.lockEnd && other.lockStart < one.lockEnd;
}
