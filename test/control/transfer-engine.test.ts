/*
 * The copying engine against ends in memory that check what is asked of them: the target ends up with the
 * bytes of the source whatever the sizes, smallest blocks and holes of both are; no block of zeroes is written as
 * data; a bookmark tells only of what was flushed; after a failure or a stop it goes on from the bookmark and
 * gets there; a failed flush is final; little is in flight at one time.
 */
import { expect, test } from 'vitest';
import type { DataRun, TransferTarget } from '../../src/control/transfer/transfer-ends.ts';
import { Transfer, type TransferOptions } from '../../src/control/transfer/transfer.ts';
import type { Clock } from '../../src/io/clock.ts';
import { TRANSFER_CHUNKS_IN_FLIGHT_MAX, TRANSFER_CHUNK_BYTES } from '../../src/io/limits.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

type Random = () => number;

function randomOf(seed: number): Random {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Each look moves it on, so that bookmarks come often. */
function hastyClock(): Clock {
  let now = 0;
  return {
    now: () => (now += 900),
    wall: () => 0,
    after: () => ({ cancel: () => {} }),
    soon: (callback) => void setImmediate(callback),
  };
}

class MemoryEnd implements TransferTarget {
  readonly name = 'memory';
  readonly bytes: Buffer;
  readonly blockBytes: number;
  /** What survives: the bytes at the last flush. */
  durable: Buffer;
  runs: DataRun[] | null = null;
  reads = 0;
  readsMax = 0;
  writes = 0;
  zeroed = 0;
  failWriteAt = Infinity;
  failFlushAt = Infinity;
  flushes = 0;

  constructor(bytes: Buffer, blockBytes: number) {
    this.bytes = bytes;
    this.durable = Buffer.from(bytes);
    this.blockBytes = blockBytes;
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  async runAt(offset: number): Promise<DataRun> {
    const run = this.runs?.find(({ end }) => end > offset);
    return run ?? { end: this.bytes.length, zero: false };
  }

  async read(buffer: Buffer, start: number, length: number, offset: number): Promise<void> {
    this.check(offset, length);
    this.reads += 1;
    this.readsMax = Math.max(this.readsMax, this.reads);
    await pause();
    this.bytes.copy(buffer, start, offset, offset + length);
    this.reads -= 1;
  }

  async write(buffer: Buffer, start: number, length: number, offset: number): Promise<void> {
    this.check(offset, length);
    this.writes += 1;
    const fails = this.writes >= this.failWriteAt;
    for (let at = start; at + 4096 <= start + length; at += this.granule) {
      const block = buffer.subarray(at, Math.min(at + this.granule, start + length));
      expect(block.some((byte) => byte !== 0)).toBe(true);
    }
    await pause();
    if (fails) throw new Error('no space');
    buffer.copy(this.bytes, offset, start, start + length);
  }

  /** Set by the test: zeroes shorter than it cannot be told apart. */
  granule = 4096;

  async zero(offset: number, length: number): Promise<void> {
    this.check(offset, length);
    this.zeroed += length;
    await pause();
    this.bytes.fill(0, offset, offset + length);
  }

  async flush(): Promise<void> {
    this.flushes += 1;
    const now = Buffer.from(this.bytes);
    await pause();
    if (this.flushes >= this.failFlushAt) throw new Error('the disk is ill');
    this.durable = now;
  }

  async close(): Promise<void> {}

  private check(offset: number, length: number): void {
    expect(length).toBeGreaterThan(0);
    expect(offset % this.blockBytes).toBe(0);
    const end = offset + length;
    expect(end).toBeLessThanOrEqual(this.bytes.length);
    if (end !== this.bytes.length) expect(end % this.blockBytes).toBe(0);
  }
}

const pause = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Data and holes of all lengths; what is told of them is true, but not all that is zero is told. */
function randomSource(random: Random, sizeBytes: number, blockBytes: number): MemoryEnd {
  const source = new MemoryEnd(Buffer.alloc(sizeBytes), blockBytes);
  const runs: DataRun[] = [];
  for (let at = 0; at < sizeBytes;) {
    const unit = [blockBytes, 4096, 64 * KIB, MIB][Math.floor(random() * 4)] ?? 4096;
    const length = Math.max(blockBytes, Math.floor(random() * 5) * unit);
    const end = Math.min(sizeBytes, at + length - (length % blockBytes));
    const zero = random() < 0.5;
    if (!zero) source.bytes.fill(1 + Math.floor(random() * 255), at, end);
    // A hole that nobody tells of is found in the bytes.
    runs.push({ end, zero: zero && random() < 0.7 });
    at = end;
  }
  if (random() < 0.8) source.runs = runs;
  return source;
}

function pick<T>(random: Random, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)] as T;
}

interface World {
  readonly source: MemoryEnd;
  readonly target: MemoryEnd;
  readonly targetIsZero: boolean;
  readonly expected: Buffer;
}

function randomWorld(random: Random): World {
  const sourceBlock = pick(random, [1, 512, 4096, 65536]);
  const targetBlock = pick(random, [1, 512, 4096, 65536]);
  const size = Math.ceil((1 + random() * 6 * MIB) / sourceBlock) * sourceBlock;
  const room = size + (random() < 0.5 ? 0 : Math.floor(random() * 3 * MIB));
  const targetSize = Math.ceil(room / targetBlock) * targetBlock;
  const source = randomSource(random, size, sourceBlock);
  const targetIsZero = random() < 0.4;
  const target = new MemoryEnd(Buffer.alloc(targetSize, targetIsZero ? 0 : 0xee), targetBlock);
  target.granule = Math.max(4096, sourceBlock, targetBlock);
  const expected = Buffer.alloc(targetSize);
  source.bytes.copy(expected);
  return { source, target, targetIsZero, expected };
}

