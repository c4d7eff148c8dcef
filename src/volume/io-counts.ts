/** How the input and output of a volume went: the words of `status --json`. Counts begin with the process. */
export interface IoCounts {
  /** Reads whose bytes were in memory, or that are zeroes by the map. */
  readonly reads_at_once: number;
  /** Reads that needed the disk, in full or in part. */
  readonly reads_on_pool: number;
  /** Writes and zeroes that went straight into the page cache. */
  readonly writes_at_once: number;
  /** Those that waited for the clean mark, for an overlapping one or a slow disk, and zeroes of whole blocks. */
  readonly writes_on_pool: number;
  /** Reads and changes that the pool works on, or has queued, at this moment. */
  readonly pool_depth: number;
  /** Times that writes became so slow that they went to the pool for a while. */
  readonly slow_write_periods: number;
  /** Pieces of data that were read ahead for NBD_CMD_CACHE. */
  readonly read_ahead_pieces: number;
  /** fdatasync calls for the data file, for FLUSH and FUA. */
  readonly syncs: number;
}
