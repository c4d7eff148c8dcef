/**
 * The file format of a volume's metadata log: header, records, validity and recovery.
 * Byte tables, rules and the reasons for them: docs/internals/metadata-log.md.
 *
 * Invariants:
 * - A record is believed only if its header checksum (seeded by this very file), its sequence, its batch and
 *   its payload checksum all hold. Nothing is allocated by a length that was not checked.
 * - A batch counts whole or not at all: what was committed together is never seen in part.
 * - What one sync made durable is one batch, and a batch is written only after the one before it was synced.
 *   So a bad record is a torn tail exactly when no good record of a later batch follows it, and it is not in
 *   the batch that the file was born with. Anything else is corruption, and reported.
 */
import assert from 'node:assert';
import { crc32 } from 'node:zlib';
import { BlockferryError, errorText } from '../../io/errors.ts';
import { METADATA_RECORD_BYTES_MAX } from '../../io/limits.ts';
import {
  PayloadRefused,
  codeOfKind,
  decodePayload,
  encodePayload,
  kindOfCode,
  readU64,
  writeU64,
} from './record-codec.ts';
import type { MetadataRecord } from './records.ts';

/** Format 1 had no FLAGS: the end of a batch could only be told from the record after it. It is read, and written no more. */
export const FORMAT_VERSION = 2;

const FILE_MAGIC = Buffer.from('BFRYMETA', 'latin1');
const RECORD_MAGIC = 0x42465243;

/** Offsets in the file header. */
export const FileHeader = Object.freeze({
  MAGIC: 0,
  FORMAT: 8,
  HEADER_BYTES: 10,
  SALT: 12,
  VOLUME_ID: 16,
  FIRST_SEQUENCE: 32,
  BIRTH_BYTES: 40,
  RESERVED: 48,
  CHECKSUM: 60,
  SIZE: 64,
} as const);

/** Offsets in a record header. */
export const RecordHeader = Object.freeze({
  MAGIC: 0,
  KIND: 4,
  FLAGS: 6,
  PAYLOAD_BYTES: 8,
  PAYLOAD_CHECKSUM: 12,
  SEQUENCE: 16,
  BATCH: 24,
  RESERVED_B: 32,
  CHECKSUM: 36,
  SIZE: 40,
} as const);

/** The only flag: no record of this batch follows. A batch without such a record is no commit. */
const LAST_OF_BATCH = 1;

/** Records begin at multiples of this. */
export const RECORD_ALIGNMENT = 8;

/** What makes the checksums of one log file its own. */
export interface LogIdentity {
  readonly format: number;
  /** 32 hexadecimal digits. */
  readonly volumeId: string;
  /** Random for each file: records of an older file of the same volume are not valid in it. */
  readonly salt: number;
}

function seedOf(identity: LogIdentity): number {
  return crc32(Buffer.from(identity.volumeId, 'hex'), identity.salt);
}

/** The first bytes of a file whose birth batch has `birthBytes` bytes. */
export function encodeFileHeader(
  identity: LogIdentity,
  fields: { firstSequence: number; birthBytes: number },
): Buffer {
  assert.equal(identity.volumeId.length, 32, 'a volume id has 32 digits');
  const header = Buffer.alloc(FileHeader.SIZE);
  FILE_MAGIC.copy(header, FileHeader.MAGIC);
  header.writeUInt16BE(FORMAT_VERSION, FileHeader.FORMAT);
  header.writeUInt16BE(FileHeader.SIZE, FileHeader.HEADER_BYTES);
  header.writeUInt32BE(identity.salt, FileHeader.SALT);
  header.write(identity.volumeId, FileHeader.VOLUME_ID, 'hex');
  writeU64(header, FileHeader.FIRST_SEQUENCE, fields.firstSequence);
  writeU64(header, FileHeader.BIRTH_BYTES, fields.birthBytes);
  const checksum = crc32(header.subarray(0, FileHeader.CHECKSUM));
  header.writeUInt32BE(checksum, FileHeader.CHECKSUM);
  return header;
}

/** Records on their way to the log; a growing buffer that is sealed when its place is known. */
export class RecordBuffer {
  private bytes: Buffer;
  length = 0;
  records = 0;

