/**
 * Entries and ranges, the two payloads that change a volume, are judged whole before any of them is shown: every place,
 * length, type and end. Method: tables written by hand, each fault alone; random tables come back as they went.
 */
import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LINK_RANGES_MAX, VOLUME_BYTES_MAX } from '../../../src/io/limits.ts';
import { encodeWriteHeader } from '../../../src/nbd/client/client-prepared.ts';
import { faultInEntries, visitEntries } from '../../../src/replicator/link/entries.ts';
import {
  encodeRanges,
  faultInRanges,
  type LinkRange,
  visitRanges,
} from '../../../src/replicator/link/ranges.ts';
import { entry, range } from './support/wire.ts';

const SIZE = 2 ** 40;
const BLOCK = 4096;

interface Seen {
  readonly offset: number;
  readonly length: number;
  readonly checksum: number;
}

const seenOf = (offset: number, data: Buffer): Seen => ({
  offset,
  length: data.length,
  checksum: crc32(data),
});

function entriesOf(payload: Buffer, bytes = payload.length): Seen[] {
  const seen: Seen[] = [];
  visitEntries(payload, bytes, (offset, length, from, start) => {
    seen.push(seenOf(offset, from.subarray(start, start + length)));
  });
  return seen;
}

function rangesOf(table: Buffer, bytes = table.length): LinkRange[] {
  const seen: LinkRange[] = [];
  visitRanges(table, bytes, (offset, length, trim) => seen.push({ offset, length, trim }));
  return seen;
}

/** Offsets and lengths in blocks, with the edges of 32 bits and of the volume. */
const place = fc.oneof(
  fc.nat(2 ** 28 - 64),
  fc.constantFrom(0, 2 ** 20 - 1, 2 ** 20, 2 ** 28 - 64),
);

describe('entries', () => {
  test('come back as they went, in their order, whatever stands behind them', () => {
    const one = fc.record({ block: place, blocks: fc.integer({ min: 1, max: 64 }) });
    fc.assert(
      fc.property(fc.array(one, { minLength: 1, maxLength: 12 }), (list) => {
        const parts = list.map(({ block, blocks }, index) => ({
          offset: block * BLOCK,
          data: Buffer.alloc(blocks * BLOCK, index + 1),
        }));
        const payload = Buffer.concat([
          ...parts.map(({ offset, data }) => entry(BigInt(offset), data, 0xbf00_0000_0000_0005n)),
          Buffer.from('leftovers'),
        ]);
        const bytes = payload.length - 9;
        expect(faultInEntries(payload, bytes, SIZE)).toBe(null);
        expect(entriesOf(payload, bytes)).toEqual(
          parts.map(({ offset, data }) => seenOf(offset, data)),
        );
        expect(faultInEntries(payload, payload.length, SIZE)).toContain('cut in its header');
      }),
      { numRuns: 50 },
    );
  });

  test('are what the staging queue writes', () => {
    const payload = Buffer.alloc(28 + BLOCK, 3);
    encodeWriteHeader(payload, 0, { offset: 2 ** 39, length: BLOCK, batch: 77, index: 5 });
    expect(faultInEntries(payload, payload.length, SIZE)).toBe(null);
    expect(entriesOf(payload)).toEqual([seenOf(2 ** 39, Buffer.alloc(BLOCK, 3))]);
  });

  test('with one fault anywhere are refused', () => {
    const data = Buffer.alloc(BLOCK, 1);
    const good = entry(0n, data);
    const patched = (at: number, bytes: string): Buffer => {
      const copy = Buffer.from(good);
      copy.write(bytes, at, 'hex');
      return copy;
    };
    const end = BigInt(SIZE);
    const faults: [string, Buffer][] = [
      ['without entries', Buffer.alloc(0)],
      ['no entry', patched(0, '25609514')],
      ['no plain write', patched(4, '0001')],
      ['no plain write', patched(6, '0000')],
      ['no plain write', patched(6, '0006')],
      ['not whole blocks', patched(24, '00000000')],
      ['not whole blocks', patched(24, '00000fff')],
      ['cut in its data', patched(24, '00002000')],
      ['cut in its data', patched(24, 'fffff000')],
      ['not whole blocks', entry(1n, data)],
      ['not whole blocks', entry(2n ** 53n, data)],
      ['not whole blocks', entry(2n ** 64n - 4096n, data)],
      ['past the end', entry(end, data)],
      ['past the end', entry(2n ** 53n - 4096n, data)],
      ['past the end', entry(end - 4096n, Buffer.alloc(2 * BLOCK))],
      ['cut in its data', good.subarray(0, -1)],
      ['cut in its header', Buffer.concat([good, good.subarray(0, 27)])],
    ];
    expect(faultInEntries(good, good.length, SIZE)).toBe(null);
    expect(faultInEntries(entry(end - 4096n, data), good.length, SIZE)).toBe(null);
    for (const [why, payload] of faults) {
      expect(faultInEntries(payload, payload.length, SIZE), why).toContain(why);
      const behind = Buffer.concat([good, payload]);
      if (payload.length === 0) continue;
      expect(faultInEntries(behind, behind.length, SIZE), why).toContain(why);
    }
  });

  test('of any bytes are refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => {
        expect(faultInEntries(Buffer.from(bytes), bytes.length, SIZE)).not.toBe(null);
      }),
    );
  });
});

