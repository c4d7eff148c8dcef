/**
 * Simple replies out of a byte stream that is cut anywhere (protocol sections 2 and 5).
 *
 * Invariants:
 * - The data of a READ goes straight from the buffer of the socket to its destination, which the sink
 *   names: no length that the server sent is ever used.
 * - Nothing of the input is kept beyond the call, but the part of one header.
 * - After `stop` nothing is read, also in the middle of a call.
 */
import assert from 'node:assert';
import { NBD_SIMPLE_REPLY_BYTES, NBD_SIMPLE_REPLY_MAGIC } from '../constants.ts';

export interface ReplySink {
  /** The header of a reply. If data follows, calls `expectData` before it returns. */
  reply(cookieHigh: number, cookieLow: number, errno: number): void;
  /** All data of the reply is in its place. */
  dataEnded(): void;
  /** The stream is out of step for good; the reader has stopped. */
  broken(why: string): void;
}

/** Takes replies out of the stream. */
export interface ReplyDecoder {
  /** Inside `ReplySink.reply`: the next `length` bytes, at least one, go to `target[start ..)`. */
  expectData(target: Buffer, start: number, length: number): void;
  received(buffer: Buffer, length: number): void;
  /** Nothing is read from now on. */
  stop(): void;
}

const NO_BUFFER = Buffer.alloc(0);

export class ReplyReader implements ReplyDecoder {
  private readonly sink: ReplySink;
  private readonly header: Buffer = Buffer.alloc(NBD_SIMPLE_REPLY_BYTES);
  private headerFilled = 0;
  private target: Buffer = NO_BUFFER;
  private targetAt = 0;
  private targetEnd = 0;
  private stopped = false;

  constructor(sink: ReplySink) {
    this.sink = sink;
  }

  expectData(target: Buffer, start: number, length: number): void {
    assert(this.targetAt === this.targetEnd, 'one reply at a time');
    assert(length > 0, 'a read has data');
    assert(start + length <= target.length, 'the data fits');
    this.target = target;
    this.targetAt = start;
    this.targetEnd = start + length;
  }

  stop(): void {
    this.stopped = true;
    this.target = NO_BUFFER;
    this.targetAt = 0;
    this.targetEnd = 0;
  }

  received(buffer: Buffer, length: number): void {
    let at = 0;
    while (at < length && !this.stopped) {
      if (this.targetAt < this.targetEnd) at = this.data(buffer, at, length);
      else if (this.headerFilled === 0 && length - at >= NBD_SIMPLE_REPLY_BYTES) {
        this.parse(buffer, at);
        at += NBD_SIMPLE_REPLY_BYTES;
      } else at = this.partOfHeader(buffer, at, length);
    }
  }

  private data(buffer: Buffer, at: number, length: number): number {
    const end = Math.min(length, at + this.targetEnd - this.targetAt);
    this.targetAt += buffer.copy(this.target, this.targetAt, at, end);
    if (this.targetAt === this.targetEnd) {
      this.target = NO_BUFFER;
      this.sink.dataEnded();
    }
    return end;
  }

  private partOfHeader(buffer: Buffer, at: number, length: number): number {
    const end = Math.min(length, at + NBD_SIMPLE_REPLY_BYTES - this.headerFilled);
    this.headerFilled += buffer.copy(this.header, this.headerFilled, at, end);
    if (this.headerFilled === NBD_SIMPLE_REPLY_BYTES) {
      this.headerFilled = 0;
      this.parse(this.header, 0);
    }
    return end;
  }

  private parse(buffer: Buffer, at: number): void {
    if (buffer.readUInt32BE(at) !== NBD_SIMPLE_REPLY_MAGIC) {
      this.stop();
      this.sink.broken('a reply has a wrong magic number');
      return;
    }
    const errno = buffer.readUInt32BE(at + 4);
    this.sink.reply(buffer.readUInt32BE(at + 8), buffer.readUInt32BE(at + 12), errno);
  }
}
