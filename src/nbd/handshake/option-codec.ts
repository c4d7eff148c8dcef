/**
 * Bytes of the handshake as a server writes and reads them (protocol section 2). Pure. Lengths that come
 * from a client are checked here before anything is allocated or read by them.
 */
import assert from 'node:assert';
import { NBD_ECHO_BYTES_MAX, NBD_META_QUERIES_MAX, NBD_STRING_BYTES_MAX } from '../../io/limits.ts';
import {
  NBD_EXPORT_NAME_PAD_BYTES,
  NBD_EXPORT_NAME_REPLY_BYTES,
  NBD_GREETING_BYTES,
  NBD_INFO,
  NBD_INIT_MAGIC,
  NBD_OPTION_MAGIC,
  NBD_OPTION_REPLY_HEADER_BYTES,
  NBD_OPTION_REPLY_MAGIC,
  NBD_REP,
  type NbdOptionReply,
} from '../constants.ts';

const EMPTY = Buffer.alloc(0);

/** The server's first words. */
export function encodeGreeting(handshakeFlags: number): Buffer {
  const bytes = Buffer.alloc(NBD_GREETING_BYTES);
  bytes.writeUInt32BE(NBD_INIT_MAGIC.high, 0);
  bytes.writeUInt32BE(NBD_INIT_MAGIC.low, 4);
  bytes.writeUInt32BE(NBD_OPTION_MAGIC.high, 8);
  bytes.writeUInt32BE(NBD_OPTION_MAGIC.low, 12);
  bytes.writeUInt16BE(handshakeFlags, 16);
  return bytes;
}

