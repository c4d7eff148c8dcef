/**
 * What is asked of a batch of blocks, as plain loops over bytes: no state, no I/O. The same code runs on
 * the main thread and in workers.
 *
 * Invariants:
 * - Bit n of byte n >> 3 speaks of block n; bits past the last block are 0.
 * - Each loop ends after `length / BLOCK_BYTES` steps.
 */
import assert from 'node:assert';

import { xxh64 } from '@node-rs/xxhash';

import { BLOCK_BYTES } from '../io/limits.ts';

/**
 * Bytes of one digest of `digestUnits`: XXH64 with seed 0, then with DIGEST_SEED, each least significant byte first. On the
 * wire between nodes. Two of these are twice as fast as the one XXH128 that the library offers.
 */
export const DIGEST_BYTES = 16;
export const DIGEST_SEED = 0x9e3779b97f4a7c15n;

/** Blocks are compared in steps of this size first: one call for many blocks that are alike. */
const STEP_BYTES: number = 16 * BLOCK_BYTES;

const zeroes = Buffer.alloc(STEP_BYTES);

/** Bytes that hold one bit for each block of `length` bytes. */
export function bitmapBytes(length: number): number {
  return Math.ceil(length / BLOCK_BYTES / 8);
}

/** Marks the blocks of `buffer[0 .. length)` whose bytes are all zero. */
export function zeroBlocks(buffer: Buffer, length: number): Uint8Array {
  checkLength(buffer, length);
  const marks = new Uint8Array(bitmapBytes(length));
  for (let start = 0; start < length; start += BLOCK_BYTES) {
    // Data seldom begins with a zero byte: most blocks are told apart without a call.
    if (buffer[start] !== 0) continue;
    const end = start + BLOCK_BYTES;
    if (zeroes.compare(buffer, start, end, 0, BLOCK_BYTES) === 0) mark(marks, start / BLOCK_BYTES);
  }
  return marks;
}

/** Marks the blocks of `buffer[0 .. length)` that differ from the same blocks of `other`. */
export function differingBlocks(buffer: Buffer, other: Buffer, length: number): Uint8Array {
  checkLength(buffer, length);
  checkLength(other, length);
  const marks = new Uint8Array(bitmapBytes(length));
  for (let step = 0; step < length; step += STEP_BYTES) {
    const stepEnd = Math.min(step + STEP_BYTES, length);
    if (buffer.compare(other, step, stepEnd, step, stepEnd) === 0) continue;
    for (let start = step; start < stepEnd; start += BLOCK_BYTES) {
      const end = start + BLOCK_BYTES;
      if (buffer.compare(other, start, end, start, end) !== 0) mark(marks, start / BLOCK_BYTES);
    }
  }
  return marks;
}

/** All blocks marked. */
export function everyBlock(length: number): Uint8Array {
  const blocks = length / BLOCK_BYTES;
  const marks = new Uint8Array(bitmapBytes(length)).fill(0xff);
  const last = blocks % 8;
  if (last !== 0) marks[marks.length - 1] = (1 << last) - 1;
  return marks;
}

/** Bytes of the digests of `length` bytes, one for each `unit`, of which the last may be shorter. */
export function digestsBytes(length: number, unit: number): number {
  return Math.ceil(length / unit) * DIGEST_BYTES;
}

/**
 * One digest for each `unit` bytes, in order, DIGEST_BYTES each; the last unit ends at `length`. Tells content apart by chance,
 * not by proof. `unit`: whole blocks. A call costs more than a block: large units are many times as fast.
 */
export function digestUnits(buffer: Buffer, length: number, unit: number): Buffer {
  checkLength(buffer, length);
  assert(unit > 0 && unit % BLOCK_BYTES === 0, 'a unit is whole blocks');
  const digests = Buffer.alloc(digestsBytes(length, unit));
  let target = 0;
  for (let start = 0; start < length; start += unit) {
    const part = buffer.subarray(start, Math.min(start + unit, length));
    digests.writeBigUInt64LE(xxh64(part), target);
    digests.writeBigUInt64LE(xxh64(part, DIGEST_SEED), target + 8);
    target += DIGEST_BYTES;
  }
  return digests;
}

function mark(marks: Uint8Array, block: number): void {
  marks[block >> 3] = (marks[block >> 3] ?? 0) | (1 << (block & 7));
}

function checkLength(buffer: Buffer, length: number): void {
  assert(length % BLOCK_BYTES === 0, 'a batch is whole blocks');
  assert(length <= buffer.length, 'the batch ends past its buffer');
}
