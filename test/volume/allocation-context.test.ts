/**
 * `base:allocation` of a volume against a byte map of what was written and zeroed: every answer lies inside the
 * range, is true for each block of it, and is as long as it can be. Then its speed, since a structured READ asks it.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Extent } from '../../src/io/device.ts';
import { write, zero } from './support/request.ts';
import { newVolume } from './support/store.ts';

const SIZE = 9 * 2 ** 20;
const BLOCKS = SIZE / 4096;
const HOLE_AND_ZERO = 3;

const range = fc
  .tuple(fc.nat(SIZE - 1), fc.oneof(fc.integer({ min: 1, max: 20_000 }), fc.nat(SIZE)))
  .map(([offset, length]) => ({ offset, length: Math.max(1, Math.min(length, SIZE - offset)) }));

describe('base:allocation', () => {
  test('tells data from holes, byte for byte', async () => {
    const step = fc.record({ kind: fc.constantFrom('write', 'hole', 'provision'), range });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 10 }), range, async (steps, asked) => {
        const { volume } = await newVolume(SIZE);
        const data = new Uint8Array(BLOCKS);
        for (const { kind, range: at } of steps) {
          const end = at.offset + at.length;
          if (kind === 'hole') {
            await zero(volume, at);
            data.fill(0, Math.ceil(at.offset / 4096), Math.max(0, Math.floor(end / 4096)));
          } else {
            if (kind === 'write') await write(volume, at.offset, Buffer.alloc(at.length, 1));
            else await zero(volume, at, true);
            data.fill(1, Math.floor(at.offset / 4096), Math.ceil(end / 4096));
          }
        }
        const extent: Extent = { end: 0, flags: 0 };
        const end = asked.offset + asked.length;
        for (let at = asked.offset; at < end; at = extent.end) {
          volume.allocation.describe(at, end, extent);
          const first = Math.floor(at / 4096);
          const last = Math.ceil(extent.end / 4096);
          const flags = data[first] === 1 ? 0 : HOLE_AND_ZERO;
          expect(extent.flags).toBe(flags);
          expect(data.subarray(first, last).every((each) => each === data[first])).toBe(true);
          if (extent.end < end) expect(data[last]).not.toBe(data[first]);
        }
        expect(extent.end).toBe(end);
      }),
      { numRuns: 60 },
    );
  });

  test('is told of an empty and of a full volume of the largest size in one short step', async () => {
    const size = 2 ** 50;
    const { volume } = await newVolume(size);
    const extent: Extent = { end: 0, flags: 0 };
    const timed = (): number => {
      const before = performance.now();
      volume.allocation.describe(4096, size, extent);
      return performance.now() - before;
    };
    expect(timed()).toBeLessThan(100);
    expect(extent).toEqual({ end: size, flags: HOLE_AND_ZERO });
    volume.layer.map.data.addAll();
    expect(timed()).toBeLessThan(100);
    expect(extent).toEqual({ end: size, flags: 0 });
  });

  test('answers what lies past the end of a volume that shrank', async () => {
    const { volume } = await newVolume(SIZE);
    await volume.resize(SIZE / 2);
    const extent: Extent = { end: 0, flags: 1 };
    volume.allocation.describe(SIZE / 2, SIZE, extent);
    expect(extent).toEqual({ end: SIZE, flags: 0 });
  });
});
