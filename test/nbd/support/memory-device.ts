/**
 * A block device in memory, with the behaviours that a server must cope with: answers at once or later,
 * in any order, with or without `retain`, with errors; and a record of what it was asked.
 */
import { type BlockDevice, type DeviceRequest, PENDING, Status } from '../../../src/io/device.ts';

export type Operation = 'read' | 'write' | 'zero' | 'trim' | 'flush';

export interface Call {
  readonly operation: Operation;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly noHole: boolean;
}

interface Held {
  readonly request: DeviceRequest;
  readonly operation: Operation;
}

export class MemoryDevice implements BlockDevice {
  sizeBytes: number;
  readOnly = false;
  description = '';
  readonly content: Buffer;
  readonly calls: Call[] = [];
  /** `now` answers at once; `hold` keeps the request until `release`. */
  mode: 'now' | 'hold' = 'now';
  /** Answered instead of doing anything, by operation. */
  readonly failures = new Map<Operation, number>();
  /** Whether a held write keeps its bytes; otherwise it applies them first, and answers late. */
  retains = true;
  openedCount = 0;
  closedCount = 0;
  recordCalls = true;
  private held: Held[] = [];

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.content = Buffer.alloc(sizeBytes);
  }

  get heldCount(): number {
    return this.held.length;
  }

  opened(): void {
    this.openedCount++;
  }

  closed(): void {
    this.closedCount++;
  }

  read(request: DeviceRequest): number {
    return this.take('read', request);
  }

  write(request: DeviceRequest): number {
    return this.take('write', request);
  }

  zero(request: DeviceRequest): number {
    return this.take('zero', request);
  }

  trim(request: DeviceRequest): number {
    return this.take('trim', request);
  }

  flush(request: DeviceRequest): number {
    return this.take('flush', request);
  }

  /** Answers held requests in the order given (indexes into the held ones), or all in order. */
  release(order?: readonly number[]): void {
    const { held } = this;
    const chosen = order ?? held.map((_, index) => index);
    this.held = held.filter((_, index) => !chosen.includes(index));
    for (const index of chosen) {
      const { request, operation } = held[index]!;
      request.complete(this.perform(operation, request));
    }
  }

  private take(operation: Operation, request: DeviceRequest): number {
    const { offset, length, fua, noHole } = request;
    if (this.recordCalls) this.calls.push({ operation, offset, length, fua, noHole });
    if (this.mode === 'now') return this.perform(operation, request);
    if (operation === 'write' && !this.retains) {
      this.perform(operation, request);
      this.held.push({ request, operation: 'flush' });
      return PENDING;
    }
    request.retain();
    this.held.push({ request, operation });
    return PENDING;
  }

  private perform(operation: Operation, request: DeviceRequest): number {
    const failure = this.failures.get(operation);
    if (failure !== undefined) return failure;
    const { offset, length, buffer, start } = request;
    switch (operation) {
      case 'read':
        this.content.copy(buffer, start, offset, offset + length);
        break;
      case 'write':
        buffer.copy(this.content, offset, start, start + length);
        break;
      case 'zero':
      case 'trim':
        // `sizeBytes` may claim more than is there, for requests that are too large to hold.
        if (offset < this.content.length) this.content.fill(0, offset, offset + length);
        break;
      case 'flush':
        break;
    }
    return Status.OK;
  }
}
