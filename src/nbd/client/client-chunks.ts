/**
 * Structured replies out of a byte stream that is cut anywhere (protocol section 5): the chunks of reads and
 * of block status, and simple replies for all else.
 *
 * Invariants:
 * - Data goes straight from the buffer of the socket to its place in the request that it answers; a chunk
 *   that does not lie in that request ends the connection.
 * - A read is complete only if its chunks were about as many bytes as it asked for.
 * - Nothing of the input is kept beyond the call, but the part of one header or field.
 * - After `stop` nothing is read, also in the middle of a call.
 */
import assert from 'node:assert';
import { NBD_CLIENT_STATUS_EXTENTS_MAX, NBD_STRING_BYTES_MAX } from '../../io/limits.ts';
import type { ReplyDecoder, ReplySink } from './client-replies.ts';
import type { RequestSlot } from './client-requests.ts';
import {
  NBD_CMD,
  NBD_REPLY_FLAG,
  NBD_REPLY_TYPE,
  NBD_REPLY_TYPE_FLAG_ERROR,
  NBD_SIMPLE_REPLY_BYTES,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_BYTES,
  NBD_STRUCTURED_REPLY_MAGIC,
  nameOfReplyType,
} from '../constants.ts';

export interface ChunkSink extends ReplySink {
  /** The unanswered request of this cookie, or null. */
  outstanding(cookieHigh: number, cookieLow: number): RequestSlot | null;
  /** An error chunk came for it; others may follow. */
  failed(slot: RequestSlot, errno: number): void;
  /** The last chunk of its reply was read. */
  chunksEnded(slot: RequestSlot): void;
}

/** What the bytes are that come next. */
type State =
  /** As much of a header as both kinds of reply have. */
  | 'header'
  | 'rest-of-header'
  /** The fields at the beginning of a chunk. */
  | 'fields'
  /** Of a read, on their way to its buffer. */
  | 'data'
  /** One extent of a block status. */
  | 'extent'
  /** The words of an error, which nobody reads. */
  | 'skip';

const OFFSET_BYTES = 8;
const HOLE_BYTES = 12;
const CONTEXT_BYTES = 4;
const EXTENT_BYTES = 8;
const ERROR_BYTES = 6;
const ERROR_CHUNK_BYTES_MAX = ERROR_BYTES + NBD_STRING_BYTES_MAX + OFFSET_BYTES;

export class ChunkReader implements ReplyDecoder {
  private readonly sink: ChunkSink;
  private readonly context: number | null;
  private readonly field: Buffer = Buffer.alloc(NBD_STRUCTURED_REPLY_BYTES);
  private filled = 0;
  private needed = NBD_SIMPLE_REPLY_BYTES;
  private state: State = 'header';
  private stopped = false;
  /** The chunk that is being read, and whose it is. */
  private slot: RequestSlot | null = null;
  private last = false;
  private type = 0;
  /** Bytes of the chunk that were not read yet. */
  private left = 0;
  /** Where the next byte of data goes. */
  private targetAt = 0;

  /** `context`: the id of the one that was agreed on. */
  constructor(sink: ChunkSink, context: number | null) {
    this.sink = sink;
    this.context = context;
  }

  expectData(): void {
    assert.fail('a read is answered in chunks');
  }

  stop(): void {
    this.stopped = true;
    this.slot = null;
  }

  received(buffer: Buffer, length: number): void {
    let at = 0;
    while (at < length && !this.stopped) {
      if (this.state === 'data') at = this.data(buffer, at, length);
      else if (this.state === 'skip') at = this.skip(at, length);
      else at = this.gather(buffer, at, length);
    }
  }

  private gather(buffer: Buffer, at: number, length: number): number {
    const end = Math.min(length, at + this.needed - this.filled);
    this.filled += buffer.copy(this.field, this.filled, at, end);
    if (this.filled === this.needed) this.step();
    return end;
  }

  private expect(state: State, bytes: number): void {
    this.state = state;
    this.needed = bytes;
    this.filled = 0;
  }

  private step(): void {
    switch (this.state) {
      case 'header':
        return this.header();
      case 'rest-of-header':
        return this.chunk();
      case 'fields':
        return this.fields();
      case 'extent':
        return this.extent();
      case 'data':
      case 'skip':
        return assert.fail('these are not gathered');
    }
  }

  private header(): void {
    const magic = this.field.readUInt32BE(0);
    if (magic === NBD_SIMPLE_REPLY_MAGIC) return this.simple();
    if (magic !== NBD_STRUCTURED_REPLY_MAGIC)
      return this.broken('a reply has a wrong magic number');
    this.state = 'rest-of-header';
    this.needed = NBD_STRUCTURED_REPLY_BYTES;
    return undefined;
  }

  private simple(): void {
    const { field } = this;
    const [errno, high, low] = [4, 8, 12].map((at) => field.readUInt32BE(at)) as [
      number,
      number,
      number,
    ];
    const command = this.sink.outstanding(high, low)?.command;
    if (errno === 0 && (command === NBD_CMD.READ || command === NBD_CMD.BLOCK_STATUS)) {
      return this.broken('it answered with a simple reply what has content');
    }
    this.expect('header', NBD_SIMPLE_REPLY_BYTES);
    return this.sink.reply(high, low, errno);
  }