  constructor(capacity = 4096) {
    this.bytes = Buffer.alloc(capacity);
  }

  /** The bytes appended so far; valid until the next `append`. */
  get content(): Buffer {
    return this.bytes.subarray(0, this.length);
  }

  append(record: MetadataRecord): void {
    const payload = encodePayload(record);
    assert(payload.length <= METADATA_RECORD_BYTES_MAX, 'a record fits its largest payload');
    const padded = align(payload.length);
    this.reserve(RecordHeader.SIZE + padded);
    const start = this.length;
    const body = start + RecordHeader.SIZE;
    this.bytes.fill(0, start, body + padded);
    payload.copy(this.bytes, body);
    this.bytes.writeUInt32BE(RECORD_MAGIC, start + RecordHeader.MAGIC);
    this.bytes.writeUInt16BE(codeOfKind(record.kind), start + RecordHeader.KIND);
    this.bytes.writeUInt32BE(payload.length, start + RecordHeader.PAYLOAD_BYTES);
    const checksum = crc32(this.bytes.subarray(body, body + padded));
    this.bytes.writeUInt32BE(checksum, start + RecordHeader.PAYLOAD_CHECKSUM);
    this.length = body + padded;
    this.records += 1;
  }

  /** Appends what another buffer holds. */
  appendAll(other: RecordBuffer): void {
    this.reserve(other.length);
    other.content.copy(this.bytes, this.length);
    this.length += other.length;
    this.records += other.records;
  }

  clear(): void {
    this.length = 0;
    this.records = 0;
  }

  /** Writes place and order into every record header. Sealing again, for another place, is allowed. */
  seal(identity: LogIdentity, place: { batch: number; firstSequence: number }): void {
    const seed = seedOf(identity);
    let sequence = place.firstSequence;
    let start = 0;
    while (start < this.length) {
      const payloadBytes = this.bytes.readUInt32BE(start + RecordHeader.PAYLOAD_BYTES);
      const end = start + RecordHeader.SIZE + align(payloadBytes);
      const flags = end === this.length ? LAST_OF_BATCH : 0;
      this.bytes.writeUInt16BE(flags, start + RecordHeader.FLAGS);
      writeU64(this.bytes, start + RecordHeader.SEQUENCE, sequence);
      writeU64(this.bytes, start + RecordHeader.BATCH, place.batch);
      const header = this.bytes.subarray(start, start + RecordHeader.CHECKSUM);
      this.bytes.writeUInt32BE(crc32(header, seed), start + RecordHeader.CHECKSUM);
      start = end;
      sequence += 1;
    }
    assert.equal(start, this.length, 'records fill the buffer');
    assert.equal(sequence, place.firstSequence + this.records, 'every record was counted');
  }

  private reserve(more: number): void {
    if (this.length + more <= this.bytes.length) return;
    const larger = Buffer.alloc(Math.max(this.bytes.length * 2, this.length + more));
    this.bytes.copy(larger, 0, 0, this.length);
    this.bytes = larger;
  }
}

function align(length: number): number {
  return Math.ceil(length / RECORD_ALIGNMENT) * RECORD_ALIGNMENT;
}

/** What the bytes of a log hold, up to where they can be believed. */
export interface LogContents {
  readonly identity: LogIdentity;
  /** Length of the valid part: whole commits. */
  readonly end: number;
  readonly nextSequence: number;
  /** Bytes follow the valid part: a commit that was cut short. */
  readonly torn: boolean;
  /** It has an older format: nothing more is written to it. */
  readonly outdated: boolean;
}

/** METADATA_CORRUPT, with the place for those who look further. */
export class CorruptLog extends BlockferryError {
  /** Of the first byte that cannot be explained. */
  readonly offset: number;
  readonly why: string;

  constructor(path: string, place: { offset: number; why: string; cause?: unknown }) {
    const { offset, why, cause } = place;
    super('METADATA_CORRUPT', `${path}, offset ${offset}: ${why}`, { cause });
    this.offset = offset;
    this.why = why;
  }
}

/**
 * Reads a log and hands each record of a whole commit, in order, to `fold`. Throws CorruptLog with the offset of the
 * first byte that cannot be explained, or DATA_DIR_FORMAT_NEWER. What `fold` throws becomes CorruptLog.
 */
