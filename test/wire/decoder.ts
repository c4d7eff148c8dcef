/**
 * What a server sends, taken apart as the protocol's text says, sharing nothing with the sources under
 * test. Only the form of a message is judged here (`Malformed`); whether it was the right thing to say
 * is for others. 64-bit fields are bigints.
 */

/** The bytes are no message of the protocol. */
export class Malformed extends Error {}

function demand(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Malformed(what);
}

/** A byte stream in order: appended at one end, taken at the other. */
export class ByteQueue {
  private chunks: Buffer[] = [];
  private bytes = 0;

  get length(): number {
    return this.bytes;
  }

  append(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.chunks.push(chunk);
    this.bytes += chunk.length;
  }

  /** The first `count` bytes, which stay; there must be as many. */
  peek(count: number): Buffer {
    if (count > this.bytes) throw new Error('not so many bytes are here');
    const [first] = this.chunks;
    if (count === 0 || first === undefined) return Buffer.alloc(0);
    if (first.length < count) this.chunks = [Buffer.concat(this.chunks)];
    return (this.chunks[0] ?? first).subarray(0, count);
  }

  take(count: number): Buffer {
    const taken = this.peek(count);
    let left = count;
    while (left > 0) {
      const [first] = this.chunks;
      if (first === undefined) break;
      if (first.length > left) {
        this.chunks[0] = first.subarray(left);
        break;
      }
      left -= first.length;
      this.chunks.shift();
    }
    this.bytes -= count;
    return taken;
  }
}

/** The 18 bytes that open a connection; null while they are not all here. */
export function takeGreeting(bytes: ByteQueue): { readonly flags: number } | null {
  if (bytes.length < 18) return null;
  const greeting = bytes.take(18);
  demand(greeting.toString('latin1', 0, 8) === 'NBDMAGIC', 'the greeting has a wrong magic');
  demand(greeting.toString('latin1', 8, 16) === 'IHAVEOPT', 'the greeting is not newstyle');
  return { flags: greeting.readUInt16BE(16) };
}

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

const OPTION_REPLY_BYTES_MAX = 8192;

export function takeOptionReply(bytes: ByteQueue): OptionReply | null {
  if (bytes.length < 20) return null;
  const header = bytes.peek(20);
  demand(header.toString('hex', 0, 8) === '0003e889045565a9', 'an option reply has a wrong magic');
  const option = header.readUInt32BE(8);
  const type = header.readUInt32BE(12);
  const length = header.readUInt32BE(16);
  demand(length <= OPTION_REPLY_BYTES_MAX, `an option reply of ${length} bytes`);
  if (bytes.length < 20 + length) return null;
  bytes.take(20);
  return { option, type, data: Buffer.from(bytes.take(length)) };
}

/** A string of the protocol: at most 4096 bytes, UTF-8, no NUL. */
export function decodeText(bytes: Buffer): string {
  demand(bytes.length <= 4096, `a string of ${bytes.length} bytes`);
  demand(!bytes.includes(0), 'a string with a NUL byte');
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Malformed('a string that is not UTF-8');
  }
}

export type InfoReply =
  | { readonly info: 'export'; readonly size: bigint; readonly flags: number }
  | { readonly info: 'name' | 'description'; readonly text: string }
  | {
      readonly info: 'block-size';
      readonly minimum: number;
      readonly preferred: number;
      readonly maximum: number;
    };

/** The data of an INFO reply. */
export function decodeInfo(data: Buffer): InfoReply {
  demand(data.length >= 2, 'an info without a type');
  const type = data.readUInt16BE(0);
  switch (type) {
    case 0:
      demand(data.length === 12, 'INFO_EXPORT has a wrong length');
      return { info: 'export', size: data.readBigUInt64BE(2), flags: data.readUInt16BE(10) };
    case 1:
      return { info: 'name', text: decodeText(data.subarray(2)) };
    case 2:
      return { info: 'description', text: decodeText(data.subarray(2)) };
    case 3:
      demand(data.length === 14, 'INFO_BLOCK_SIZE has a wrong length');
      return {
        info: 'block-size',
        minimum: data.readUInt32BE(2),
        preferred: data.readUInt32BE(6),
        maximum: data.readUInt32BE(10),
      };
    default:
      throw new Malformed(`an info of type ${type}`);
  }
}

