/**
 * What a delta run wants to know about a batch of blocks before it sends them. `examiner-pool.ts` makes
 * examiners that also use other threads.
 */
import { differingBlocks, digestUnits, everyBlock, zeroBlocks } from './kernels.ts';

/** One bit a block, least significant first: bit n of byte n >> 3 is block n of the batch. */
export interface Examination {
  /** Blocks whose local bytes are all zero. */
  readonly zero: Uint8Array;
  /** Blocks whose remote bytes differ from the local ones; all set when there was no remote. */
  readonly differs: Uint8Array;
}

export interface Examiner {
  /** `length` is a multiple of the block size. Both buffers are in use until the promise settles. */
  examine(local: Buffer, remote: Buffer | null, length: number): Promise<Examination>;
  /** DIGEST_BYTES for each `unit` bytes (see `kernels.ts`), in order. The buffer is in use until the promise settles. */
  digest(buffer: Buffer, length: number, unit: number): Promise<Buffer>;
  /** A buffer of zeroes that the other calls take without copying. */
  allocate(bytes: number): Buffer;
  /** Ends what the examiner started. Calls under way are completed; later ones work, on this thread. */
  close(): Promise<void>;
}

/** Both questions about a batch, answered at once. */
export function examineNow(local: Buffer, remote: Buffer | null, length: number): Examination {
  return {
    zero: zeroBlocks(local, length),
    differs: remote === null ? everyBlock(length) : differingBlocks(local, remote, length),
  };
}

/** Does everything on the calling thread. */
export const inlineExaminer: Examiner = {
  examine: async (local, remote, length) => examineNow(local, remote, length),
  digest: async (buffer, length, unit) => digestUnits(buffer, length, unit),
  allocate: (bytes) => Buffer.alloc(bytes),
  close: () => Promise.resolve(),
};
