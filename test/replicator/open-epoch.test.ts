/**
 * Links take what is in the open epoch while the host goes on writing. Random changes, some of them in parts, with
 * random takes of several links between them: what each link took of an epoch gives, in any order, the content
 * that the writes up to that epoch gave; no byte that was taken changes afterwards; no change is torn.
 * Judged by a model of bytes and a decoder that uses nothing of ours.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLOCK_BYTES,
  EPOCH_BYTES_MAX,
  EPOCH_ZERO_RANGES_MAX,
  NBD_PAYLOAD_BYTES_MAX,
} from '../../src/io/limits.ts';
import { EpochCursor } from '../../src/replicator/staging/epoch-cursor.ts';
import { StagingQueue } from '../../src/replicator/staging/staging-queue.ts';
import { seeded, stamped } from './support/host.ts';
import { SparseImage } from './support/sparse-image.ts';
import { decodeEntries } from './support/staged-entries.ts';

interface Change {
  readonly epoch: number;
  apply(image: SparseImage): void;
}

interface Piece {
  readonly epoch: number;
  readonly taken: Buffer | null;
  readonly copy: Buffer | null;
  readonly zeroes: readonly { offset: number; length: number }[];
}

/** A link that takes what it likes and keeps it. */
class Taker {
  readonly cursor: EpochCursor;
  readonly pieces: Piece[] = [];
  private readonly queue: StagingQueue;

  constructor(queue: StagingQueue, after: number) {
    this.queue = queue;
    this.cursor = new EpochCursor(after + 1);
  }

  /** Takes pieces of at most `maxBytes`, `count` of them; goes on to the next epoch where one is closed. */
  take(count: number, maxBytes: number): void {
    for (let left = count; left > 0; left -= 1) {
      const epoch = this.queue.epochOrOpen(this.cursor.number);
      if (epoch === null) throw new Error('an epoch that was not taken is gone');
      const zeroes = this.cursor.takeZeroes(epoch);
      const taken = this.cursor.takeEntries(epoch, maxBytes);
      // As a link does with what it is about to send.
      if (taken !== null) this.cursor.slab?.hold();
      const copy = taken === null ? null : Buffer.from(taken);
      if (taken !== null || zeroes.length > 0) {
        this.pieces.push({ epoch: epoch.number, taken, copy, zeroes });
      }
      if (epoch.closed === null || !this.cursor.hasAllOf(epoch)) continue;
      this.cursor.advance();
    }
  }

  takeAll(): void {
    while (this.cursor.number < this.queue.openNumber) this.take(1, 2 ** 21);
  }

  of(epoch: number): Piece[] {
    return this.pieces.filter((piece) => piece.epoch === epoch);
  }
}

/** The changes of a host, and what the queue made of them. */
class World {
  readonly queue = new StagingQueue({ firstEpoch: 2 ** 40, clock: { wall: () => 1000 } });
  readonly follower = this.queue.follow();
  readonly takers = [0, 1, 2].map(() => new Taker(this.queue, this.follower.released));
  readonly changes: Change[] = [];

  write(block: number, blocks: number, stamp: number, parts: number): void {
    const offset = block * BLOCK_BYTES;
    const bytes = stamped(blocks * BLOCK_BYTES, stamp);
    if (parts === 1) {
      this.changed(this.queue.append(offset, bytes, 0, bytes.length, 5), (image) =>
        image.write(offset, bytes),
      );
      return;
    }
    this.queue.beginPayloads(offset, bytes.length);
    const epochs = new Set<number>();
    const step = Math.ceil(blocks / parts) * BLOCK_BYTES;
    for (let at = 0; at < bytes.length; at += step) {
      const length = Math.min(step, bytes.length - at);
      epochs.add(this.queue.append(offset + at, bytes, at, length, 5));
    }
    this.queue.endChange();
    expect(epochs.size).toBe(1);
    this.changed([...epochs][0] ?? 0, (image) => image.write(offset, bytes));
  }

