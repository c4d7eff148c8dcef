/**
 * Every block is judged by its bytes alone, wherever the telling byte stands. Method: random batches
 * against the plainest possible loops, and single bytes at the edges.
 */
import { createHash, randomFillSync } from 'node:crypto';

import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { BLOCK_BYTES } from '../../src/io/limits.ts';
import {
  DIGEST_BYTES,
  differingBlocks,
  digestsBytes,
  digestUnits,
  everyBlock,
  zeroBlocks,
} from '../../src/workers/kernels.ts';

const marked = (marks: Uint8Array): number[] => {
  const blocks: number[] = [];
  for (let block = 0; block < marks.length * 8; block += 1) {
    if (((marks[block >> 3]! >> (block & 7)) & 1) === 1) blocks.push(block);
  }
  return blocks;
};

describe('zeroBlocks', () => {
  it('marks exactly the blocks without any other byte', () => {
    const batch = fc.array(fc.option(fc.integer({ min: 0, max: BLOCK_BYTES - 1 })), {
      maxLength: 70,
    });
    fc.assert(
      fc.property(batch, (telling) => {
        const buffer = Buffer.alloc(telling.length * BLOCK_BYTES);
        for (const [block, at] of telling.entries()) {
          if (at !== null) buffer[block * BLOCK_BYTES + at] = 1 + (at % 255);
        }
        const expected = telling.flatMap((at, block) => (at === null ? [block] : []));
        expect(marked(zeroBlocks(buffer, buffer.length))).toEqual(expected);
      }),
      { numRuns: 200 },
    );
  });

  it('looks at the given length only', () => {
    const marks = zeroBlocks(Buffer.alloc(20 * BLOCK_BYTES), 9 * BLOCK_BYTES);
    expect(marks.length).toBe(2);
    expect(marked(marks)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  });

  it('takes whole blocks inside the buffer only', () => {
    expect(() => zeroBlocks(Buffer.alloc(8192), 100)).toThrow();
    expect(() => zeroBlocks(Buffer.alloc(4096), 8192)).toThrow();
  });
});

describe('differingBlocks', () => {
  it('marks exactly the blocks with a different byte', () => {
    const batch = fc.array(fc.option(fc.integer({ min: 0, max: BLOCK_BYTES - 1 })), {
      maxLength: 70,
    });
    fc.assert(
      fc.property(batch, (telling) => {
        const buffer = randomFillSync(Buffer.alloc(telling.length * BLOCK_BYTES));
        const other = Buffer.from(buffer);
        for (const [block, at] of telling.entries()) {
          if (at !== null) other[block * BLOCK_BYTES + at]! ^= 0x80;
        }
        const expected = telling.flatMap((at, block) => (at === null ? [] : [block]));
        expect(marked(differingBlocks(buffer, other, buffer.length))).toEqual(expected);
      }),
      { numRuns: 200 },
    );
  });

  it('takes buffers of different lengths', () => {
    const marks = differingBlocks(
      Buffer.alloc(3 * BLOCK_BYTES),
      Buffer.alloc(2 * BLOCK_BYTES, 1),
      8192,
    );
    expect(marked(marks)).toEqual([0, 1]);
    expect(() => differingBlocks(Buffer.alloc(8192), Buffer.alloc(4096), 8192)).toThrow();
  });
});

describe('everyBlock', () => {
  it.each([0, 1, 7, 8, 9, 256])('marks %d blocks and nothing behind', (blocks) => {
    expect(marked(everyBlock(blocks * BLOCK_BYTES))).toEqual([...Array(blocks).keys()]);
  });
});

describe('digestUnits', () => {
  it('is XXH64 of each block with two seeds, least significant byte first', () => {
    // Seed 0 from the reference implementation: xxhsum -H1 of 4096 zero bytes, and of 4096 bytes "a".
    const buffer = Buffer.concat([Buffer.alloc(BLOCK_BYTES), Buffer.alloc(BLOCK_BYTES, 'a')]);
    const digests = digestUnits(buffer, buffer.length, BLOCK_BYTES);
    expect(digests.length).toBe(2 * DIGEST_BYTES);
    expect(digests.readBigUInt64LE(0).toString(16)).toBe('ac869b6f32d8bbdb');
    expect(digests.readBigUInt64LE(8).toString(16)).toBe('3bc3e304234f9e0e');
    expect(digests.readBigUInt64LE(16).toString(16)).toBe('89a55a10892c1603');
    expect(digests.readBigUInt64LE(24).toString(16)).toBe('68094ac54fb2998d');
  });

  it('is one digest for each unit, of which the last may be shorter', () => {
    const buffer = randomFillSync(Buffer.alloc(5 * BLOCK_BYTES));
    const unit = 2 * BLOCK_BYTES;
    const expected = [0, 2, 4].map((block) => {
      const part = buffer.subarray(block * BLOCK_BYTES, (block + 2) * BLOCK_BYTES);
      return digestUnits(part, part.length, part.length);
    });
    const digests = digestUnits(buffer, buffer.length, unit);
    expect(digests.equals(Buffer.concat(expected))).toBe(true);
    expect(digests.length).toBe(digestsBytes(buffer.length, unit));
  });

  it('tells random blocks apart as well as sha256 does', () => {
    const buffer = randomFillSync(Buffer.alloc(64 * BLOCK_BYTES));
    buffer.copy(buffer, 5 * BLOCK_BYTES, 9 * BLOCK_BYTES, 10 * BLOCK_BYTES);
    const digests = digestUnits(buffer, buffer.length, BLOCK_BYTES);
    const short = new Set<string>();
    const strong = new Set<string>();
    for (let block = 0; block < 64; block += 1) {
      const bytes = buffer.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
      const at = block * DIGEST_BYTES;
      short.add(digests.subarray(at, at + DIGEST_BYTES).toString('hex'));
      strong.add(createHash('sha256').update(bytes).digest('hex'));
    }
    expect(short.size).toBe(strong.size);
    expect(short.size).toBe(63);
  });
});
