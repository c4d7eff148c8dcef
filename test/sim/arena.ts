/**
 * Memory of one history: taken piece by piece, and all of it free again when the history is over. The garbage collector
 * would have most of the work of the whole simulation otherwise.
 *
 * Invariants:
 * - A piece belongs to whoever took it until `freeArena`, which is called between histories.
 * - What is in a piece is not known: whoever takes it writes to all of it.
 */
export const PAGE = 4096;

/** More than that is left to the garbage collector. */
const PAGES_MAX = 32 * 1024;
const PAGES_AT_ONCE = 64;
const CHUNK_BYTES = 8 * 1024 * 1024;
const CHUNKS_MAX = 8;

const pages: Buffer[] = [];
let pagesTaken = 0;

export function takePage(): Buffer {
  if (pagesTaken === PAGES_MAX) return Buffer.allocUnsafeSlow(PAGE);
  if (pagesTaken === pages.length) {
    const chunk = Buffer.allocUnsafeSlow(PAGES_AT_ONCE * PAGE);
    for (let at = 0; at < chunk.length; at += PAGE) pages.push(chunk.subarray(at, at + PAGE));
  }
  const page = pages[pagesTaken]!;
  pagesTaken += 1;
  return page;
}

const chunks: Buffer[] = [];
let chunksTaken = 0;
/** Bytes taken of the last of them. */
let taken = CHUNK_BYTES;

/** Starts at a multiple of 8. */
export function takeBytes(length: number): Buffer {
  if (chunksTaken === 0 || taken + length > CHUNK_BYTES) {
    if (length > CHUNK_BYTES || chunksTaken === CHUNKS_MAX) return Buffer.allocUnsafeSlow(length);
    if (chunksTaken === chunks.length) chunks.push(Buffer.allocUnsafeSlow(CHUNK_BYTES));
    chunksTaken += 1;
    taken = 0;
  }
  const start = taken;
  taken += Math.ceil(length / 8) * 8;
  return chunks[chunksTaken - 1]!.subarray(start, start + length);
}

/** Bytes that compress to nothing and are never written to: for what is kept back on a disk. */
export function filler(length: number): Buffer {
  return length <= FILLER.length ? FILLER.subarray(0, length) : Buffer.alloc(length, FILLER_BYTE);
}

export function isFiller(bytes: Buffer): boolean {
  return bytes.buffer === FILLER.buffer;
}

const FILLER_BYTE = 0xa5;
const FILLER = Buffer.alloc(1024 * 1024, FILLER_BYTE);
/** A page of it. */
export const FILLER_PAGE: Buffer = FILLER.subarray(0, PAGE);

export function freeArena(): void {
  pagesTaken = 0;
  chunksTaken = 0;
  taken = CHUNK_BYTES;
}