  /** Zeroes, with a block of data at each end when there are three or more. */
  zero(block: number, blocks: number, stamp: number, mixed: boolean): void {
    const offset = block * BLOCK_BYTES;
    const length = blocks * BLOCK_BYTES;
    if (!mixed || blocks < 3) {
      this.changed(this.queue.appendZeroes(offset, length, 5, false), (image) =>
        image.zero(offset, length),
      );
      return;
    }
    const edge = stamped(BLOCK_BYTES, stamp);
    const last = offset + length - BLOCK_BYTES;
    this.queue.beginMixed(offset, length);
    const epochs = new Set([
      this.queue.append(offset, edge, 0, BLOCK_BYTES, 5),
      this.queue.appendZeroes(offset + BLOCK_BYTES, length - 2 * BLOCK_BYTES, 5, false),
      this.queue.append(last, edge, 0, BLOCK_BYTES, 5),
    ]);
    this.queue.endChange();
    expect(epochs.size).toBe(1);
    this.changed([...epochs][0] ?? 0, (image) => {
      image.zero(offset, length);
      image.write(offset, edge);
      image.write(last, edge);
    });
  }

  private changed(epoch: number, apply: (image: SparseImage) => void): void {
    expect(epoch).toBeGreaterThanOrEqual(this.changes.at(-1)?.epoch ?? 0);
    this.changes.push({ epoch, apply });
  }

  /** Compares what every link took with the model, at the end of every epoch. */
  judge(order: () => number): void {
    this.queue.close('command');
    for (const taker of this.takers) taker.takeAll();
    const model = new SparseImage();
    const images = this.takers.map(() => new SparseImage());
    const changes = [...this.changes];
    for (let epoch = this.follower.released + 1; epoch < this.queue.openNumber; epoch += 1) {
      while (changes[0]?.epoch === epoch) changes.shift()?.apply(model);
      for (const [index, taker] of this.takers.entries()) {
        const image = images[index] ?? new SparseImage();
        applyShuffled(taker.of(epoch), image, order);
        expect(image.differences(model)).toEqual([]);
      }
    }
    for (const taker of this.takers) {
      for (const { taken, copy } of taker.pieces) {
        expect(taken === null || copy?.equals(taken)).toBe(true);
      }
    }
  }
}

function applyShuffled(pieces: readonly Piece[], image: SparseImage, order: () => number): void {
  const steps: (() => void)[] = [];
  for (const { taken, zeroes } of pieces) {
    for (const { offset, payload } of taken === null ? [] : decodeEntries([taken])) {
      steps.push(() => image.write(offset, payload));
    }
    for (const { offset, length } of zeroes) steps.push(() => image.zero(offset, length));
  }
  while (steps.length > 0) steps.splice(Math.floor(order() * steps.length), 1)[0]?.();
}

const action = fc.record({
  kind: fc.constantFrom(
    'write',
    'write',
    'write',
    'parts',
    'zero',
    'mixed',
    'flush',
    'take',
    'take',
  ),
  block: fc.nat(40),
  blocks: fc.integer({ min: 1, max: 12 }),
  stamp: fc.nat(),
  taker: fc.nat(2),
  maxBytes: fc.constantFrom(4096 + 28, 3 * 4096 + 28, 2 ** 20),
});

