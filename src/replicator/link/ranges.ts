/**
 * Table of ranges that read as zeroes: the payload of RANGES and RUN_RANGES frames (docs/internals/link.md).
 *
 * Invariants:
 * - A table is judged whole before any range of it is shown.
 * - Every range is whole blocks, at least one, inside the volume. They may stand in any order, and meet.
 */
import assert from 'node:assert';
import { BLOCK_BYTES, LINK_RANGES_MAX } from '../../io/limits.ts';

/** Offsets in one range of the table, in their order. */
export const RangeLayout = Object.freeze({ OFFSET: 0, LENGTH: 8, FLAGS: 16, SIZE: 20 });

export const RANGE_BYTES: number = RangeLayout.SIZE;

/** The host gave the range up (TRIM); without it, it was zeroed. */
export const RANGE_TRIM = 1;

const U32 = 2 ** 32;
const UNSAFE_HIGH = 2 ** 21;

export interface LinkRange {
  /** Bytes; whole blocks. */
  readonly offset: number;
  readonly length: number;
  readonly trim: boolean;
}

/** Called for each range, in the order of the table. */
export type RangeVisitor = (offset: number, length: number, trim: boolean) => void;

/** 1 to LINK_RANGES_MAX ranges. */
export function encodeRanges(ranges: readonly LinkRange[]): Buffer {
  assert(ranges.length > 0 && ranges.length <= LINK_RANGES_MAX, 'a table holds so many ranges');
  const table = Buffer.allocUnsafe(ranges.length * RANGE_BYTES);
  let at = 0;
  for (const { offset, length, trim } of ranges) {
    assert(offset >= 0 && length > 0, 'a range has a place and a length');
    assert(offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0, 'ranges are whole blocks');
    assert(Number.isSafeInteger(offset + length), 'a range lies in a volume');
    writeU64(table, at + RangeLayout.OFFSET, offset);
    writeU64(table, at + RangeLayout.LENGTH, length);
    table.writeUInt32BE(trim ? RANGE_TRIM : 0, at + RangeLayout.FLAGS);
    at += RANGE_BYTES;
  }
  return table;
}

/**
 * Why `buffer[0 .. bytes)` is no table for a volume of `sizeBytes`; null when it is one. Only then `visitRanges` may be
 * called with it.
 */
export function faultInRanges(buffer: Buffer, bytes: number, sizeBytes: number): string | null {
  if (bytes === 0 || bytes % RANGE_BYTES !== 0) return `a table of ranges of ${bytes} bytes`;
  const count = bytes / RANGE_BYTES;
  if (count > LINK_RANGES_MAX) return `a table of ${count} ranges`;
  for (let at = 0; at < bytes; at += RANGE_BYTES) {
    const offset = readU64(buffer, at + RangeLayout.OFFSET);
    const length = readU64(buffer, at + RangeLayout.LENGTH);
    const flags = buffer.readUInt32BE(at + RangeLayout.FLAGS);
    if (flags > RANGE_TRIM) return `a range with unknown flags ${flags}`;
    if (length === 0 || offset % BLOCK_BYTES !== 0 || length % BLOCK_BYTES !== 0) {
      return 'a range that is not whole blocks';
    }
    if (length > sizeBytes || offset > sizeBytes - length)
      return 'a range past the end of the volume';
  }
  return null;
}

/** Shows the ranges of a table without a fault. Takes no memory. */
export function visitRanges(buffer: Buffer, bytes: number, visit: RangeVisitor): void {
  for (let at = 0; at < bytes; at += RANGE_BYTES) {
    const offset = readU64(buffer, at + RangeLayout.OFFSET);
    const length = readU64(buffer, at + RangeLayout.LENGTH);
    visit(offset, length, buffer.readUInt32BE(at + RangeLayout.FLAGS) === RANGE_TRIM);
  }
}

function writeU64(buffer: Buffer, at: number, value: number): void {
  buffer.writeUInt32BE(Math.floor(value / U32), at);
  buffer.writeUInt32BE(value >>> 0, at + 4);
}

/** Infinity, which is past every end, for what is no safe integer. */
function readU64(buffer: Buffer, at: number): number {
  const high = buffer.readUInt32BE(at);
  return high < UNSAFE_HIGH ? high * U32 + buffer.readUInt32BE(at + 4) : Infinity;
}
