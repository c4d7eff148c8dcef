/**
 * A block device in memory, with the behaviours that a server must cope with: answers at once or later,
 * in any order, with or without `retain`, with errors; and a record of what it was asked.
 */
import {
  type BlockDevice,
  type DeviceRequest,
  type Extent,
  PENDING,
  type StatusContext,
  Status,
} from '../../../src/io/device.ts';
import { BLOCK_BYTES } from '../../../src/io/limits.ts';
import type { ExportSource, NbdExport } from '../../../src/nbd/server/exports.ts';

export type Operation = 'read' | 'write' | 'zero' | 'trim' | 'flush' | 'cache';

export interface Call {
  readonly operation: Operation;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly noHole: boolean;
  readonly fastZero: boolean;
}

interface Held {
  readonly request: DeviceRequest;
  readonly operation: Operation;
}

/** What a device says of itself under one name: `map` gives end and flags of the run at an offset. */
export class MapContext implements StatusContext {
  readonly name: string;
  /** How often it was asked. */
  looks = 0;
  map: (offset: number) => Extent;

  constructor(name: string, map: (offset: number) => Extent) {
    this.name = name;
    this.map = map;
  }

  describe(offset: number, end: number, into: Extent): void {
    this.looks++;
    const found = this.map(offset);
    into.end = Math.min(found.end, end);
    into.flags = found.flags;
  }
}

/** The map of a device of whole blocks: runs of equal flags end where the flags change, or after `blocksMax`. */
export const blockMap =
  (flagsOf: (block: number) => number, blocksMax = 1 << 20): ((offset: number) => Extent) =>
  (offset) => {
    const first = Math.floor(offset / BLOCK_BYTES);
    const flags = flagsOf(first);
    let end = first + 1;
    while (end - first < blocksMax && flagsOf(end) === flags) end++;
    return { end: end * BLOCK_BYTES, flags };
  };

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
  /** All data, until a test says otherwise. */
  readonly allocation = new MapContext('base:allocation', () => ({ end: Infinity, flags: 0 }));
  readonly otherContexts: MapContext[] = [];
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

  cache(request: DeviceRequest): number {
    return this.take('cache', request);
  }

  contexts(): readonly StatusContext[] {
    return [this.allocation, ...this.otherContexts];
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
    const { offset, length, fua, noHole, fastZero } = request;
    if (this.recordCalls) {
      this.calls.push({ operation, offset, length, fua, noHole, fastZero });
    }
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
        if (offset < this.content.length) {
          this.content.fill(0, offset, Math.min(offset + length, this.content.length));
        }
        break;
      case 'flush':
      case 'cache':
        break;
    }
    return Status.OK;
  }
}

/** One device under one name. */
export const sourceOf = (name: string, device: MemoryDevice): ExportSource => {
  const exported = (): NbdExport => ({ name, device, readOnly: device.readOnly });
  return {
    find: (asked) =>
      asked === name ? { kind: 'granted', export: exported() } : { kind: 'unknown' },
    list: () => [exported()],
  };
};