export function readLog(
  bytes: Buffer,
  path: string,
  fold: (record: MetadataRecord, offset: number) => void,
): LogContents {
  const header = readFileHeader(bytes, path);
  const { identity } = header;
  const { end, bad, batch, nextSequence } = findEnd(bytes, header);
  for (let offset: number = FileHeader.SIZE; offset < end;) {
    offset = foldAt(bytes, offset, path, fold);
  }
  if (end < FileHeader.SIZE + header.birthBytes) {
    throw corrupt(path, bad, 'a record that was durable before the file had its name is bad');
  }
  if (end < bytes.length) {
    const later = laterBatchAfter(bytes, { bad, batch }, identity);
    if (later >= 0) {
      throw corrupt(path, bad, `a bad record stands before a later good one at ${later}`);
    }
  }
  const outdated = identity.format < FORMAT_VERSION;
  return { identity, end, nextSequence, torn: end < bytes.length, outdated };
}

interface LogEnd {
  /** Where the last whole batch ends. */
  readonly end: number;
  readonly nextSequence: number;
  /** The first byte that is not part of a record in its place, and where the batch begins that it may belong to. */
  readonly bad: number;
  readonly batch: number;
}

function findEnd(bytes: Buffer, header: FileHeaderFields): LogEnd {
  const { identity } = header;
  let end: number = FileHeader.SIZE;
  let nextSequence = header.firstSequence;
  let offset = end;
  let sequence = nextSequence;
  while (offset < bytes.length) {
    const found = recordAt(bytes, offset, identity);
    if (found === null || found.sequence !== sequence || found.batch !== end) break;
    offset = found.end;
    sequence += 1;
    if (!found.last) continue;
    end = offset;
    nextSequence = sequence;
  }
  // Where there are no flags, what is bad may as well begin a batch of its own.
  return { end, nextSequence, bad: offset, batch: identity.format > 1 ? end : offset };
}

/** A record whose own checksums hold. */
export interface FoundRecord {
  readonly code: number;
  readonly payloadBytes: number;
  readonly sequence: number;
  /** Where its batch begins. */
  readonly batch: number;
  /** No record of its batch follows. */
  readonly last: boolean;
  /** Where the next record begins. */
  readonly end: number;
}

/** The record at `offset` of the log of `identity` if its own checksums hold, else null. Its order is not looked at. */
export function recordAt(bytes: Buffer, offset: number, identity: LogIdentity): FoundRecord | null {
  const seed = seedOf(identity);
  const found = readRecord(bytes, offset, seed);
  if (found === null || identity.format > 1) return found;
  // Whatever is whole of the last batch of such a log counts, as it did when it was written.
  const next = readRecord(bytes, found.end, seed);
  return { ...found, last: next?.batch !== found.batch };
}

/** The record at `offset` if its own checksums hold, else null. */
function readRecord(bytes: Buffer, offset: number, seed: number): FoundRecord | null {
  const body = offset + RecordHeader.SIZE;
  if (body > bytes.length) return null;
  if (bytes.readUInt32BE(offset + RecordHeader.MAGIC) !== RECORD_MAGIC) return null;
  const checksum = crc32(bytes.subarray(offset, offset + RecordHeader.CHECKSUM), seed);
  if (bytes.readUInt32BE(offset + RecordHeader.CHECKSUM) !== checksum) return null;
  const flags = bytes.readUInt16BE(offset + RecordHeader.FLAGS);
  if (flags !== 0 && flags !== LAST_OF_BATCH) return null;
  if (bytes.readUInt32BE(offset + RecordHeader.RESERVED_B) !== 0) return null;
  const payloadBytes = bytes.readUInt32BE(offset + RecordHeader.PAYLOAD_BYTES);
  if (payloadBytes > METADATA_RECORD_BYTES_MAX) return null;
  const end = body + align(payloadBytes);
  if (end > bytes.length) return null;
  const payloadChecksum = bytes.readUInt32BE(offset + RecordHeader.PAYLOAD_CHECKSUM);
  if (crc32(bytes.subarray(body, end)) !== payloadChecksum) return null;
  return {
    code: bytes.readUInt16BE(offset + RecordHeader.KIND),
    payloadBytes,
    sequence: peekU64(bytes, offset + RecordHeader.SEQUENCE),
    batch: peekU64(bytes, offset + RecordHeader.BATCH),
    last: flags === LAST_OF_BATCH,
    end,
  };
}

