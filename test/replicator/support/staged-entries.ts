/** What stands in the wire form of staged payloads, by the protocol's own words (section 2); nothing of ours is used. */
export interface StagedEntry {
  readonly cookieHigh: number;
  readonly index: number;
  readonly offset: number;
  readonly payload: Buffer;
}

/** The write requests in chunks, each of which is whole requests. Throws for anything else. */
export function decodeEntries(chunks: readonly Buffer[]): StagedEntry[] {
  const entries: StagedEntry[] = [];
  for (const chunk of chunks) {
    let at = 0;
    while (at < chunk.length) {
      const length = chunk.readUInt32BE(at + 24);
      const sound =
        chunk.readUInt32BE(at) === 0x25609513 &&
        chunk.readUInt16BE(at + 4) === 0 &&
        chunk.readUInt16BE(at + 6) === 1 &&
        at + 28 + length <= chunk.length;
      if (!sound) throw new Error(`no whole write request at byte ${at} of ${chunk.length}`);
      entries.push({
        cookieHigh: chunk.readUInt32BE(at + 8),
        index: chunk.readUInt32BE(at + 12),
        offset: Number(chunk.readBigUInt64BE(at + 16)),
        payload: chunk.subarray(at + 28, at + 28 + length),
      });
      at += 28 + length;
    }
  }
  return entries;
}
