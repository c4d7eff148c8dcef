/**
 * Compresses and expands payloads of a link, elsewhere than on the thread that asks. `compressor-pool.ts` makes those of a
 * node.
 */
import { CODEC, compressNow, expandNow } from './codec.ts';

export interface Packed {
  /** Null: it would not have become shorter than `most`. Else the receiver's own. */
  readonly bytes: Buffer | null;
  /** Milliseconds that one thread took. */
  readonly ms: number;
}

/** `broken`: the bytes are not what was announced. `failed`: nobody is there to do it. */
export type Expansion = 'whole' | 'broken' | 'failed';

export interface Compressor {
  /** What the two ends of a link call what it does. */
  readonly codec: string;
  /** It works. When it stops working it does not begin again. */
  readonly usable: boolean;
  /** How many payloads are worked on side by side. */
  readonly threads: number;
  /**
   * The chunks, 1 to LINK_FRAME_BYTES_MAX bytes together, are in use until the promise settles. Null: not now, because too
   * much waits or nothing works any more.
   */
  compress(chunks: readonly Buffer[], bytes: number, most: number): Promise<Packed | null>;
  /** Fills `plain`, of 1 to LINK_FRAME_BYTES_MAX bytes. Both are in use until the promise settles. */
  expand(packed: Buffer, plain: Buffer): Promise<Expansion>;
  /** Ends what was started. Calls under way are completed, or answered null and `failed`. */
  close(): Promise<void>;
}

/**
 * Does everything on the calling thread, at once, and says that it took the time that a speed of `bytesPerSecond` means: for
 * what has to come out the same each time.
 */
export function inlineCompressor(bytesPerSecond: number): Compressor {
  return {
    codec: CODEC,
    usable: true,
    threads: 1,
    compress: async (chunks, bytes, most) => {
      const into = Buffer.alloc(bytes);
      const length = compressNow(Buffer.concat(chunks, bytes), into, most);
      const ms = (bytes / bytesPerSecond) * 1000;
      return { bytes: length === 0 ? null : into.subarray(0, length), ms };
    },
    expand: async (packed, plain) => (expandNow(packed, plain) ? 'whole' : 'broken'),
    close: () => Promise.resolve(),
  };
}