/** As readU64, for a field that is compared before it is used: a value that is too large is just wrong. */
function peekU64(bytes: Buffer, offset: number): number {
  return bytes.readUInt32BE(offset) * 2 ** 32 + bytes.readUInt32BE(offset + 4);
}

/** Folds the record at `offset`, whose checksums hold, and says where it ends. */
function foldAt(
  bytes: Buffer,
  offset: number,
  path: string,
  fold: (record: MetadataRecord, offset: number) => void,
): number {
  const code = bytes.readUInt16BE(offset + RecordHeader.KIND);
  const kind = kindOfCode(code);
  if (kind === null) {
    throw new BlockferryError(
      'DATA_DIR_FORMAT_NEWER',
      `${path} holds a record of the unknown kind ${code} at offset ${offset}`,
    );
  }
  const body = offset + RecordHeader.SIZE;
  const payloadBytes = bytes.readUInt32BE(offset + RecordHeader.PAYLOAD_BYTES);
  try {
    fold(decodePayload(kind, bytes.subarray(body, body + payloadBytes)), offset);
  } catch (thrown) {
    throw corrupt(path, offset, errorText(thrown), thrown);
  }
  return body + align(payloadBytes);
}

/**
 * The offset of a good record after `bad` that was written when the bytes there were durable: it belongs to a batch
 * after the one at `batch`, in which `bad` lies. -1 if there is none.
 */
function laterBatchAfter(
  bytes: Buffer,
  { bad, batch }: { bad: number; batch: number },
  identity: LogIdentity,
): number {
  const seed = seedOf(identity);
  for (let offset = bad; offset < bytes.length; offset += RECORD_ALIGNMENT) {
    const found = readRecord(bytes, offset, seed);
    if (found !== null && found.batch > batch) return offset;
  }
  return -1;
}

export interface FileHeaderFields {
  readonly identity: LogIdentity;
  readonly firstSequence: number;
  readonly birthBytes: number;
}

/** Throws CorruptLog, or DATA_DIR_FORMAT_NEWER. */
export function readFileHeader(bytes: Buffer, path: string): FileHeaderFields {
  if (bytes.length < FileHeader.SIZE) throw corrupt(path, 0, 'the file header is cut');
  const header = bytes.subarray(0, FileHeader.SIZE);
  if (!header.subarray(0, FILE_MAGIC.length).equals(FILE_MAGIC)) {
    throw corrupt(path, FileHeader.MAGIC, 'this is no metadata log');
  }
  const checksum = crc32(header.subarray(0, FileHeader.CHECKSUM));
  if (header.readUInt32BE(FileHeader.CHECKSUM) !== checksum) {
    throw corrupt(path, 0, 'the checksum of the file header does not hold');
  }
  const format = header.readUInt16BE(FileHeader.FORMAT);
  if (format === 0) throw corrupt(path, FileHeader.FORMAT, 'there is no format 0');
  if (format > FORMAT_VERSION) {
    throw new BlockferryError(
      'DATA_DIR_FORMAT_NEWER',
      `${path} has format ${format}, this version knows ${FORMAT_VERSION}`,
    );
  }
  try {
    return {
      identity: {
        format,
        volumeId: header.toString('hex', FileHeader.VOLUME_ID, FileHeader.FIRST_SEQUENCE),
        salt: header.readUInt32BE(FileHeader.SALT),
      },
      firstSequence: readU64(header, FileHeader.FIRST_SEQUENCE),
      birthBytes: readU64(header, FileHeader.BIRTH_BYTES),
    };
  } catch (thrown) {
    assert(thrown instanceof PayloadRefused, 'only a number can be refused here');
    throw corrupt(path, 0, thrown.message, thrown);
  }
}

function corrupt(path: string, offset: number, why: string, cause?: unknown): CorruptLog {
  return new CorruptLog(path, { offset, why, cause });
}
