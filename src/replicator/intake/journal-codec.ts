/**
 * The file format of a mirror's journal: header, records, validity. Byte tables, rules and the reasons for them:
 * docs/internals/journal.md.
 *
 * Invariants:
 * - A record is believed only if the checksum of its header holds, which is seeded with this very use of the file, and
 *   those of its table and of every payload.
 * - Nothing is allocated by a length that was not checked.
 */
import assert from 'node:assert';
import { crc32 } from 'node:zlib';
import {
  JOURNAL_FILE_BYTES,
  LINK_FRAME_BYTES_MAX,
  LINK_UNACKED_FRAMES_MAX,
} from '../../io/limits.ts';
import { FrameKind, type ReceivedPayload } from '../link/link-types.ts';
import { ChecksumKind, checksumKind, checksumOf } from '../payload-checksum.ts';
import type { CompleteEpoch } from './epoch-assembly.ts';

/** 1: all checksums of payloads are CRC32. */
export const JOURNAL_FORMAT = 2;

const FILE_MAGIC = Buffer.from('BFRYJRNL', 'latin1');
/** `BFJR`. */
export const RECORD_MAGIC = 0x42464a52;

/** Offsets in the file header. */
export const JournalHeader = Object.freeze({
  MAGIC: 0,
  FORMAT: 8,
  HEADER_BYTES: 10,
  SALT: 12,
  VOLUME_ID: 16,
  SERIAL: 32,
  RESERVED: 40,
  CHECKSUM: 60,
  SIZE: 64,
} as const);

/** Offsets in a record header. */
export const EpochHeader = Object.freeze({
  MAGIC: 0,
  RESERVED_A: 4,
  GENERATION: 8,
  EPOCH: 16,
  TIME: 24,
  SYNCED: 32,
  FRAMES: 40,
  BODY_BYTES: 44,
  TABLE_CHECKSUM: 48,
  RESERVED_B: 52,
  CHECKSUM: 60,
  SIZE: 64,
} as const);

/** Offsets in a row of the table of frames. */
export const FrameRow = Object.freeze({
  KIND: 0,
  CHECKSUM_KIND: 2,
  LENGTH: 4,
  CHECKSUM: 8,
  SIZE: 12,
} as const);

/** Where the first record begins: the header has its page for itself. */
export const RECORDS_START = 4096;
/** Records, and payloads in them, begin at multiples of this. */
export const JOURNAL_ALIGNMENT = 8;

const U32 = 2 ** 32;

/** What makes the checksums of one use of a file its own. */
export interface JournalUse {
  /** 32 hexadecimal digits. */
  readonly volumeId: string;
  /** Random for each use. */
  readonly salt: number;
  /** Counts the uses of both files, from 1. */
  readonly serial: number;
}

export function aligned(bytes: number): number {
  return Math.ceil(bytes / JOURNAL_ALIGNMENT) * JOURNAL_ALIGNMENT;
}

/** What the checksums of the records' headers go on from. */
export function seedOf({ volumeId, salt, serial }: JournalUse): number {
  const bytes = Buffer.alloc(24);
  bytes.write(volumeId, 0, 'hex');
  writeU64(bytes, 16, serial);
  return crc32(bytes, salt);
}

export function encodeJournalHeader(use: JournalUse): Buffer {
  assert.equal(use.volumeId.length, 32, 'a volume id has 32 digits');
  const header = Buffer.alloc(JournalHeader.SIZE);
  FILE_MAGIC.copy(header, JournalHeader.MAGIC);
  header.writeUInt16BE(JOURNAL_FORMAT, JournalHeader.FORMAT);
  header.writeUInt16BE(JournalHeader.SIZE, JournalHeader.HEADER_BYTES);
  header.writeUInt32BE(use.salt, JournalHeader.SALT);
  header.write(use.volumeId, JournalHeader.VOLUME_ID, 'hex');
  writeU64(header, JournalHeader.SERIAL, use.serial);
  header.writeUInt32BE(crc32(header.subarray(0, JournalHeader.CHECKSUM)), JournalHeader.CHECKSUM);
  return header;
}

