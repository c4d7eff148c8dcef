/**
 * The staging queue by itself: numbers, who follows from where, what leaving tells, when payloads are let go,
 * and how bytes are counted. The folded content of consecutive epochs is that of the writes (model of bytes).
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLOCK_BYTES,
  EPOCHS_MAX,
  EPOCH_BYTES,
  EPOCH_BYTES_MAX,
  EPOCH_ZERO_RANGES_MAX,
  STAGING_SLAB_BYTES,
} from '../../src/io/limits.ts';
import { SlabPool } from '../../src/replicator/staging/slab.ts';
import { StagingQueue } from '../../src/replicator/staging/staging-queue.ts';
import { stamped } from './support/host.ts';
import { SparseImage } from './support/sparse-image.ts';

const KIB64 = 65_536;

function put(queue: StagingQueue, block: number, stamp = 1, blocks = 1, now = 5): number {
  return queue.append(
    block * BLOCK_BYTES,
    stamped(blocks * BLOCK_BYTES, stamp),
    0,
    blocks * BLOCK_BYTES,
    now,
  );
}

/** Stages 8 MiB; what it returns lets go of them. */
function fill(queue: StagingQueue): () => void {
  const follower = queue.follow();
  for (let block = 0; block < 8 * 256; block += 64) put(queue, block, 1, 64);
  return () => queue.release(follower, queue.close('barrier'));
}

const newQueue = (limitBytes?: number): StagingQueue =>
  new StagingQueue({
    firstEpoch: 1,
    clock: { wall: () => 1000 },
    ...(limitBytes === undefined ? {} : { limitBytes }),
  });

