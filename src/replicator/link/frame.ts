/**
 * Header of a frame (docs/internals/link.md has the same bytes for people; a test holds the two together).
 *
 * Invariants:
 * - A header is believed only as a whole: magic, checksum, kind, flags, numbers and the size of the payload are proven
 *   before any of them is used.
 * - The checksum is seeded with the link, the lane and the direction (`laneSeed`): a frame of another link, of another
 *   lane, or one of our own that came back, is none.
 * - Encoding and decoding take no memory.
 */
import assert from 'node:assert';
import { crc32 } from 'node:zlib';
import { kindRule, nameOfKind, payloadFits, type LinkSide } from './frame-kinds.ts';
import type { FrameHeader, FrameKind } from './link-types.ts';

/** Offsets in the header, in their order. */
export const FrameLayout = Object.freeze({
  MAGIC: 0,
  KIND: 4,
  FLAGS: 5,
  VOLUME: 6,
  EPOCH: 8,
  INDEX: 16,
  OFFSET: 24,
  LENGTH: 32,
  AUX: 40,
  PAYLOAD_BYTES: 48,
  PAYLOAD_CHECKSUM: 52,
  SEQUENCE: 56,
  CHECKSUM: 60,
  SIZE: 64,
});

/** Bytes in front of each payload. */
export const FRAME_HEADER_BYTES: number = FrameLayout.SIZE;

/** `BFLK`. */
export const FRAME_MAGIC = 0x42464c4b;

const U32 = 2 ** 32;
/** High halves from here on are no safe integers. */
const UNSAFE_HIGH = 2 ** 21;
const VOLUME_MAX = 0xffff;
const FLAGS_MAX = 0xff;

/** Memory of one header, with the views that are needed of it. */
export interface HeaderMemory {
  readonly bytes: Buffer;
  readonly view: DataView;
  /** What the checksum is over. */
  readonly checked: Buffer;
}

export function newHeaderMemory(): HeaderMemory {
  const bytes = Buffer.allocUnsafeSlow(FRAME_HEADER_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset, FRAME_HEADER_BYTES);
  return { bytes, view, checked: bytes.subarray(0, FrameLayout.CHECKSUM) };
}

/** Seed of the header checksums of what `sender` sends on lane `lane` of the link with this token. */
export function laneSeed(token: string, lane: number, sender: LinkSide): number {
  return crc32(`${token} ${lane} ${sender}`);
}

/** The number of the frame behind frame `sequence` of a lane. */
export function nextSequence(sequence: number): number {
  return (sequence + 1) % U32;
}

/** A header as it came; reused for the next one. */
export class DecodedFrame {
  kind: FrameKind = 1;
  flags = 0;
  volume = 0;
  epoch = 0;
  index = 0;
  offset = 0;
  length = 0;
  aux = 0;
  payloadBytes = 0;
  payloadChecksum = 0;
  sequence = 0;

  /** For others to keep. */
  toHeader(): FrameHeader {
    const { kind, flags, volume, epoch, index, offset, length, aux } = this;
    return { kind, flags, volume, epoch, index, offset, length, aux };
  }
}

export interface PayloadSeal {
  readonly payloadBytes: number;
  readonly payloadChecksum: number;
  /** Of the lane: counts its frames from 0, modulo 2^32. */
  readonly sequence: number;
}

/** Writes all 64 bytes. What no frame may be is a fault of the caller. */
export function encodeFrame(
  memory: HeaderMemory,
  header: FrameHeader,
  payload: PayloadSeal,
  seed: number,
): void {
  const { view } = memory;
  const rule = kindRule(header.kind);
  assert(rule !== null, 'a frame has a kind');
  assert((header.flags & ~rule.flags) === 0 && header.flags <= FLAGS_MAX, 'known flags');
  assert(header.volume >= 0 && header.volume <= VOLUME_MAX, 'a group has so many volumes');
  assert(
    payloadFits(rule, header.flags, payload.payloadBytes, header.length),
    'the payload fits the kind',
  );
  view.setUint32(FrameLayout.MAGIC, FRAME_MAGIC);
  view.setUint8(FrameLayout.KIND, header.kind);
  view.setUint8(FrameLayout.FLAGS, header.flags);
  view.setUint16(FrameLayout.VOLUME, header.volume);
  setU64(view, FrameLayout.EPOCH, header.epoch);
  setU64(view, FrameLayout.INDEX, header.index);
  setU64(view, FrameLayout.OFFSET, header.offset);
  setU64(view, FrameLayout.LENGTH, header.length);
  setU64(view, FrameLayout.AUX, header.aux);
  view.setUint32(FrameLayout.PAYLOAD_BYTES, payload.payloadBytes);
  view.setUint32(FrameLayout.PAYLOAD_CHECKSUM, payload.payloadChecksum);
  view.setUint32(FrameLayout.SEQUENCE, payload.sequence);
  view.setUint32(FrameLayout.CHECKSUM, crc32(memory.checked, seed));
}

/**
 * Reads a header that `sender` sent. Null when all is well; else why it is none, and `into` means nothing then. The
 * sequence is the caller's to check.
 */
export function decodeFrame(
  memory: HeaderMemory,
  seed: number,
  sender: LinkSide,
  into: DecodedFrame,
): string | null {
  const { view } = memory;
  if (view.getUint32(FrameLayout.MAGIC) !== FRAME_MAGIC) return 'bytes that are no frame';
  if (view.getUint32(FrameLayout.CHECKSUM) !== crc32(memory.checked, seed)) {
    return 'a frame header with a wrong checksum';
  }
  const kind = view.getUint8(FrameLayout.KIND);
  const rule = kindRule(kind);
  if (rule === null) return `a frame of the unknown kind ${kind}`;
  into.kind = rule.kind;
  into.flags = view.getUint8(FrameLayout.FLAGS);
  into.volume = view.getUint16(FrameLayout.VOLUME);
  into.epoch = getU64(view, FrameLayout.EPOCH);
  into.index = getU64(view, FrameLayout.INDEX);
  into.offset = getU64(view, FrameLayout.OFFSET);
  into.length = getU64(view, FrameLayout.LENGTH);
  into.aux = getU64(view, FrameLayout.AUX);
  into.payloadBytes = view.getUint32(FrameLayout.PAYLOAD_BYTES);
  into.payloadChecksum = view.getUint32(FrameLayout.PAYLOAD_CHECKSUM);
  into.sequence = view.getUint32(FrameLayout.SEQUENCE);
  const name = nameOfKind(into.kind);
  if (rule.sender !== null && rule.sender !== sender)
    return `a ${name} frame, which is not its to send`;
  if ((into.flags & ~rule.flags) !== 0) return `a ${name} frame with unknown flags ${into.flags}`;
  if (holdsUnsafe(into)) return `a ${name} frame with a number beyond 2^53`;
  if (!payloadFits(rule, into.flags, into.payloadBytes, into.length)) {
    return `a ${name} frame with ${into.payloadBytes} bytes of payload`;
  }
  return null;
}

function holdsUnsafe({ epoch, index, offset, length, aux }: DecodedFrame): boolean {
  return epoch < 0 || index < 0 || offset < 0 || length < 0 || aux < 0;
}

function setU64(view: DataView, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, 'a number of a header is a safe integer');
  view.setUint32(at, Math.floor(value / U32));
  view.setUint32(at + 4, value >>> 0);
}

/** -1 for what is no safe integer. */
function getU64(view: DataView, at: number): number {
  const high = view.getUint32(at);
  return high < UNSAFE_HIGH ? high * U32 + view.getUint32(at + 4) : -1;
}
