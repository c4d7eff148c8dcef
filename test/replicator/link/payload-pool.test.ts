/**
 * Memory of received payloads is bounded, is never two owners' at once, and never stops a link for good. Method: the pool
 * alone, at its bounds.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  LINK_FRAME_BYTES_MAX,
  LINK_IDLE_BYTES_MAX,
  LINK_LANES_MAX,
  LINK_RECEIVED_BYTES_HIGH,
  LINK_RECEIVED_BYTES_LOW,
  LINK_UNACKED_BYTES_MAX,
} from '../../../src/io/limits.ts';
import { PayloadPool } from '../../../src/replicator/link/payload-pool.ts';

describe('the memory of a payload', () => {
  test('holds it, and is little more', () => {
    const pool = new PayloadPool(() => {});
    const sizes = fc.oneof(
      fc.integer({ min: 1, max: LINK_FRAME_BYTES_MAX }),
      fc.integer({ min: 1, max: 9000 }),
      fc.constantFrom(1, 63, 64, 65, 66, 4124, 2 ** 18 + 28, 2 ** 20, LINK_FRAME_BYTES_MAX),
    );
    fc.assert(
      fc.property(sizes, (bytes) => {
        const payload = pool.take(bytes);
        expect(payload.length).toBe(bytes);
        expect(payload.buffer.length).toBeGreaterThanOrEqual(bytes);
        expect(payload.buffer.length).toBeLessThanOrEqual(Math.max(66, bytes * 1.27 + 2));
        payload.release();
      }),
      { numRuns: 2000 },
    );
    for (const bytes of [0, -1, LINK_FRAME_BYTES_MAX + 1]) expect(() => pool.take(bytes)).toThrow();
  });

  test('of all that may be unacknowledged leaves room for every lane', () => {
    const most = 1.27 * (LINK_UNACKED_BYTES_MAX + LINK_LANES_MAX * LINK_FRAME_BYTES_MAX);
    expect(LINK_RECEIVED_BYTES_LOW).toBeGreaterThan(most);
    expect(LINK_RECEIVED_BYTES_HIGH).toBeGreaterThan(LINK_RECEIVED_BYTES_LOW);
  });

  test("is one owner's at a time", () => {
    const pool = new PayloadPool(() => {});
    const first = pool.take(5000);
    const second = pool.take(5000);
    expect(first.buffer).not.toBe(second.buffer);
    first.release();
    expect(() => first.release()).toThrow('released once');
    expect(pool.take(5000).buffer).toBe(first.buffer);
  });
});

describe('the pool', () => {
  test('is full at its bound, and tells once that there is room again', () => {
    let told = 0;
    const pool = new PayloadPool(() => (told += 1));
    const lent = [];
    while (!pool.isFull()) lent.push(pool.take(2 ** 20));
    expect(pool.lentBytes).toBeGreaterThanOrEqual(LINK_RECEIVED_BYTES_HIGH);
    expect(pool.lentBytes).toBeLessThan(LINK_RECEIVED_BYTES_HIGH + 1.1 * 2 ** 20);
    for (;;) {
      expect(pool.isFull()).toBe(true);
      lent.pop()!.release();
      if (told > 0) break;
    }
    expect(pool.lentBytes).toBeLessThanOrEqual(LINK_RECEIVED_BYTES_LOW);
    expect(pool.isFull()).toBe(false);
    for (const payload of lent) payload.release();
    expect(told).toBe(1);
    expect(pool.lentBytes).toBe(0);
  });

  test('keeps what a stream uses again and again, as long as it does', () => {
    const pool = new PayloadPool(() => {});
    const lent = Array.from({ length: 60 }, () => pool.take(2 ** 20));
    const known = new Set(lent.map(({ buffer }) => buffer));
    for (let count = 0; count < 1000; count += 1) {
      for (const payload of lent.splice(0, 40)) payload.release();
      while (lent.length < 60) lent.push(pool.take(2 ** 20));
      expect(pool.lentBytes + pool.idleBytes).toBeLessThanOrEqual(LINK_RECEIVED_BYTES_LOW);
    }
    expect(lent.every(({ buffer }) => known.has(buffer))).toBe(true);
    for (const payload of lent) payload.release();
    expect(pool.idleBytes).toBeLessThanOrEqual(LINK_IDLE_BYTES_MAX);
  });

  test('keeps little for reuse, and of what was used last', () => {
    const pool = new PayloadPool(() => {});
    const use = (bytes: number, count: number): void => {
      const lent = Array.from({ length: count }, () => pool.take(bytes));
      for (const payload of lent) payload.release();
    };
    use(4124, 8000);
    use(2 ** 20, 16);
    expect(pool.idleBytes).toBeLessThanOrEqual(LINK_IDLE_BYTES_MAX);
    expect(pool.idleBytes).toBeGreaterThan(LINK_IDLE_BYTES_MAX - 1.1 * 2 ** 20);
    // Small ones had filled it: large ones took their place.
    const before = pool.idleBytes;
    const lent = Array.from({ length: 7 }, () => pool.take(2 ** 20));
    expect(before - pool.idleBytes).toBe(7 * lent[0]!.buffer.length);
  });
});