/** What a file header says: a use; `blank`, since it was never written; `newer`; or why it cannot be believed. */
export type FoundHeader =
  | { readonly kind: 'use'; readonly use: JournalUse }
  | { readonly kind: 'blank' }
  | { readonly kind: 'newer'; readonly format: number }
  | { readonly kind: 'bad'; readonly why: string };

/** `bytes` is the first JournalHeader.SIZE bytes of the file, or all that it has. */
export function decodeJournalHeader(bytes: Buffer, volumeId: string): FoundHeader {
  if (bytes.every((byte) => byte === 0)) return { kind: 'blank' };
  if (bytes.length < JournalHeader.SIZE) return { kind: 'bad', why: 'its header is cut' };
  if (!bytes.subarray(0, FILE_MAGIC.length).equals(FILE_MAGIC)) {
    return { kind: 'bad', why: 'this is no journal' };
  }
  const checksum = crc32(bytes.subarray(0, JournalHeader.CHECKSUM));
  if (bytes.readUInt32BE(JournalHeader.CHECKSUM) !== checksum) {
    return { kind: 'bad', why: 'the checksum of its header does not hold' };
  }
  const format = bytes.readUInt16BE(JournalHeader.FORMAT);
  if (format > JOURNAL_FORMAT) return { kind: 'newer', format };
  const found = bytes.toString('hex', JournalHeader.VOLUME_ID, JournalHeader.SERIAL);
  if (found !== volumeId) return { kind: 'bad', why: `it belongs to the volume ${found}` };
  const serial = readU64(bytes, JournalHeader.SERIAL);
  if (serial === null || serial === 0) return { kind: 'bad', why: 'it has no serial' };
  return {
    kind: 'use',
    use: { volumeId, salt: bytes.readUInt32BE(JournalHeader.SALT), serial },
  };
}

/** Bytes of the record of an epoch in the file, its padding included. */
export function recordBytes({ frames }: CompleteEpoch): number {
  let bytes = headBytes(frames.length);
  for (const { payload } of frames) bytes += aligned(payload.length);
  return bytes;
}

/** Bytes of a record's header and of its table, with padding. */
export function headBytes(frames: number): number {
  return EpochHeader.SIZE + aligned(frames * FrameRow.SIZE);
}

/**
 * Writes header and table of a record at `target[at]`, every byte of them; the payloads follow, each padded. `synced`: the
 * offset in the file below which all is known to be durable.
 */
export function encodeHead(
  target: Buffer,
  at: number,
  epoch: CompleteEpoch,
  place: { readonly seed: number; readonly synced: number },
): void {
  const { frames } = epoch;
  const head = headBytes(frames.length);
  target.fill(0, at, at + head);
  let row = at + EpochHeader.SIZE;
  for (const { kind, payload } of frames) {
    target.writeUInt16BE(kind, row + FrameRow.KIND);
    target.writeUInt32BE(payload.length, row + FrameRow.LENGTH);
    encodeChecksum(target, row, payload);
    row += FrameRow.SIZE;
  }
  target.writeUInt32BE(RECORD_MAGIC, at + EpochHeader.MAGIC);
  writeU64(target, at + EpochHeader.GENERATION, epoch.generation);
  writeU64(target, at + EpochHeader.EPOCH, epoch.epoch);
  writeU64(target, at + EpochHeader.TIME, epoch.time);
  writeU64(target, at + EpochHeader.SYNCED, place.synced);
  target.writeUInt32BE(frames.length, at + EpochHeader.FRAMES);
  target.writeUInt32BE(recordBytes(epoch) - EpochHeader.SIZE, at + EpochHeader.BODY_BYTES);
  const table = target.subarray(at + EpochHeader.SIZE, at + head);
  target.writeUInt32BE(crc32(table), at + EpochHeader.TABLE_CHECKSUM);
  const checked = target.subarray(at, at + EpochHeader.CHECKSUM);
  target.writeUInt32BE(crc32(checked, place.seed), at + EpochHeader.CHECKSUM);
}

