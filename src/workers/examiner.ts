/** What a delta run wants to know about a batch of blocks before it sends them. */

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
  /** A buffer that `examine` takes without copying. */
  allocate(bytes: number): Buffer;
  close(): Promise<void>;
}