/** A reply to `option`, whose number is echoed. */
export function encodeOptionReply(
  option: number,
  reply: NbdOptionReply,
  payload: Buffer = EMPTY,
): Buffer {
  const bytes = Buffer.alloc(NBD_OPTION_REPLY_HEADER_BYTES + payload.length);
  bytes.writeUInt32BE(NBD_OPTION_REPLY_MAGIC.high, 0);
  bytes.writeUInt32BE(NBD_OPTION_REPLY_MAGIC.low, 4);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(reply, 12);
  bytes.writeUInt32BE(payload.length, 16);
  payload.copy(bytes, NBD_OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

/** An error reply whose text is cut to what the protocol allows (CVE-2020-10761). */
export function encodeOptionError(option: number, reply: NbdOptionReply, text: string): Buffer {
  assert(reply !== NBD_REP.ACK);
  return encodeOptionReply(option, reply, stringBytes(text));
}

/** The answer to EXPORT_NAME: no header, and zeroes for clients that did not refuse them. */
export function encodeExportName(size: number, flags: number, zeroes: boolean): Buffer {
  const padding = zeroes ? NBD_EXPORT_NAME_PAD_BYTES : 0;
  const bytes = Buffer.alloc(NBD_EXPORT_NAME_REPLY_BYTES + padding);
  writeSize(bytes, size, 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

export function encodeInfoExport(size: number, flags: number): Buffer {
  const payload = Buffer.alloc(12);
  payload.writeUInt16BE(NBD_INFO.EXPORT, 0);
  writeSize(payload, size, 2);
  payload.writeUInt16BE(flags, 10);
  return payload;
}

export function encodeInfoString(info: 1 | 2, text: string): Buffer {
  const type = Buffer.alloc(2);
  type.writeUInt16BE(info, 0);
  return Buffer.concat([type, stringBytes(text)]);
}

export interface BlockSizes {
  readonly minimum: number;
  readonly preferred: number;
  readonly maximum: number;
}

export function encodeInfoBlockSize(sizes: BlockSizes): Buffer {
  const payload = Buffer.alloc(14);
  payload.writeUInt16BE(NBD_INFO.BLOCK_SIZE, 0);
  payload.writeUInt32BE(sizes.minimum, 2);
  payload.writeUInt32BE(sizes.preferred, 6);
  payload.writeUInt32BE(sizes.maximum, 10);
  return payload;
}

/** One context that LIST_META_CONTEXT found (`id` is 0) or SET_META_CONTEXT chose. */
export function encodeMetaContext(id: number, name: string): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(id, 0);
  return Buffer.concat([bytes, stringBytes(name)]);
}

/** One line of LIST: a name and free text. */
export function encodeListEntry(name: string, description: string): Buffer {
  const nameBytes = stringBytes(name);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(nameBytes.length, 0);
  return Buffer.concat([length, nameBytes, stringBytes(description)]);
}

export interface InfoRequest {
  readonly name: string;
  /** Info types asked for, unknown ones included. */
  readonly infos: readonly number[];
}

const INFO_FIXED_BYTES = 6;

/** The data of INFO and GO, or null when its lengths or its name are wrong. */
export function decodeInfoRequest(data: Buffer): InfoRequest | null {
  if (data.length < INFO_FIXED_BYTES) return null;
  const nameLength = data.readUInt32BE(0);
  if (nameLength > data.length - INFO_FIXED_BYTES) return null;
  const name = decodeString(data.subarray(4, 4 + nameLength));
  if (name === null) return null;
  const count = data.readUInt16BE(4 + nameLength);
  const listStart = INFO_FIXED_BYTES + nameLength;
  if (data.length !== listStart + 2 * count) return null;
  const infos: number[] = [];
  for (let at = listStart; at < data.length; at += 2) infos.push(data.readUInt16BE(at));
  return { name, infos };
}

export interface MetaRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

const META_FIXED_BYTES = 8;

/**
 * The data of LIST_META_CONTEXT and SET_META_CONTEXT. `malformed`: the lengths do not fit, or a string is
 * none. `too-many`: well-formed, with more queries than NBD_META_QUERIES_MAX, which were not looked at.
 */
export function decodeMetaRequest(data: Buffer): MetaRequest | 'malformed' | 'too-many' {
  if (data.length < META_FIXED_BYTES) return 'malformed';
  const nameLength = data.readUInt32BE(0);
  if (nameLength > data.length - META_FIXED_BYTES) return 'malformed';
  const name = decodeString(data.subarray(4, 4 + nameLength));
  if (name === null) return 'malformed';
  const parts = cutQueries(data.subarray(4 + nameLength));
  if (parts === null) return 'malformed';
  if (parts.length > NBD_META_QUERIES_MAX) return 'too-many';
  const queries: string[] = [];
  for (const part of parts) {
    const query = decodeString(part);
    if (query === null) return 'malformed';
    queries.push(query);
  }
  return { name, queries };
}

/** A count and as many strings with their lengths, to the last byte; or null. */
function cutQueries(data: Buffer): readonly Buffer[] | null {
  const count = data.readUInt32BE(0);
  const parts: Buffer[] = [];
  let at = 4;
  while (parts.length < count) {
    if (data.length - at < 4) return null;
    const length = data.readUInt32BE(at);
    at += 4;
    if (length > data.length - at) return null;
    parts.push(data.subarray(at, at + length));
    at += length;
  }
  return at === data.length ? parts : null;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** A string of the protocol, or null when it is too long, not UTF-8, or holds a NUL. */
export function decodeString(bytes: Buffer): string | null {
  if (bytes.length > NBD_STRING_BYTES_MAX) return null;
  if (bytes.includes(0)) return null;
  try {
    return utf8.decode(bytes);
  } catch {
    return null;
  }
}

/** UTF-8 of `text`, cut between characters to at most `bytesMax`. */
export function stringBytes(text: string, bytesMax: number = NBD_STRING_BYTES_MAX): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  if (bytes.length <= bytesMax) return bytes;
  let end = bytesMax;
  while (end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}

/** A client's text in a message or a log line: quoted, and no more than NBD_ECHO_BYTES_MAX of it. */
export function quoted(text: string): string {
  const start = stringBytes(text, NBD_ECHO_BYTES_MAX).toString();
  return start === text ? JSON.stringify(text) : `${JSON.stringify(start)}...`;
}

function writeSize(bytes: Buffer, size: number, at: number): void {
  assert(Number.isSafeInteger(size));
  bytes.writeUInt32BE(Math.floor(size / 2 ** 32), at);
  bytes.writeUInt32BE(size % 2 ** 32, at + 4);
}
