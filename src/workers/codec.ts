/**
 * The codec of compressed payloads: brotli at its lowest quality, which was measured to be the best of what Node has for
 * this: 200 to 1000 MB/s on one core on file systems and databases, and past incompressible data at memory speed.
 *
 * Invariants:
 * - What is expanded is at most as long as was announced, whatever the bytes are: nothing larger is ever allocated.
 * - Plain calls on bytes: no state, no I/O. The same code runs on this thread and in workers.
 */
import { brotliCompressSync, brotliDecompressSync, constants } from 'node:zlib';

/** What the two ends of a link call it. */
export const CODEC = 'brotli';

/** The window is as long as a payload. */
const WINDOW_BITS = 20;
/** The least that the library takes. */
const CHUNK_BYTES_MIN = 64;

/** Compresses `plain` into `into`, and answers how long it became; 0 when it would be longer than `most` bytes. */
export function compressNow(plain: Uint8Array, into: Uint8Array, most: number): number {
  const packed = brotliCompressSync(plain, {
    chunkSize: Math.max(CHUNK_BYTES_MIN, plain.length),
    params: {
      [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MIN_QUALITY,
      [constants.BROTLI_PARAM_LGWIN]: WINDOW_BITS,
      [constants.BROTLI_PARAM_SIZE_HINT]: plain.length,
    },
  });
  if (packed.length > most || packed.length > into.length) return 0;
  into.set(packed);
  return packed.length;
}

/** Expands `packed` into all of `plain`; false: it is nothing that was compressed, or not of exactly that many bytes. */
export function expandNow(packed: Uint8Array, plain: Uint8Array): boolean {
  let bytes: Buffer;
  try {
    bytes = brotliDecompressSync(packed, {
      chunkSize: Math.max(CHUNK_BYTES_MIN, plain.length),
      maxOutputLength: plain.length,
    });
  } catch {
    // Truncated, garbage, or longer than was announced: all of it is what the other side sent.
    return false;
  }
  if (bytes.length !== plain.length) return false;
  plain.set(bytes);
  return true;
}
