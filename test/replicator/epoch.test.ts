/**
 * An epoch folds what was written into it: whatever was added, its wire chunks and zero ranges, applied in any
 * order of entries, give the image that the writes gave. Judged by a model of bytes and a decoder of its own.
 */
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES, STAGING_SLAB_BYTES } from '../../src/io/limits.ts';
import { ENTRY_BYTES_MAX, Epoch, SlabWriter } from '../../src/replicator/staging/epoch.ts';
import { SlabPool } from '../../src/replicator/staging/slab.ts';
import { seeded, stamped } from './support/host.ts';
import { SparseImage } from './support/sparse-image.ts';

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

interface Entry {
  readonly cookieHigh: number;
  readonly index: number;
  readonly offset: number;
  readonly payload: Buffer;
}

/** The requests in wire chunks, as the protocol describes them (section 2); nothing of ours is used. */
function decode(chunks: readonly Buffer[]): Entry[] {
  const entries: Entry[] = [];
  for (const chunk of chunks) {
    let at = 0;
    while (at < chunk.length) {
      expect(chunk.readUInt32BE(at)).toBe(0x25609513);
      expect(chunk.readUInt16BE(at + 4)).toBe(0);
      expect(chunk.readUInt16BE(at + 6)).toBe(1);
      const length = chunk.readUInt32BE(at + 24);
      entries.push({
        cookieHigh: chunk.readUInt32BE(at + 8),
        index: chunk.readUInt32BE(at + 12),
        offset: Number(chunk.readBigUInt64BE(at + 16)),
        payload: chunk.subarray(at + 28, at + 28 + length),
      });
      expect(entries.at(-1)?.payload.length).toBe(length);
      at += 28 + length;
    }
  }
  return entries;
}

const at = (block: number): [number, number] => [block * BLOCK_BYTES, BLOCK_BYTES];

const newEpoch = (number = 1, pool = new SlabPool(0)): Epoch =>
  new Epoch(number, new SlabWriter(pool));

/** Applies what the epoch tells the mirror, in a random order. */
function applied(epoch: Epoch, order: () => number): SparseImage {
  const image = new SparseImage();
  const steps = [
    ...decode(epoch.chunks()).map(
      ({ offset, payload }) =>
        () =>
          image.write(offset, payload),
    ),
    ...epoch.zeroes.map(
      ({ offset, length }) =>
        () =>
          image.zero(offset, length),
    ),
  ];
  while (steps.length > 0) steps.splice(Math.floor(order() * steps.length), 1)[0]?.();
  return image;
}

const writes = fc.array(
  fc.record({ block: fc.nat(600), blocks: fc.integer({ min: 1, max: 90 }), stamp: fc.nat() }),
  { minLength: 1, maxLength: 40 },
);