describe('the staging queue', () => {
  it('stages nothing for nobody', () => {
    const queue = newQueue();
    expect(queue.active).toBe(false);
    expect(() => put(queue, 0)).toThrow('nobody follows');
    expect(() => queue.appendZeroes(0, BLOCK_BYTES, 0, false)).toThrow('nobody follows');
    expect(queue.close('barrier')).toBe(0);
  });

  it('gives numbers that rise by one, also to those that wait for what is open', () => {
    const queue = newQueue();
    const open = queue.openNumber;
    const follower = queue.follow();
    // Whoever waits for the number that was open has it when the follower is in.
    expect(follower.released).toBeGreaterThanOrEqual(open);
    const first = put(queue, 0);
    expect(put(queue, 1)).toBe(first);
    expect(queue.close('barrier')).toBe(first);
    expect(queue.close('barrier')).toBe(first);
    expect(put(queue, 2)).toBe(first + 1);
    expect(queue.epoch(first)?.closed).toBe('barrier');
    expect(queue.epoch(first + 1)).toBeNull();
  });

  it('has links woken when the open epoch has what one of them wants, at 8 MiB, and behind the end of an epoch; each time once', () => {
    const queue = newQueue();
    const follower = queue.follow();
    put(queue, 0);
    expect(queue.takeWake()).toBe(false);
    for (const [most, least] of [[4, 2] as const, [2, 4] as const]) {
      const from = queue.openBytes;
      queue.wantsMore(from + most * BLOCK_BYTES);
      queue.wantsMore(from + least * BLOCK_BYTES);
      put(queue, from / BLOCK_BYTES);
      expect(queue.takeWake()).toBe(false);
      put(queue, from / BLOCK_BYTES + 1);
      expect([queue.takeWake(), queue.takeWake()]).toEqual([true, false]);
    }
    queue.wantsMore(queue.openBytes + BLOCK_BYTES);
    queue.close('barrier');
    put(queue, 0);
    expect([queue.takeWake(), queue.takeWake()]).toEqual([true, false]);
    put(queue, 1, 1, EPOCH_BYTES / BLOCK_BYTES - 2);
    expect(queue.takeWake()).toBe(false);
    put(queue, EPOCH_BYTES / BLOCK_BYTES);
    // Nobody asked: a mirror that is no node takes whole epochs, and has to be told that this one is large enough.
    expect(queue.takeWake()).toBe(true);
    queue.leave(follower, () => {});
  });

  it('takes memory that the queue of another volume gave back, and keeps it once for both', () => {
    const slabs = new SlabPool(2 * STAGING_SLAB_BYTES, 16 * STAGING_SLAB_BYTES);
    const queueOf = (): StagingQueue =>
      new StagingQueue({ firstEpoch: 1, clock: { wall: () => 1000 }, slabs });
    const drained = fill(queueOf());
    expect(slabs.idleBytes).toBe(0);
    drained();
    expect(slabs.idleBytes).toBe(2 * STAGING_SLAB_BYTES);
    const first = fill(queueOf());
    expect(slabs.idleBytes).toBe(0);
    const second = fill(queueOf());
    first();
    // What the first gave back is there for the second, which is still busy.
    expect(slabs.idleBytes).toBeGreaterThan(4 * STAGING_SLAB_BYTES);
    second();
    expect(slabs.idleBytes).toBe(2 * STAGING_SLAB_BYTES);
  });

  it('keeps an epoch until every follower has it', () => {
    const queue = newQueue();
    const one = queue.follow();
    const two = queue.follow();
    const number = put(queue, 0, 1, 4);
    queue.close('size');
    put(queue, 9, 1, 2);
    expect(queue.stagedBytes).toBe(6 * BLOCK_BYTES);
    queue.release(one, number);
    expect(queue.stagedBytesOf(one)).toBe(2 * BLOCK_BYTES);
    expect(queue.stagedBytesOf(two)).toBe(6 * BLOCK_BYTES);
    expect(queue.epoch(number)).not.toBeNull();
    queue.release(two, number);
    expect(queue.epoch(number)).toBeNull();
    expect(queue.stagedBytes).toBe(2 * BLOCK_BYTES);
    expect(() => queue.release(one, number - 1)).toThrow('only rises');
    expect(() => queue.release(one, queue.openNumber)).toThrow('only rises');
  });

  it('tells a follower that leaves what it lacks, and no other', () => {
    const queue = newQueue();
    const early = queue.follow();
    const first = put(queue, 0);
    queue.close('barrier');
    const late = queue.follow();
    put(queue, 10, 1, 3);
    queue.close('barrier');
    queue.appendZeroes(20 * BLOCK_BYTES, 2 * BLOCK_BYTES, 6, false);
    const lackingOf = (follower: typeof early): number[] => {
      const blocks: number[] = [];
      queue.leave(follower, (offset, length) => {
        for (let at = offset; at < offset + length; at += BLOCK_BYTES)
          blocks.push(at / BLOCK_BYTES);
      });
      return blocks.toSorted((a, b) => a - b);
    };
    queue.release(early, first);
    expect(lackingOf(late)).toEqual([10, 11, 12, 20, 21]);
    expect(lackingOf(early)).toEqual([10, 11, 12, 20, 21]);
    expect(queue.active).toBe(false);
    expect(queue.stagedBytes).toBe(0);
    expect(() => queue.leave(early, () => {})).toThrow('active follower');
  });

  it('says since when a follower is behind, whatever was sealed empty', () => {
    const queue = newQueue();
    const follower = queue.follow();
    queue.seal();
    queue.follow();
    expect(queue.behindSince(follower)).toBeNull();
    put(queue, 0, 1, 1, 700);
    put(queue, 1, 1, 1, 800);
    expect(queue.behindSince(follower)).toBe(700);
    queue.close('age');
    put(queue, 1, 1, 1, 900);
    expect(queue.behindSince(follower)).toBe(700);
    queue.release(follower, queue.openNumber - 1);
    expect(queue.behindSince(follower)).toBe(900);
  });

  it('gives an epoch that a conflict opened the time of its first write', () => {
    const queue = newQueue();
    const follower = queue.follow();
    queue.appendZeroes(0, BLOCK_BYTES, 100, false);
    put(queue, 0, 1, 1, 200);
    queue.release(follower, queue.openNumber - 1);
    expect(queue.behindSince(follower)).toBe(200);
  });

  it('closes an epoch at its limits', () => {
    const queue = newQueue();
    queue.follow();
    const first = queue.openNumber;
    for (let bytes = 0; bytes < EPOCH_BYTES_MAX; bytes += KIB64 * 16) {
      put(queue, bytes / BLOCK_BYTES, 1, 256);
    }
    expect(queue.openNumber).toBe(first + 1);
    for (let range = 0; range < EPOCH_ZERO_RANGES_MAX; range += 1) {
      queue.appendZeroes(range * 2 * BLOCK_BYTES, BLOCK_BYTES, 5, false);
    }
    expect(queue.openNumber).toBe(first + 2);
  });

  it('counts bytes once however often a block is written, and says how full it is', () => {
    const queue = newQueue(KIB64);
    const follower = queue.follow();
    for (let round = 0; round < 100; round += 1) put(queue, 3, round, 4);
    expect(queue.stagedBytes).toBe(4 * BLOCK_BYTES);
    expect(queue.crowded).toBe(false);
    put(queue, 10, 1, 4);
    expect(queue.crowded).toBe(true);
    expect(queue.backlogOf(follower)).toEqual({
      bytes: 8 * BLOCK_BYTES,
      limitBytes: KIB64,
      epochs: 0,
      limitEpochs: EPOCHS_MAX,
    });
  });

  it('counts epochs that carry no bytes', () => {
    const queue = newQueue();
    const slow = queue.follow();
    const quick = queue.follow();
    for (let round = 0; round < EPOCHS_MAX / 2; round += 1) {
      queue.appendZeroes(0, BLOCK_BYTES, 5, false);
      queue.release(quick, queue.close('barrier'));
    }
    expect(queue.crowded).toBe(true);
    expect(queue.backlogOf(quick).epochs).toBe(0);
    expect(queue.backlogOf(slow).epochs).toBeGreaterThanOrEqual(EPOCHS_MAX / 2);
    queue.leave(slow, () => {});
    expect(queue.crowded).toBe(false);
  });

  it('gives the content of the writes, epoch after epoch', () => {
    const change = fc.record({
      kind: fc.constantFrom('write', 'write', 'write', 'zero', 'flush'),
      block: fc.nat(60),
      blocks: fc.integer({ min: 1, max: 12 }),
      stamp: fc.nat(),
    });
    fc.assert(
      fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
        const queue = newQueue();
        const follower = queue.follow();
        const model = new SparseImage();
        for (const { kind, block, blocks, stamp } of changes) {
          if (kind === 'flush') queue.close('barrier');
          else if (kind === 'zero') {
            queue.appendZeroes(block * BLOCK_BYTES, blocks * BLOCK_BYTES, 5, false);
            model.zero(block * BLOCK_BYTES, blocks * BLOCK_BYTES);
          } else {
            put(queue, block, stamp, blocks);
            model.write(block * BLOCK_BYTES, stamped(blocks * BLOCK_BYTES, stamp));
          }
        }
        queue.close('command');
        const mirror = new SparseImage();
        for (let number = follower.released + 1; number < queue.openNumber; number += 1) {
          const epoch = queue.epoch(number);
          // Zeroes and payloads of one epoch never meet: either may be first.
          const zeroesFirst = number % 2 === 0;
          const zeroes = epoch?.zeroes ?? [];
          if (zeroesFirst) for (const { offset, length } of zeroes) mirror.zero(offset, length);
          for (const chunk of epoch?.chunks() ?? []) {
            for (let at = 0; at < chunk.length; at += 28 + chunk.readUInt32BE(at + 24)) {
              const length = chunk.readUInt32BE(at + 24);
              const offset = Number(chunk.readBigUInt64BE(at + 16));
              mirror.write(offset, chunk.subarray(at + 28, at + 28 + length));
            }
          }
          if (!zeroesFirst) for (const { offset, length } of zeroes) mirror.zero(offset, length);
        }
        expect(mirror.differences(model)).toEqual([]);
      }),
      { numRuns: 200 },
    );
  });
});