/** The data of a SERVER reply. */
export function decodeServer(data: Buffer): { readonly name: string; readonly text: string } {
  demand(data.length >= 4, 'a SERVER reply without a length');
  const length = data.readUInt32BE(0);
  demand(length <= data.length - 4, 'a SERVER reply that ends in its name');
  return {
    name: decodeText(data.subarray(4, 4 + length)),
    text: decodeText(data.subarray(4 + length)),
  };
}

/** The data of a META_CONTEXT reply. */
export function decodeMetaContext(data: Buffer): { readonly id: number; readonly name: string } {
  demand(data.length > 4, 'a META_CONTEXT reply without a name');
  return { id: data.readUInt32BE(0), name: decodeText(data.subarray(4)) };
}

export interface SimpleReply {
  readonly error: number;
  readonly cookie: bigint;
  readonly data: Buffer;
}

/** `readBytes`: how much data follows a reply without error; only a client that asked knows. */
export function takeSimpleReply(
  bytes: ByteQueue,
  readBytes: (cookie: bigint) => number,
): SimpleReply | null {
  if (bytes.length < 16) return null;
  const header = bytes.peek(16);
  const magic = header.readUInt32BE(0);
  demand(magic === 0x67446698, `a simple reply with the magic 0x${magic.toString(16)}`);
  const error = header.readUInt32BE(4);
  const cookie = header.readBigUInt64BE(8);
  const length = error === 0 ? readBytes(cookie) : 0;
  if (bytes.length < 16 + length) return null;
  bytes.take(16);
  return { error, cookie, data: Buffer.from(bytes.take(length)) };
}

export interface StatusExtent {
  readonly length: bigint;
  readonly flags: bigint;
}

export type ChunkContent =
  | { readonly kind: 'none' }
  | { readonly kind: 'data'; readonly offset: bigint; readonly data: Buffer }
  | { readonly kind: 'hole'; readonly offset: bigint; readonly length: number }
  | {
      readonly kind: 'status';
      /** Of the 64-bit type. */
      readonly wide: boolean;
      readonly id: number;
      readonly extents: readonly StatusExtent[];
    }
  | {
      readonly kind: 'error';
      readonly error: number;
      readonly message: string;
      /** Null without one. */
      readonly offset: bigint | null;
    };

export interface Chunk {
  readonly done: boolean;
  readonly cookie: bigint;
  /** The offset of the request, echoed by extended chunks; null in structured ones. */
  readonly echoedOffset: bigint | null;
  readonly content: ChunkContent;
}

/** Largest payload that is waited for: 32 MiB of data, or 2^20 extents, and what stands before them. */
const CHUNK_BYTES_MAX = 33554432 + 64;

export function takeStructuredChunk(bytes: ByteQueue): Chunk | null {
  if (bytes.length < 20) return null;
  const header = bytes.peek(20);
  const magic = header.readUInt32BE(0);
  demand(magic === 0x668e33ef, `a structured chunk with the magic 0x${magic.toString(16)}`);
  const length = header.readUInt32BE(16);
  demand(length <= CHUNK_BYTES_MAX, `a chunk of ${length} bytes`);
  if (bytes.length < 20 + length) return null;
  const flags = header.readUInt16BE(4);
  const type = header.readUInt16BE(6);
  const cookie = header.readBigUInt64BE(8);
  bytes.take(20);
  return chunkOf(flags, type, cookie, null, bytes.take(length));
}

