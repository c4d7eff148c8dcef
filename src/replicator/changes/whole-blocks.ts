import { BLOCK_BYTES } from '../../io/limits.ts';

/** Whole blocks that a byte range touches, as a byte range. */
export function wholeBlocks(offset: number, length: number): { offset: number; length: number } {
  const first = Math.floor(offset / BLOCK_BYTES) * BLOCK_BYTES;
  const end = Math.ceil((offset + length) / BLOCK_BYTES) * BLOCK_BYTES;
  return { offset: first, length: end - first };
}
