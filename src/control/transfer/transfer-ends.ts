/** The two ends of a copy, as the engine sees them: an image file, or an export of any NBD server. */

/** From the place that was asked for up to `end`. */
export interface DataRun {
  readonly end: number;
  /** Reads as zeroes; else it may hold anything. */
  readonly zero: boolean;
}

/** What rejects, rejects with a BlockferryError. */
export interface TransferSource {
  /** For people, and for the bookmark: a path or a URI. */
  readonly name: string;
  readonly sizeBytes: number;
  /** Requests begin and end on multiples of it, or at the end. A power of two, bytes. */
  readonly blockBytes: number;
  /** What is at `offset`, which lies below `sizeBytes`. Asked for in rising order; one question at a time. */
  runAt(offset: number): Promise<DataRun>;
  /** Into `buffer[start .. start + length)`. */
  read(buffer: Buffer, start: number, length: number, offset: number): Promise<void>;
  close(): Promise<void>;
}

export interface TransferTarget extends TransferSource {
  /** The buffer is in use until the promise is settled. */
  write(buffer: Buffer, start: number, length: number, offset: number): Promise<void>;
  /** Makes the range read as zeroes, without space where that can be. */
  zero(offset: number, length: number): Promise<void>;
  /** Makes durable all that was done before. */
  flush(): Promise<void>;
}

/** Whether all of it is known to read as zeroes. */
export async function isKnownEmpty(end: TransferSource): Promise<boolean> {
  let at = 0;
  while (at < end.sizeBytes) {
    const run = await end.runAt(at);
    if (!run.zero) return false;
    at = run.end;
  }
  return true;
}