export function takeExtendedChunk(bytes: ByteQueue): Chunk | null {
  if (bytes.length < 32) return null;
  const header = bytes.peek(32);
  const magic = header.readUInt32BE(0);
  demand(magic === 0x6e8a278c, `an extended chunk with the magic 0x${magic.toString(16)}`);
  const length = header.readBigUInt64BE(24);
  demand(length <= BigInt(CHUNK_BYTES_MAX), `a chunk of ${length} bytes`);
  if (bytes.length < 32 + Number(length)) return null;
  const flags = header.readUInt16BE(4);
  const type = header.readUInt16BE(6);
  const cookie = header.readBigUInt64BE(8);
  const offset = header.readBigUInt64BE(16);
  bytes.take(32);
  return chunkOf(flags, type, cookie, offset, bytes.take(Number(length)));
}

function chunkOf(
  flags: number,
  type: number,
  cookie: bigint,
  echoedOffset: bigint | null,
  payload: Buffer,
): Chunk {
  demand((flags & ~1) === 0, `a chunk with the flags 0x${flags.toString(16)}`);
  const done = flags === 1;
  demand(type !== 0 || done, 'a chunk of type NONE that is not the last');
  return { done, cookie, echoedOffset, content: contentOf(type, payload) };
}

function contentOf(type: number, payload: Buffer): ChunkContent {
  switch (type) {
    case 0:
      demand(payload.length === 0, 'a chunk of type NONE with a payload');
      return { kind: 'none' };
    case 1:
      demand(payload.length >= 9, 'an OFFSET_DATA without data');
      return {
        kind: 'data',
        offset: payload.readBigUInt64BE(0),
        data: Buffer.from(payload.subarray(8)),
      };
    case 2:
      demand(payload.length === 12, 'an OFFSET_HOLE of a wrong length');
      demand(payload.readUInt32BE(8) > 0, 'an OFFSET_HOLE of no bytes');
      return { kind: 'hole', offset: payload.readBigUInt64BE(0), length: payload.readUInt32BE(8) };
    case 5:
      return narrowStatusOf(payload);
    case 6:
      return wideStatusOf(payload);
    case 0x8001:
    case 0x8002:
      return errorOf(type === 0x8002, payload);
    default:
      throw new Malformed(`a chunk of type 0x${type.toString(16)}`);
  }
}

function narrowStatusOf(payload: Buffer): ChunkContent {
  demand(payload.length >= 12 && payload.length % 8 === 4, 'a BLOCK_STATUS of a wrong length');
  const extents: StatusExtent[] = [];
  for (let at = 4; at < payload.length; at += 8) {
    extents.push({
      length: BigInt(payload.readUInt32BE(at)),
      flags: BigInt(payload.readUInt32BE(at + 4)),
    });
  }
  return { kind: 'status', wide: false, id: payload.readUInt32BE(0), extents };
}

function wideStatusOf(payload: Buffer): ChunkContent {
  demand(payload.length >= 24, 'a BLOCK_STATUS_EXT without an extent');
  const count = payload.readUInt32BE(4);
  demand(payload.length === 8 + 16 * count, 'a BLOCK_STATUS_EXT of a wrong length');
  const extents: StatusExtent[] = [];
  for (let at = 8; at < payload.length; at += 16) {
    extents.push({
      length: payload.readBigUInt64BE(at),
      flags: payload.readBigUInt64BE(at + 8),
    });
  }
  return { kind: 'status', wide: true, id: payload.readUInt32BE(0), extents };
}

function errorOf(withOffset: boolean, payload: Buffer): ChunkContent {
  const fixed = withOffset ? 14 : 6;
  demand(payload.length >= fixed, 'an error chunk that is too short');
  const error = payload.readUInt32BE(0);
  demand(error !== 0, 'an error chunk without an error');
  const length = payload.readUInt16BE(4);
  demand(payload.length === fixed + length, 'an error chunk of a wrong length');
  const message = decodeText(payload.subarray(6, 6 + length));
  const offset = withOffset ? payload.readBigUInt64BE(6 + length) : null;
  return { kind: 'error', error, message, offset };
}