/** Of what came over a link it is known. */
function encodeChecksum(target: Buffer, row: number, payload: ReceivedPayload): void {
  const { checksumKind: known = null, checksum = 0 } = payload;
  const kind = known ?? ChecksumKind.XXH64;
  const bytes = payload.buffer.subarray(0, payload.length);
  target.writeUInt16BE(kind, row + FrameRow.CHECKSUM_KIND);
  target.writeUInt32BE(
    known === null ? checksumOf(kind, bytes) : checksum,
    row + FrameRow.CHECKSUM,
  );
}

/** The header of a record, its checksum proven. */
export interface FoundRecord {
  readonly generation: number;
  readonly epoch: number;
  readonly time: number;
  readonly synced: number;
  readonly frames: number;
  readonly bodyBytes: number;
  readonly tableChecksum: number;
}

/** The header at `bytes[at]`, which has EpochHeader.SIZE bytes there; null when it is none of this use. */
export function decodeEpochHeader(bytes: Buffer, at: number, seed: number): FoundRecord | null {
  if (bytes.readUInt32BE(at + EpochHeader.MAGIC) !== RECORD_MAGIC) return null;
  const checksum = crc32(bytes.subarray(at, at + EpochHeader.CHECKSUM), seed);
  if (bytes.readUInt32BE(at + EpochHeader.CHECKSUM) !== checksum) return null;
  const generation = readU64(bytes, at + EpochHeader.GENERATION);
  const epoch = readU64(bytes, at + EpochHeader.EPOCH);
  const time = readU64(bytes, at + EpochHeader.TIME);
  const synced = readU64(bytes, at + EpochHeader.SYNCED);
  if (generation === null || epoch === null || time === null || synced === null) return null;
  const frames = bytes.readUInt32BE(at + EpochHeader.FRAMES);
  const bodyBytes = bytes.readUInt32BE(at + EpochHeader.BODY_BYTES);
  if (frames > LINK_UNACKED_FRAMES_MAX || bodyBytes > JOURNAL_FILE_BYTES) return null;
  if (bodyBytes < headBytes(frames) - EpochHeader.SIZE) return null;
  const tableChecksum = bytes.readUInt32BE(at + EpochHeader.TABLE_CHECKSUM);
  return { generation, epoch, time, synced, frames, bodyBytes, tableChecksum };
}

export interface FoundFrame {
  readonly kind: FrameKind;
  readonly length: number;
  readonly checksumKind: ChecksumKind;
  readonly checksum: number;
}

const KINDS: readonly number[] = [FrameKind.DATA, FrameKind.RANGES, FrameKind.COMMAND];

/** The rows of a table that begins at `bytes[0]`; null when it is not that of `record`. */
export function decodeTable(bytes: Buffer, record: FoundRecord): FoundFrame[] | null {
  if (crc32(bytes) !== record.tableChecksum) return null;
  const rows: FoundFrame[] = [];
  let body = bytes.length;
  for (let row = 0; row < record.frames * FrameRow.SIZE; row += FrameRow.SIZE) {
    const kind = bytes.readUInt16BE(row + FrameRow.KIND);
    const length = bytes.readUInt32BE(row + FrameRow.LENGTH);
    if (!KINDS.includes(kind) || length === 0 || length > LINK_FRAME_BYTES_MAX) return null;
    const way = checksumKind(bytes.readUInt16BE(row + FrameRow.CHECKSUM_KIND));
    if (way === null) return null;
    const checksum = bytes.readUInt32BE(row + FrameRow.CHECKSUM);
    rows.push({ kind: kind as FrameKind, length, checksumKind: way, checksum });
    body += aligned(length);
  }
  return body === record.bodyBytes ? rows : null;
}

function writeU64(buffer: Buffer, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, 'a number of the journal is a safe integer');
  buffer.writeUInt32BE(Math.floor(value / U32), at);
  buffer.writeUInt32BE(value % U32, at + 4);
}

/** Null for what is no safe integer. */
function readU64(buffer: Buffer, at: number): number | null {
  const value = buffer.readUInt32BE(at) * U32 + buffer.readUInt32BE(at + 4);
  return Number.isSafeInteger(value) ? value : null;
}