describe('ranges', () => {
  test('come back as they went, in any order', () => {
    const one = fc.record({
      offset: place.map((block) => block * BLOCK),
      length: fc.integer({ min: 1, max: 64 }).map((blocks) => blocks * BLOCK),
      trim: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(one, { minLength: 1, maxLength: 50 }), (list) => {
        const table = encodeRanges(list);
        const byHand = list.map(({ offset, length, trim }) =>
          range(BigInt(offset), BigInt(length), trim ? 1 : 0),
        );
        expect(table.equals(Buffer.concat(byHand))).toBe(true);
        expect(faultInRanges(table, table.length, SIZE)).toBe(null);
        expect(rangesOf(table)).toEqual(list);
      }),
    );
  });

  test('reach to the last byte of the largest volume', () => {
    const whole = [{ offset: 0, length: VOLUME_BYTES_MAX, trim: false }];
    const table = encodeRanges(whole);
    expect(faultInRanges(table, table.length, VOLUME_BYTES_MAX)).toBe(null);
    expect(rangesOf(table)).toEqual(whole);
    expect(faultInRanges(table, table.length, VOLUME_BYTES_MAX - BLOCK)).toContain('past the end');
  });

  test('with one fault anywhere are refused', () => {
    const good = range(4096n, 4096n);
    const end = BigInt(SIZE);
    const faults: [string, Buffer][] = [
      ['0 bytes', Buffer.alloc(0)],
      ['19 bytes', good.subarray(0, 19)],
      ['flags 2', range(0n, 4096n, 2)],
      ['flags 4294967295', range(0n, 4096n, 0xffff_ffff)],
      ['not whole blocks', range(0n, 0n)],
      ['not whole blocks', range(1n, 4096n)],
      ['not whole blocks', range(0n, 4095n)],
      ['not whole blocks', range(2n ** 53n, 4096n)],
      ['not whole blocks', range(0n, 2n ** 64n - 4096n)],
      ['past the end', range(end, 4096n)],
      ['past the end', range(end - 4096n, 8192n)],
      ['past the end', range(2n ** 53n - 4096n, 2n ** 53n - 4096n)],
      ['past the end', range(4096n, end)],
    ];
    expect(faultInRanges(good, good.length, SIZE)).toBe(null);
    for (const [why, table] of faults) {
      expect(faultInRanges(table, table.length, SIZE), why).toContain(why);
      const behind = Buffer.concat([good, table]);
      if (table.length % 20 !== 0 || table.length === 0) continue;
      expect(faultInRanges(behind, behind.length, SIZE), why).toContain(why);
    }
    const many = Buffer.concat(Array.from({ length: LINK_RANGES_MAX + 1 }, () => good));
    expect(faultInRanges(many, many.length, SIZE)).toContain(`${LINK_RANGES_MAX + 1} ranges`);
    expect(faultInRanges(many, many.length - 20, SIZE)).toBe(null);
  });

  test('that no table may have are not written', () => {
    const good = { offset: 0, length: BLOCK, trim: false };
    expect(() => encodeRanges([])).toThrow();
    const many = Array.from({ length: LINK_RANGES_MAX + 1 }, () => good);
    expect(() => encodeRanges(many)).toThrow();
    expect(encodeRanges(many.slice(1)).length).toBe(LINK_RANGES_MAX * 20);
    for (const wrong of [{ offset: 5 }, { offset: -BLOCK }, { length: 0 }, { length: 100 }]) {
      expect(() => encodeRanges([{ ...good, ...wrong }])).toThrow();
    }
    expect(() => encodeRanges([{ ...good, offset: 2 ** 53 - BLOCK }])).toThrow();
  });
});