  private chunk(): void {
    const { field } = this;
    const slot = this.sink.outstanding(field.readUInt32BE(8), field.readUInt32BE(12));
    if (slot === null) return this.broken('it answered a request that is not outstanding');
    this.slot = slot;
    this.last = (field.readUInt16BE(4) & NBD_REPLY_FLAG.DONE) !== 0;
    this.type = field.readUInt16BE(6);
    this.left = field.readUInt32BE(16);
    const bytes = this.fieldBytes(slot);
    if (bytes === null) {
      const what = `${nameOfReplyType(this.type)} of ${this.left} bytes`;
      return this.broken(`a reply has a chunk that does not fit: ${what}`);
    }
    if (bytes === 0) return this.chunkEnded();
    this.left -= bytes;
    return this.expect('fields', bytes);
  }

  /** Bytes of the fields that begin a chunk of this type, or null where it has no place or a wrong length. */
  private fieldBytes({ command }: RequestSlot): number | null {
    const { left, type } = this;
    if ((type & NBD_REPLY_TYPE_FLAG_ERROR) !== 0) {
      return left >= ERROR_BYTES && left <= ERROR_CHUNK_BYTES_MAX ? ERROR_BYTES : null;
    }
    switch (type) {
      case NBD_REPLY_TYPE.NONE:
        return left === 0 && this.last ? 0 : null;
      case NBD_REPLY_TYPE.OFFSET_DATA:
        return command === NBD_CMD.READ && left > OFFSET_BYTES ? OFFSET_BYTES : null;
      case NBD_REPLY_TYPE.OFFSET_HOLE:
        return command === NBD_CMD.READ && left === HOLE_BYTES ? HOLE_BYTES : null;
      case NBD_REPLY_TYPE.BLOCK_STATUS:
        return command === NBD_CMD.BLOCK_STATUS && areExtents(left - CONTEXT_BYTES)
          ? CONTEXT_BYTES
          : null;
      default:
        return null;
    }
  }

  private fields(): void {
    const { field, slot } = this;
    assert(slot !== null, 'fields belong to a request');
    if ((this.type & NBD_REPLY_TYPE_FLAG_ERROR) !== 0) {
      this.sink.failed(slot, field.readUInt32BE(0));
      if (this.left === 0) this.chunkEnded();
      else this.state = 'skip';
      return undefined;
    }
    if (this.type === NBD_REPLY_TYPE.BLOCK_STATUS) {
      if (field.readUInt32BE(0) !== this.context) return this.broken('it tells of another context');
      return this.expect('extent', EXTENT_BYTES);
    }
    const hole = this.type === NBD_REPLY_TYPE.OFFSET_HOLE;
    const length = hole ? field.readUInt32BE(OFFSET_BYTES) : this.left;
    const from = field.readUInt32BE(0) * 2 ** 32 + field.readUInt32BE(4) - slot.offset;
    if (from < 0 || length === 0 || from + length > slot.length) {
      return this.broken('a chunk lies outside what was asked for');
    }
    slot.covered += length;
    this.targetAt = slot.start + from;
    if (hole) {
      slot.buffer.fill(0, this.targetAt, this.targetAt + length);
      return this.chunkEnded();
    }
    this.state = 'data';
    return undefined;
  }

  private data(buffer: Buffer, at: number, length: number): number {
    const { slot } = this;
    assert(slot !== null, 'data belongs to a request');
    const end = Math.min(length, at + this.left);
    buffer.copy(slot.buffer, this.targetAt, at, end);
    this.targetAt += end - at;
    this.left -= end - at;
    if (this.left === 0) this.chunkEnded();
    return end;
  }

  private extent(): void {
    const { field, slot } = this;
    assert(slot !== null, 'an extent belongs to a request');
    const length = field.readUInt32BE(0);
    if (length === 0) return this.broken('an extent has no bytes');
    slot.covered += length;
    slot.report(length, field.readUInt32BE(4));
    this.left -= EXTENT_BYTES;
    if (this.left === 0) return this.chunkEnded();
    return this.expect('extent', EXTENT_BYTES);
  }

  private skip(at: number, length: number): number {
    const end = Math.min(length, at + this.left);
    this.left -= end - at;
    if (this.left === 0) this.chunkEnded();
    return end;
  }

  private chunkEnded(): void {
    const { slot } = this;
    assert(slot !== null, 'a chunk belongs to a request');
    this.slot = null;
    this.expect('header', NBD_SIMPLE_REPLY_BYTES);
    if (!this.last) return undefined;
    if (slot.errno === 0 && !isWhole(slot)) return this.broken('a reply lacks a part');
    return this.sink.chunksEnded(slot);
  }

  private broken(why: string): void {
    this.stop();
    this.sink.broken(why);
  }
}

function areExtents(bytes: number): boolean {
  const count = bytes / EXTENT_BYTES;
  return Number.isInteger(count) && count >= 1 && count <= NBD_CLIENT_STATUS_EXTENTS_MAX;
}

/** Chunks that overlap are the server's lie about its own content, and harm nobody else. */
function isWhole({ command, covered, length }: RequestSlot): boolean {
  if (command === NBD_CMD.READ) return covered === length;
  return command !== NBD_CMD.BLOCK_STATUS || covered > 0;
}
