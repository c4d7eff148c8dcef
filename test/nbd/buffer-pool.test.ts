/** Pooled buffers: large enough, lent once at a time, kept within a bound. Method: direct calls. */
import { expect, it } from 'vitest';

import { BufferPool } from '../../src/nbd/transmission/buffer-pool.ts';

it.each([0, 1, 4096, 4097, 4160, 4161, 65_536, 2 ** 25, 2 ** 25 + 16])(
  'lends at least %i bytes, and not much more than double',
  (bytes) => {
    const pool = new BufferPool();
    const buffer = pool.take(bytes);
    expect(buffer.capacity).toBeGreaterThanOrEqual(bytes);
    expect(buffer.capacity).toBeLessThanOrEqual(Math.max(2 * bytes, 4096) + 64);
    expect(buffer.bytes).toHaveLength(buffer.capacity);
    expect(buffer.view.byteLength).toBe(buffer.capacity);
    buffer.view.setUint32(0, 0xdeadbeef);
    expect(buffer.bytes.readUInt32BE(0)).toBe(0xdeadbeef);
  },
);

it('fits a header and a power of two into the class of that power', () => {
  expect(new BufferPool().take(16 + 65_536).capacity).toBe(65_536 + 64);
});

it('lends the same memory again, and never to two at once', () => {
  const pool = new BufferPool();
  const first = pool.take(5000);
  const second = pool.take(5000);
  expect(second).not.toBe(first);
  pool.give(first);
  expect(pool.take(6000)).toBe(first);
  expect(pool.lentBytes).toBe(first.capacity + second.capacity);
  pool.give(first);
  expect(() => pool.give(first)).toThrow('given back twice');
});

it('keeps no more than its bound', () => {
  const pool = new BufferPool(10_000);
  const buffers = [pool.take(4096), pool.take(4096), pool.take(4096)];
  for (const buffer of buffers) pool.give(buffer);
  expect(pool.keptBytes).toBe(2 * (4096 + 64));
  expect(pool.lentBytes).toBe(0);
  const large = pool.take(100_000);
  pool.give(large);
  expect(pool.take(100_000)).not.toBe(large);
});

it('refuses what no class holds', () => {
  expect(() => new BufferPool().take(2 ** 27)).toThrow('larger than any size class');
});
