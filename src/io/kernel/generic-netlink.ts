/**
 * Messages of generic netlink, by which drivers of the kernel are told what to do. Pure: bytes in, bytes out.
 *
 * Invariants:
 * - What is parsed is bounded by the bytes that came: a length that goes past them ends the reading.
 * - Numbers are little-endian, the native order of the systems that syscalls.ts serves; lengths are padded to 4.
 */
import assert from 'node:assert';

import { NETLINK_MESSAGE_BYTES_MAX } from '../limits.ts';

const HEADER_BYTES = 16;
const GENERIC_HEADER_BYTES = 4;
const ATTRIBUTE_HEADER_BYTES = 4;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLMSG_ERROR = 2;
/** Flags in the type of an attribute: nested, and network byte order. */
const ATTRIBUTE_TYPE_MASK = 0x3fff;

/** The family that knows the numbers of the others. */
export const CONTROL_FAMILY = 0x10;
export const CTRL_CMD_GETFAMILY = 3;
export const CTRL_ATTR = Object.freeze({
  FAMILY_ID: 1,
  FAMILY_NAME: 2,
  MCAST_GROUPS: 7,
} as const);
export const CTRL_ATTR_MCAST = Object.freeze({ NAME: 1, ID: 2 } as const);

export interface Attribute {
  readonly type: number;
  readonly data: Buffer;
}

export type NetlinkMessage =
  /** The answer to a request: 0, or a positive errno. */
  | { readonly kind: 'status'; readonly sequence: number; readonly errno: number }
  | {
      readonly kind: 'data';
      readonly sequence: number;
      readonly family: number;
      readonly command: number;
      readonly attributes: readonly Attribute[];
    };

const padded = (bytes: number): number => Math.ceil(bytes / 4) * 4;

export function attribute(type: number, data: Buffer): Buffer {
  const length = ATTRIBUTE_HEADER_BYTES + data.length;
  const bytes = Buffer.alloc(padded(length));
  bytes.writeUInt16LE(length, 0);
  bytes.writeUInt16LE(type, 2);
  data.copy(bytes, ATTRIBUTE_HEADER_BYTES);
  return bytes;
}

export function u32Attribute(type: number, value: number): Buffer {
  const data = Buffer.alloc(4);
  data.writeUInt32LE(value);
  return attribute(type, data);
}

/** `value` is a safe integer. */
export function u64Attribute(type: number, value: number): Buffer {
  assert(Number.isSafeInteger(value) && value >= 0, 'a number that 64 bits hold');
  const data = Buffer.alloc(8);
  data.writeBigUInt64LE(BigInt(value));
  return attribute(type, data);
}

/** With the zero that ends it. */
export function textAttribute(type: number, text: string): Buffer {
  return attribute(type, Buffer.from(`${text}\0`));
}

export function nestedAttribute(type: number, inner: readonly Buffer[]): Buffer {
  return attribute(type, Buffer.concat(inner));
}

export interface NetlinkRequest {
  readonly family: number;
  readonly command: number;
  readonly sequence: number;
  readonly attributes: readonly Buffer[];
}

/** A request whose outcome is told in a `status`. */
export function encodeRequest(request: NetlinkRequest): Buffer {
  const body = Buffer.concat(request.attributes);
  const bytes = Buffer.alloc(HEADER_BYTES + GENERIC_HEADER_BYTES + body.length);
  assert(bytes.length <= NETLINK_MESSAGE_BYTES_MAX, 'a request fits a message');
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(request.family, 4);
  bytes.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK, 6);
  bytes.writeUInt32LE(request.sequence, 8);
  bytes.writeUInt8(request.command, HEADER_BYTES);
  bytes.writeUInt8(1, HEADER_BYTES + 1);
  body.copy(bytes, HEADER_BYTES + GENERIC_HEADER_BYTES);
  return bytes;
}

/** The messages of one datagram. */
export function parseMessages(bytes: Buffer): NetlinkMessage[] {
  const messages: NetlinkMessage[] = [];
  let at = 0;
  while (at + HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt32LE(at);
    if (length < HEADER_BYTES + GENERIC_HEADER_BYTES || at + length > bytes.length) break;
    messages.push(parseMessage(bytes.subarray(at, at + length)));
    at += padded(length);
  }
  return messages;
}

function parseMessage(bytes: Buffer): NetlinkMessage {
  const family = bytes.readUInt16LE(4);
  const sequence = bytes.readUInt32LE(8);
  if (family === NLMSG_ERROR) {
    return { kind: 'status', sequence, errno: Math.abs(bytes.readInt32LE(HEADER_BYTES)) };
  }
  const command = bytes.readUInt8(HEADER_BYTES);
  const attributes = parseAttributes(bytes.subarray(HEADER_BYTES + GENERIC_HEADER_BYTES));
  return { kind: 'data', sequence, family, command, attributes };
}

export function parseAttributes(bytes: Buffer): Attribute[] {
  const attributes: Attribute[] = [];
  let at = 0;
  while (at + ATTRIBUTE_HEADER_BYTES <= bytes.length) {
    const length = bytes.readUInt16LE(at);
    if (length < ATTRIBUTE_HEADER_BYTES || at + length > bytes.length) break;
    const type = bytes.readUInt16LE(at + 2) & ATTRIBUTE_TYPE_MASK;
    attributes.push({ type, data: bytes.subarray(at + ATTRIBUTE_HEADER_BYTES, at + length) });
    at += padded(length);
  }
  return attributes;
}

export function dataOf(attributes: readonly Attribute[], type: number): Buffer | null {
  return attributes.find((each) => each.type === type)?.data ?? null;
}

/** Null: it is not there, or not 2 or 4 bytes long. */
export function numberOf(attributes: readonly Attribute[], type: number): number | null {
  const data = dataOf(attributes, type);
  if (data?.length === 4) return data.readUInt32LE(0);
  return data?.length === 2 ? data.readUInt16LE(0) : null;
}

/** Up to its zero. */
export function textOf(attributes: readonly Attribute[], type: number): string | null {
  return dataOf(attributes, type)?.toString('utf8').split('\0')[0] ?? null;
}
