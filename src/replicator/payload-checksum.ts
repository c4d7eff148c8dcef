/**
 * Checksums of payloads, on the wire and in the journal: which way, and over what. A payload that was proven on the wire
 * goes into the journal with the checksum that it came with.
 */
import { crc32 } from 'node:zlib';
import { xxh64, Xxh64 } from '@node-rs/xxhash';

/** The numbers are in the journal. */
export const ChecksumKind = Object.freeze({
  /** CRC-32 (IEEE, as in zlib). */
  CRC32: 0,
  /** The lower half of XXH64 with seed 0: three times as fast. */
  XXH64: 1,
} as const);
export type ChecksumKind = (typeof ChecksumKind)[keyof typeof ChecksumKind];

const LOWER_HALF = 0xffff_ffffn;

/** Of these bytes. */
export function checksumOf(kind: ChecksumKind, bytes: Buffer): number {
  return kind === ChecksumKind.CRC32 ? crc32(bytes) : Number(xxh64(bytes) & LOWER_HALF);
}

/** Of all of them, back to back; 0 of none. */
export function checksumOfAll(kind: ChecksumKind, chunks: readonly Buffer[]): number {
  const [first] = chunks;
  if (first === undefined) return 0;
  if (chunks.length === 1) return checksumOf(kind, first);
  if (kind === ChecksumKind.CRC32) {
    let checksum = 0;
    for (const chunk of chunks) checksum = crc32(chunk, checksum);
    return checksum;
  }
  const hash = new Xxh64();
  for (const chunk of chunks) hash.update(chunk);
  return Number(hash.digest() & LOWER_HALF);
}

/** Null: no kind that there is. */
export function checksumKind(number: number): ChecksumKind | null {
  return number === ChecksumKind.CRC32 || number === ChecksumKind.XXH64 ? number : null;
}