describe('an open epoch', () => {
  it('gives each link the same content, of which nothing changes any more', () => {
    fc.assert(
      fc.property(fc.array(action, { maxLength: 80 }), fc.nat(), (actions, seed) => {
        const world = new World();
        for (const { kind, block, blocks, stamp, taker, maxBytes } of actions) {
          if (kind === 'write') world.write(block, blocks, stamp, 1);
          else if (kind === 'parts') world.write(block, blocks, stamp, 3);
          else if (kind === 'zero') world.zero(block, blocks, stamp, false);
          else if (kind === 'mixed') world.zero(block, blocks, stamp, true);
          else if (kind === 'flush') world.queue.close('barrier');
          else world.takers[taker]?.take(1 + (stamp % 4), maxBytes);
        }
        world.judge(seeded(seed));
      }),
      { numRuns: 300 },
    );
  });

  it('folds what no link took, and ends before a block that one took', () => {
    const world = new World();
    const { queue } = world;
    for (let round = 0; round < 5; round += 1) world.write(3, 2, round, 1);
    expect(queue.openBytes).toBe(2 * BLOCK_BYTES);
    const first = queue.openNumber;
    world.takers[0]?.take(1, 2 ** 20);
    world.write(9, 1, 1, 1);
    world.write(9, 1, 2, 1);
    expect(queue.openNumber).toBe(first);
    expect(queue.openBytes).toBe(3 * BLOCK_BYTES);
    world.write(4, 1, 3, 1);
    expect(queue.openNumber).toBe(first + 1);
    expect(queue.epoch(first)?.closed).toBe('conflict');
    world.judge(seeded(1));
  });

  it('lets neither an entry nor a zero range grow that was taken', () => {
    const world = new World();
    const taker = world.takers[0];
    for (let block = 0; block < 4; block += 1) {
      world.write(block, 1, block, 1);
      world.zero(100 + block, 1, 0, false);
      if (block === 1) taker?.take(1, 2 ** 20);
    }
    const epoch = world.queue.epochOrOpen(world.queue.openNumber);
    expect(epoch?.entryCount).toBe(2);
    expect(epoch?.zeroes.map(({ length }) => length / BLOCK_BYTES)).toEqual([2, 2]);
    world.judge(seeded(2));
  });

  it('gives whole entries, as many as fit', () => {
    const world = new World();
    const taker = world.takers[0];
    for (let block = 0; block < 20; block += 2) world.write(block, 1, block, 1);
    taker?.take(1, 4096 + 27);
    expect(taker?.pieces).toEqual([]);
    taker?.take(1, 3 * 4124 + 4123);
    expect(taker?.pieces.map(({ taken }) => taken?.length)).toEqual([3 * 4124]);
    world.judge(seeded(3));
  });

  it('is never longer than the limit, or than the one change in it', () => {
    const world = new World();
    const large = NBD_PAYLOAD_BYTES_MAX / BLOCK_BYTES;
    world.write(0, 100, 1, 1);
    world.write(100_000, large, 2, 4);
    world.write(200_000, large + 1, 3, 1);
    world.write(300_000, 1, 4, 1);
    world.queue.close('command');
    const lengths: number[] = [];
    for (let number = world.follower.released + 1; number < world.queue.openNumber; number += 1) {
      lengths.push((world.queue.epoch(number)?.bytes ?? 0) / BLOCK_BYTES);
    }
    expect(EPOCH_BYTES_MAX).toBe(large * BLOCK_BYTES);
    expect(lengths).toEqual([100, large, large + 1, 1]);
  });

  it('takes a change whole that fills it in the middle', () => {
    const world = new World();
    for (let range = 1; range < EPOCH_ZERO_RANGES_MAX; range += 1) {
      world.zero(range * 10, 1, 0, false);
    }
    const first = world.queue.openNumber;
    world.zero(5000, 4, 1, true);
    expect(world.queue.openNumber).toBe(first + 1);
    world.judge(seeded(4));
  });

  it('ends with a command, also when it is empty, and knows when it ended', () => {
    const { queue } = new World();
    const command = { kind: 'freeze', id: '00112233445566778899aabbccddeeff' } as const;
    const number = queue.closeWithCommand(command);
    expect(queue.epoch(number)).toMatchObject({ command, closed: 'command', closedAt: 1000 });
    expect(queue.openNumber).toBe(number + 1);
    expect(queue.epochOrOpen(number + 1)).toMatchObject({ command: null, closedAt: 0 });
  });
});