describe('an epoch', () => {
  it('gives the image of its writes, applied in any order', () => {
    fc.assert(
      fc.property(writes, fc.nat(), (all, seed) => {
        const epoch = newEpoch();
        const model = new SparseImage();
        for (const { block, blocks, stamp } of all) {
          const bytes = stamped(blocks * BLOCK_BYTES, stamp);
          model.write(block * BLOCK_BYTES, bytes);
          // The payload stands somewhere in a larger buffer, as in a session.
          epoch.add(block * BLOCK_BYTES, Buffer.concat([Buffer.alloc(5), bytes]), 5, bytes.length);
        }
        epoch.close('size', 0);
        expect(applied(epoch, seeded(seed)).differences(model)).toEqual([]);
      }),
      { numRuns: 150 },
    );
  });

  it('holds each block once, in entries that any server takes, and tells all of them', () => {
    fc.assert(
      fc.property(writes, (all) => {
        const epoch = newEpoch(7);
        for (const { block, blocks } of all) {
          epoch.add(
            block * BLOCK_BYTES,
            Buffer.alloc(blocks * BLOCK_BYTES),
            0,
            blocks * BLOCK_BYTES,
          );
        }
        epoch.close('size', 0);
        const seen = new Set<number>();
        const entries = decode(epoch.chunks());
        for (const [position, { offset, payload, index, cookieHigh }] of entries.entries()) {
          expect(payload.length).toBeLessThanOrEqual(ENTRY_BYTES_MAX);
          expect({ index, cookieHigh }).toEqual({ index: position, cookieHigh: 0xbf000007 });
          for (let at = offset; at < offset + payload.length; at += BLOCK_BYTES) {
            expect(seen.has(at)).toBe(false);
            seen.add(at);
          }
        }
        expect(epoch.entryCount).toBe(entries.length);
        expect(epoch.bytes).toBe(seen.size * BLOCK_BYTES);
        const told = new Set<number>();
        epoch.eachRange((offset, length) => {
          for (let at = offset; at < offset + length; at += BLOCK_BYTES) told.add(at);
        });
        expect(told).toEqual(seen);
      }),
      { numRuns: 100 },
    );
  });

  it('joins what is written one after another into large entries', () => {
    const epoch = newEpoch();
    for (let block = 0; block < 128; block += 1) {
      epoch.add(block * BLOCK_BYTES, stamped(BLOCK_BYTES, block), 0, BLOCK_BYTES);
    }
    epoch.close('age', 0);
    expect(epoch.entryCount).toBe(2);
  });

  it('keeps the bytes of others in a slab that they share', () => {
    const pool = new SlabPool(STAGING_SLAB_BYTES * 8);
    const writer = new SlabWriter(pool);
    const epochs: { epoch: Epoch; model: SparseImage }[] = [];
    for (let number = 1; number <= 30; number += 1) {
      const epoch = new Epoch(number, writer);
      const model = new SparseImage();
      for (let block = 0; block < number * 7; block += 3) {
        const bytes = stamped(2 * BLOCK_BYTES, number * 1000 + block);
        model.write(block * BLOCK_BYTES, bytes);
        epoch.add(block * BLOCK_BYTES, bytes, 0, bytes.length);
      }
      epoch.close('barrier', 0);
      epochs.push({ epoch, model });
      // The old ones go: their slabs are used again, those of the others are not.
      if (epochs.length > 5) epochs.shift()?.epoch.release();
      for (const each of epochs) {
        expect(applied(each.epoch, seeded(number)).differences(each.model)).toEqual([]);
      }
    }
  });

  it('keeps its slabs for a send that outlives it', () => {
    const pool = new SlabPool(STAGING_SLAB_BYTES * 8);
    const writer = new SlabWriter(pool);
    const first = new Epoch(1, writer);
    first.add(0, stamped(3 * STAGING_SLAB_BYTES, 1), 0, 3 * STAGING_SLAB_BYTES);
    first.close('size', 0);
    const chunks = first.chunks();
    const before = Buffer.concat(chunks);
    const letGo = first.holdSlabs();
    first.release();
    const second = new Epoch(2, writer);
    for (let round = 0; round < 6; round += 1) {
      second.add(round * 2 ** 22, stamped(2 ** 20, 9), 0, 2 ** 20);
    }
    expect(Buffer.concat(chunks).equals(before)).toBe(true);
    letGo();
  });

  it('does not keep its slabs from the garbage collector once the queue let it go', async () => {
    const writer = new SlabWriter(new SlabPool(0));
    const epoch = new Epoch(1, writer);
    epoch.add(0, stamped(3 * STAGING_SLAB_BYTES, 1), 0, 3 * STAGING_SLAB_BYTES);
    epoch.close('size', 0);
    const slabs = epoch.segments.map(({ slab }) => new WeakRef(slab));
    writer.close();
    // A reference that was looked at in this turn stays for this turn.
    await setImmediate();
    collectGarbage();
    expect(slabs.map((slab) => slab.deref() !== undefined)).toEqual([true, true, true, true]);
    epoch.release();
    await setImmediate();
    collectGarbage();
    expect(slabs.map((slab) => slab.deref() !== undefined)).toEqual([false, false, false, false]);
    expect(epoch.released).toBe(true);
  });

  it('uses the slabs of a busy queue again, and keeps few of an idle one', () => {
    const pool = new SlabPool(STAGING_SLAB_BYTES * 2, STAGING_SLAB_BYTES * 20);
    const held = Array.from({ length: 30 }, () => pool.take());
    const known = new Set(held);
    for (let count = 0; count < 100; count += 1) {
      for (const slab of held.splice(0, 20)) slab.release();
      expect(pool.idleBytes).toBe(STAGING_SLAB_BYTES * 20);
      while (held.length < 30) held.push(pool.take());
    }
    expect(held.every((slab) => known.has(slab))).toBe(true);
    // Many volumes were busy, and one still is: no more is kept for it than it can use.
    while (held.length < 45) held.push(pool.take());
    for (const slab of held.splice(0, 40)) slab.release();
    expect(pool.idleBytes).toBe(STAGING_SLAB_BYTES * 20);
    for (const slab of held) slab.release();
    expect([pool.idleBytes, pool.lentBytes]).toEqual([STAGING_SLAB_BYTES * 2, 0]);
    // What it was once busy with is forgotten.
    const few = Array.from({ length: 5 }, () => pool.take());
    for (const slab of few.splice(0, 2)) slab.release();
    expect(pool.idleBytes).toBe(STAGING_SLAB_BYTES * 2);
  });

  it('reaches offsets past 2^32 blocks', () => {
    const epoch = newEpoch();
    const offset = 2 ** 45 + 3 * BLOCK_BYTES;
    epoch.add(offset, stamped(8192, 1), 0, 8192);
    epoch.add(offset + BLOCK_BYTES, stamped(8192, 2), 0, 8192);
    expect(epoch.conflictsWithPayload(offset - 2 ** 32, 2 ** 32)).toBe(false);
    expect(epoch.conflictsWithPayload(offset - 2 ** 32 + BLOCK_BYTES, 2 ** 32)).toBe(true);
    epoch.close('size', 0);
    const entries = decode(epoch.chunks());
    expect(entries.map((entry) => entry.offset)).toEqual([offset]);
    expect(entries[0]?.payload.subarray(4096).equals(stamped(8192, 2))).toBe(true);
  });

  it('knows which zeroes and payloads cannot share it', () => {
    const epoch = newEpoch();
    epoch.add(5 * BLOCK_BYTES, stamped(BLOCK_BYTES, 1), 0, BLOCK_BYTES);
    epoch.addZeroes(8 * BLOCK_BYTES, 2 * BLOCK_BYTES, false);
    epoch.addZeroes(10 * BLOCK_BYTES, BLOCK_BYTES, false);
    expect(epoch.zeroes).toEqual([
      { offset: 8 * BLOCK_BYTES, length: 3 * BLOCK_BYTES, trim: false },
    ]);
    expect([4, 5, 6].map((block) => epoch.conflictsWithPayload(...at(block)))).toEqual([
      false,
      true,
      false,
    ]);
    expect([7, 8, 10, 11].map((block) => epoch.conflictsWithZeroes(...at(block)))).toEqual([
      false,
      true,
      true,
      false,
    ]);
  });

  it('refuses to change when it is closed, and parts of blocks', () => {
    const epoch = newEpoch();
    expect(() => epoch.add(100, Buffer.alloc(4096), 0, 4096)).toThrow('whole blocks');
    epoch.close('age', 0);
    expect(() => epoch.add(0, Buffer.alloc(4096), 0, 4096)).toThrow('never changes');
    expect(() => epoch.addZeroes(0, 4096, false)).toThrow('never changes');
    expect(() => epoch.close('age', 0)).toThrow('closed once');
  });
});
