/**
 * Whether bytes of msgpack are plain data: null, booleans, numbers that are not negative, text, lists, and tables whose keys are
 * text. Pure.
 *
 * The library that decodes msgpack has extensions that build objects of classes, share structures between messages, and
 * refer to themselves; they cannot be switched off. So bytes of a peer are walked here first, and what passes makes the
 * library do nothing but build plain values.
 *
 * Invariants:
 * - Nothing is allocated, and each byte is looked at once: time and memory are bounded by the length of the input.
 * - What passes uses every byte, is at most LINK_MESSAGE_DEPTH_MAX deep, and its lists and tables claim no more members than
 *   there are bytes for them. A table has no key twice as far as the decoder can tell: the last one counts.
 */
import { isUtf8 } from 'node:buffer';
import { LINK_MESSAGE_DEPTH_MAX } from '../../io/limits.ts';

/** Where the walk went wrong; positions are from 0 on. */
const WRONG = -1;

/** True when `bytes` are one plain value. */
export function isPlainData(bytes: Buffer): boolean {
  return bytes.length > 0 && skipValue(bytes, 0, 0) === bytes.length;
}

/** The position behind the value at `at`, or WRONG. `depth` lists and tables are around it. */
function skipValue(bytes: Buffer, at: number, depth: number): number {
  const token = bytes[at];
  if (token === undefined) return WRONG;
  if (token < 0x80) return at + 1;
  if (token < 0x90) return skipMembers(bytes, at + 1, token & 0x0f, depth, true);
  if (token < 0xa0) return skipMembers(bytes, at + 1, token & 0x0f, depth, false);
  if (token < 0xc0) return skipText(bytes, at);
  switch (token) {
    case 0xc0:
    case 0xc2:
    case 0xc3:
      return at + 1;
    case 0xcb:
    case 0xcf:
      return within(bytes, at + 9);
    case 0xcc:
      return within(bytes, at + 2);
    case 0xcd:
      return within(bytes, at + 3);
    case 0xce:
      return within(bytes, at + 5);
    case 0xd9:
    case 0xda:
      return skipText(bytes, at);
    case 0xdc:
    case 0xde:
      if (within(bytes, at + 3) === WRONG) return WRONG;
      return skipMembers(bytes, at + 3, bytes.readUInt16BE(at + 1), depth, token === 0xde);
    default:
      return WRONG;
  }
}

function skipMembers(
  bytes: Buffer,
  start: number,
  count: number,
  depth: number,
  keyed: boolean,
): number {
  if (depth >= LINK_MESSAGE_DEPTH_MAX) return WRONG;
  if ((keyed ? 2 : 1) * count > bytes.length - start) return WRONG;
  let at = start;
  for (let left = count; left > 0 && at !== WRONG; left--) {
    if (keyed) at = skipText(bytes, at);
    if (at !== WRONG) at = skipValue(bytes, at, depth + 1);
  }
  return at;
}

/** Text of at most 65535 bytes. */
function skipText(bytes: Buffer, at: number): number {
  const token = bytes[at] ?? 0;
  let start = at + 1;
  let length: number;
  if (token >= 0xa0 && token < 0xc0) {
    length = token & 0x1f;
  } else if (token === 0xd9 && within(bytes, at + 2) !== WRONG) {
    start = at + 2;
    length = bytes.readUInt8(at + 1);
  } else if (token === 0xda && within(bytes, at + 3) !== WRONG) {
    start = at + 3;
    length = bytes.readUInt16BE(at + 1);
  } else return WRONG;
  const end = within(bytes, start + length);
  return end === WRONG || isUtf8(bytes.subarray(start, end)) ? end : WRONG;
}

function within(bytes: Buffer, end: number): number {
  return end <= bytes.length ? end : WRONG;
}
