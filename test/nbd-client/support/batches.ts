/** Prepared batches for tests: laid out in slabs, with a record of what was told about them. */
import {
  encodeWriteHeader,
  WRITE_HEADER_BYTES,
  type PreparedBatch,
} from '../../../src/nbd/client/client-prepared.ts';
import { pattern } from './calls.ts';

export interface Span {
  readonly offset: number;
  readonly length: number;
}

export class TestBatch implements PreparedBatch {
  readonly id: number;
  readonly count: number;
  readonly chunks: Buffer[] = [];
  readonly payloads: Buffer[] = [];
  /** Errno by index, as told. */
  readonly told = new Map<number, number>();
  doneCalls = 0;
  readonly finished: Promise<void>;
  private finish: () => void = () => {};

  /** Spreads the spans over slabs of at most `slabBytes`; several requests lie back to back in each. */
  constructor(id: number, spans: readonly Span[], slabBytes = 1024 * 1024) {
    this.id = id;
    this.count = spans.length;
    this.finished = new Promise((resolve) => {
      this.finish = resolve;
    });
    let slab = Buffer.alloc(slabBytes, 0xdb);
    let used = 0;
    for (const [index, { offset, length }] of spans.entries()) {
      if (used + WRITE_HEADER_BYTES + length > slabBytes) {
        this.chunks.push(slab.subarray(0, used));
        slab = Buffer.alloc(slabBytes, 0xdb);
        used = 0;
      }
      const payload = pattern(length, id + index);
      encodeWriteHeader(slab, used, { offset, length, batch: id, index });
      payload.copy(slab, used + WRITE_HEADER_BYTES);
      used += WRITE_HEADER_BYTES + length;
      this.payloads.push(payload);
    }
    this.chunks.push(slab.subarray(0, used));
  }

  replied(index: number, errno: number): void {
    if (this.told.has(index)) throw new Error(`request ${index} was told twice`);
    if (this.doneCalls > 0) throw new Error('told after done');
    this.told.set(index, errno);
  }

  done(): void {
    this.doneCalls += 1;
    this.finish();
  }
}

export const consecutive = (count: number, length: number, from = 0): Span[] =>
  Array.from({ length: count }, (_, index) => ({ offset: from + index * length, length }));