function transferOf(world: World, more: Partial<TransferOptions> = {}): Transfer {
  const { source, target, targetIsZero } = world;
  return new Transfer({
    source,
    target,
    targetIsZero,
    clock: hastyClock(),
    from: 0,
    zeroTail: true,
    bookmark: () => {},
    signal: new AbortController().signal,
    ...more,
  });
}

test('copies everything, whatever the sizes, blocks and holes are', async () => {
  for (let seed = 1; seed <= 150; seed += 1) {
    const world = randomWorld(randomOf(seed));
    const transfer = transferOf(world);
    expect(await transfer.run(), `seed ${seed}`).toBe(true);
    expect(world.target.bytes.equals(world.expected), `seed ${seed}`).toBe(true);
    expect(world.target.durable.equals(world.expected), `seed ${seed}`).toBe(true);
    expect(transfer.counts.position).toBe(world.target.sizeBytes);
    expect(world.source.readsMax).toBeLessThanOrEqual(TRANSFER_CHUNKS_IN_FLIGHT_MAX);
    if (world.targetIsZero) expect(world.target.zeroed).toBe(0);
  }
});

test('leaves what lies behind the source, when nobody asked for zeroes there', async () => {
  const source = new MemoryEnd(Buffer.alloc(3 * MIB, 7), 1);
  const target = new MemoryEnd(Buffer.alloc(5 * MIB, 9), 1);
  const world = { source, target, targetIsZero: false, expected: Buffer.alloc(0) };
  expect(await transferOf(world, { zeroTail: false }).run()).toBe(true);
  expect(target.bytes.subarray(0, 3 * MIB).equals(source.bytes)).toBe(true);
  expect(target.bytes.subarray(3 * MIB).equals(Buffer.alloc(2 * MIB, 9))).toBe(true);
});

test('fills the last block with zeroes, in a buffer that had other bytes before', async () => {
  const size = 20 * MIB + 777;
  const source = new MemoryEnd(Buffer.alloc(size, 7), 1);
  const target = new MemoryEnd(Buffer.alloc(20 * MIB + 4096), 4096);
  const world = { source, target, targetIsZero: true, expected: Buffer.alloc(0) };
  expect(await transferOf(world).run()).toBe(true);
  expect(target.bytes.subarray(0, size).equals(source.bytes)).toBe(true);
  expect(target.bytes.subarray(size).equals(Buffer.alloc(4096 - 777))).toBe(true);
});

test('reads no hole that it was told of', async () => {
  const source = new MemoryEnd(Buffer.alloc(64 * MIB), 1);
  source.runs = [{ end: 64 * MIB, zero: true }];
  const target = new MemoryEnd(Buffer.alloc(64 * MIB), 1);
  await transferOf({ source, target, targetIsZero: true, expected: source.bytes }).run();
  expect(source.readsMax + target.writes + target.zeroed).toBe(0);
});

test('goes on from its bookmark after a failure, and has told only of what was durable', async () => {
  let resumed = 0;
  for (let seed = 1; seed <= 100; seed += 1) {
    const random = randomOf(seed);
    const world = randomWorld(random);
    const { source, target } = world;
    let from = 0;
    const bookmark = (position: number): void => {
      expect(position).toBeGreaterThan(from);
      from = position;
      const end = Math.min(position, source.sizeBytes);
      expect(target.durable.compare(source.bytes, 0, end, 0, end), `seed ${seed}`).toBe(0);
    };
    target.failWriteAt = 1 + Math.floor(random() * 20);
    try {
      await transferOf(world, { bookmark }).run();
    } catch (error) {
      expect(String(error)).toContain('no space');
      // The machine was lost with all that was not flushed.
      target.durable.copy(target.bytes);
      target.failWriteAt = Infinity;
      from -= from % TRANSFER_CHUNK_BYTES;
      if (from > 0) resumed += 1;
      const rest = transferOf(world, { from, targetIsZero: false });
      expect(await rest.run()).toBe(true);
    }
    expect(target.bytes.equals(world.expected), `seed ${seed}`).toBe(true);
  }
  expect(resumed).toBeGreaterThan(10);
});

test('stops when it is asked to, and goes on from there', async () => {
  const source = new MemoryEnd(Buffer.alloc(40 * MIB, 5), 1);
  const target = new MemoryEnd(Buffer.alloc(40 * MIB), 1);
  const world = { source, target, targetIsZero: true, expected: source.bytes };
  const stop = new AbortController();
  let from = 0;
  const bookmark = (position: number): void => {
    from = position;
    if (position >= 10 * MIB) stop.abort();
  };
  expect(await transferOf(world, { bookmark, signal: stop.signal }).run()).toBe(false);
  expect(from).toBeGreaterThanOrEqual(10 * MIB);
  expect(from).toBeLessThan(40 * MIB);
  expect(source.reads).toBe(0);
  const before = target.writes;
  expect(await transferOf(world, { from }).run()).toBe(true);
  expect(target.writes - before).toBe((40 * MIB - from) / TRANSFER_CHUNK_BYTES);
  expect(target.bytes.equals(source.bytes)).toBe(true);
});

test('takes a failed flush for the end, and moves no bookmark after it', async () => {
  const source = new MemoryEnd(Buffer.alloc(30 * MIB, 5), 1);
  const target = new MemoryEnd(Buffer.alloc(30 * MIB), 1);
  const world = { source, target, targetIsZero: true, expected: source.bytes };
  target.failFlushAt = 3;
  const positions: number[] = [];
  const transfer = transferOf(world, { bookmark: (position) => void positions.push(position) });
  await expect(transfer.run()).rejects.toThrow('the disk is ill');
  expect(target.flushes).toBe(3);
  expect(positions.length).toBeLessThanOrEqual(2);
});
