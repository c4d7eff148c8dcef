/** Received chunks, taken out again in pieces of a wanted size. Copies only pieces that straddle chunks. */
export class ByteQueue {
  length = 0;
  private chunks: Buffer[] = [];

  push(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.length += chunk.length;
  }

  /** The next `count` bytes, or null while there are fewer. */
  take(count: number): Buffer | null {
    if (this.length < count) return null;
    const pieces: Buffer[] = [];
    let missing = count;
    let used = 0;
    while (missing > 0) {
      const head = this.chunks[used];
      if (head === undefined) break;
      if (head.length > missing) {
        pieces.push(head.subarray(0, missing));
        this.chunks[used] = head.subarray(missing);
        missing = 0;
      } else {
        pieces.push(head);
        missing -= head.length;
        used++;
      }
    }
    this.chunks.splice(0, used);
    this.length -= count;
    const [first] = pieces;
    return pieces.length === 1 && first !== undefined ? first : Buffer.concat(pieces, count);
  }
}
