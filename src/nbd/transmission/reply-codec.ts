/**
 * Headers of replies and their chunks: numbers in, bytes out (protocol sections 1.8 and 2). Whoever writes
 * one has made room for it. All numbers are unsigned and big-endian.
 */
import {
  NBD_EXTENDED_REPLY_BYTES,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_REPLY_FLAG,
  NBD_REPLY_TYPE,
  NBD_SIMPLE_REPLY_BYTES,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_BYTES,
  NBD_STRUCTURED_REPLY_MAGIC,
  type NbdErrno,
  type NbdReplyType,
} from '../constants.ts';
import type { ReplyForm } from '../handshake/negotiated.ts';

/** What every reply repeats of its request, as it came: halves of 64 bits. */
export interface ReplyTo {
  readonly command: number;
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
}

/** The two forms that have chunks. */
export type ChunkForm = Exclude<ReplyForm, 'simple'>;

/** Before the data of an OFFSET_DATA chunk: its place in the device. */
const DATA_OFFSET_BYTES = 8;
/** Payload of an OFFSET_HOLE chunk: place and length. */
const HOLE_BYTES = 12;
/** Before the text of an ERROR chunk: error and length of the text. */
const ERROR_BYTES = 6;
/** Before the extents of a status chunk: the context; in the extended form also how many follow. */
const STATUS_BYTES = 4;
const STATUS_EXT_BYTES = 8;
const EXTENT_BYTES = 8;
const EXTENT_EXT_BYTES = 16;

/** Header of one chunk. */
export const chunkHeadBytes = (form: ChunkForm): number =>
  form === 'extended' ? NBD_EXTENDED_REPLY_BYTES : NBD_STRUCTURED_REPLY_BYTES;

/** Everything that stands before the data of a READ. */
export const dataHeadBytes = (form: ReplyForm): number =>
  form === 'simple' ? NBD_SIMPLE_REPLY_BYTES : chunkHeadBytes(form) + DATA_OFFSET_BYTES;

/** One OFFSET_HOLE chunk. */
export const holeChunkBytes = (form: ChunkForm): number => chunkHeadBytes(form) + HOLE_BYTES;

/** One ERROR chunk. */
export const errorChunkBytes = (form: ChunkForm, text: Buffer): number =>
  chunkHeadBytes(form) + ERROR_BYTES + text.length;

/** One BLOCK_STATUS or BLOCK_STATUS_EXT chunk. */
export const statusChunkBytes = (form: ChunkForm, extents: number): number =>
  form === 'extended'
    ? NBD_EXTENDED_REPLY_BYTES + STATUS_EXT_BYTES + EXTENT_EXT_BYTES * extents
    : NBD_STRUCTURED_REPLY_BYTES + STATUS_BYTES + EXTENT_BYTES * extents;

export function writeSimpleReply(view: DataView, at: number, error: NbdErrno, to: ReplyTo): void {
  view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, to.cookieHigh);
  view.setUint32(at + 12, to.cookieLow);
}

/** `payloadBytes` follow the header; under 4 GiB. Returns where they begin. */
function writeChunkHead(
  form: ChunkForm,
  view: DataView,
  at: number,
  type: NbdReplyType,
  done: boolean,
  payloadBytes: number,
  to: ReplyTo,
): number {
  const extended = form === 'extended';
  view.setUint32(at, extended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, done ? NBD_REPLY_FLAG.DONE : 0);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, to.cookieHigh);
  view.setUint32(at + 12, to.cookieLow);
  if (!extended) {
    view.setUint32(at + 16, payloadBytes);
    return at + NBD_STRUCTURED_REPLY_BYTES;
  }
  view.setUint32(at + 16, to.offsetHigh);
  view.setUint32(at + 20, to.offsetLow);
  view.setUint32(at + 24, 0);
  view.setUint32(at + 28, payloadBytes);
  return at + NBD_EXTENDED_REPLY_BYTES;
}

/** A safe integer as 64 bits. */
export function writeUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value >>> 0);
}

/** Success without data; always the last chunk. */
export function writeNone(form: ChunkForm, view: DataView, at: number, to: ReplyTo): void {
  writeChunkHead(form, view, at, NBD_REPLY_TYPE.NONE, true, 0, to);
}

/** What stands before `length` bytes of data from byte `offset` of the device. */
export function writeDataHead(
  form: ChunkForm,
  view: DataView,
  at: number,
  done: boolean,
  offset: number,
  length: number,
  to: ReplyTo,
): void {
  const bytes = DATA_OFFSET_BYTES + length;
  const next = writeChunkHead(form, view, at, NBD_REPLY_TYPE.OFFSET_DATA, done, bytes, to);
  writeUint64(view, next, offset);
}

/** `length` bytes of zeroes from byte `offset` of the device; under 4 GiB and not none. */
export function writeHole(
  form: ChunkForm,
  view: DataView,
  at: number,
  done: boolean,
  offset: number,
  length: number,
  to: ReplyTo,
): void {
  const next = writeChunkHead(form, view, at, NBD_REPLY_TYPE.OFFSET_HOLE, done, HOLE_BYTES, to);
  writeUint64(view, next, offset);
  view.setUint32(next + 8, length);
}

/** An error and what it means, in UTF-8; always the last chunk. */
export function writeError(
  form: ChunkForm,
  memory: { readonly bytes: Buffer; readonly view: DataView },
  at: number,
  error: NbdErrno,
  text: Buffer,
  to: ReplyTo,
): void {
  const { view, bytes } = memory;
  const length = ERROR_BYTES + text.length;
  const next = writeChunkHead(form, view, at, NBD_REPLY_TYPE.ERROR, true, length, to);
  view.setUint32(next, error);
  view.setUint16(next + 4, text.length);
  text.copy(bytes, next + ERROR_BYTES);
}

/** Runs of equal state: `lengths` and `flags` of the first `count` are meant. */
export interface Extents {
  readonly count: number;
  readonly lengths: Float64Array;
  readonly flags: Uint32Array;
}

/** What one context says. In the structured form every length is under 4 GiB. */
export function writeStatus(
  form: ChunkForm,
  view: DataView,
  at: number,
  done: boolean,
  contextId: number,
  extents: Extents,
  to: ReplyTo,
): void {
  const { count, lengths, flags } = extents;
  const extended = form === 'extended';
  const type = extended ? NBD_REPLY_TYPE.BLOCK_STATUS_EXT : NBD_REPLY_TYPE.BLOCK_STATUS;
  const bytes = statusChunkBytes(form, count) - chunkHeadBytes(form);
  let next = writeChunkHead(form, view, at, type, done, bytes, to);
  view.setUint32(next, contextId);
  next += 4;
  if (extended) view.setUint32(next, count);
  if (extended) next += 4;
  for (let index = 0; index < count; index++) {
    const length = lengths[index] ?? 0;
    const state = flags[index] ?? 0;
    if (extended) {
      writeUint64(view, next, length);
      view.setUint32(next + 8, 0);
      view.setUint32(next + 12, state);
      next += EXTENT_EXT_BYTES;
    } else {
      view.setUint32(next, length);
      view.setUint32(next + 4, state);
      next += EXTENT_BYTES;
    }
  }
}
