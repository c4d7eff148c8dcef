/**
 * Bits of blocks. A leaf holds those of one region, BLOCKS_PER_REGION of them; an array may hold many leaves.
 *
 * Bit n is bit (n & 7) of byte (n >> 3), least significant first.
 */
import { BLOCKS_PER_REGION } from '../../io/limits.ts';

/** Bytes of a region's leaf. */
export const LEAF_BYTES: number = BLOCKS_PER_REGION / 8;

const BITS_IN_BYTE = Uint8Array.from({ length: 256 }, (_, byte) => {
  let count = 0;
  for (let rest = byte; rest !== 0; rest >>>= 1) count += rest & 1;
  return count;
});

export function bitOf(bits: Uint8Array, position: number): boolean {
  return (((bits[position >> 3] ?? 0) >> (position & 7)) & 1) === 1;
}

/** Set bits of the bytes `from .. to - 1`. */
export function countBits(bits: Uint8Array, from: number, to: number): number {
  let count = 0;
  for (let index = from; index < to; index += 1) count += BITS_IN_BYTE[bits[index] ?? 0] ?? 0;
  return count;
}

/** Sets or clears the bits `from .. to - 1`; says how many changed. */
export function changeBits(bits: Uint8Array, from: number, to: number, value: boolean): number {
  let changed = 0;
  let position = from;
  while (position < to) {
    const index = position >> 3;
    const stop = Math.min(to, (index + 1) << 3);
    const mask = ((1 << (stop - position)) - 1) << (position & 7);
    const byte = bits[index] ?? 0;
    const after = value ? byte | mask : byte & ~mask;
    changed += BITS_IN_BYTE[byte ^ after] ?? 0;
    bits[index] = after;
    position = stop;
  }
  return changed;
}

/** The first position from `from` on whose bit is not `value`, or `end`. */
export function scan(bits: Uint8Array, from: number, end: number, value: boolean): number {
  const skipped = value ? 0xff : 0;
  let position = from;
  while (position < end) {
    if ((position & 7) === 0 && bits[position >> 3] === skipped) {
      position += 8;
    } else if (bitOf(bits, position) === value) {
      position += 1;
    } else {
      return position;
    }
  }
  return end;
}
