/**
 * What a journal holds after a crash: the epochs behind a position, in order.
 *
 * Invariants:
 * - An epoch is handed out when every byte of its record was proven.
 * - A record that is not whole ends its file, if nothing was known to be durable behind it: that is a torn tail, and nobody was
 *   told of it. Else something that was acknowledged is lost: JOURNAL_UNUSABLE, with its place, unless all that is lost lies
 *   before the position.
 * - What is handed out has no gap: behind a position comes the next epoch, or nothing.
 */
import { BlockferryError } from '../../io/errors.ts';
import type { CompleteEpoch, EpochFrame } from './epoch-assembly.ts';
import {
  EpochHeader,
  JOURNAL_ALIGNMENT,
  RECORDS_START,
  RECORD_MAGIC,
  aligned,
  decodeEpochHeader,
  decodeTable,
  headBytes,
} from './journal-codec.ts';
import type { FoundFrame, FoundRecord } from './journal-codec.ts';
import { unusable } from './journal-file.ts';
import type { JournalFile } from './journal-file.ts';
import { checksumOf } from '../payload-checksum.ts';

/** What is read at once in the search for later records. */
const SEARCH_BYTES: number = 1024 * 1024;

const MAGIC = Buffer.alloc(4);
MAGIC.writeUInt32BE(RECORD_MAGIC);

interface Place {
  readonly offset: number;
  readonly record: FoundRecord;
}

/** The epochs after `after`, from files in the order of their serials. Throws JOURNAL_UNUSABLE. */
export async function* epochsAfter(
  files: readonly JournalFile[],
  after: number,
): AsyncGenerator<CompleteEpoch, void, void> {
  let last = after;
  for (const file of files) {
    for await (const { epoch, offset } of epochsOf(file, after)) {
      // Another stream of epochs ended here, or one that is not there stood between.
      if (epoch.epoch !== last + 1) {
        throw unusable(file.path, offset, `epoch ${epoch.epoch} follows epoch ${last}`);
      }
      last = epoch.epoch;
      yield epoch;
    }
  }
}

async function* epochsOf(
  file: JournalFile,
  after: number,
): AsyncGenerator<{ epoch: CompleteEpoch; offset: number }, void, void> {
  let offset = RECORDS_START;
  let known = 0;
  for (;;) {
    const record = await headerAt(file, offset);
    const isNext = record !== null && (known === 0 || record.epoch === known + 1);
    const skipped = isNext && record.epoch <= after;
    const epoch = isNext && !skipped ? await readEpoch(file, offset, record) : null;
    if (isNext && (skipped || epoch !== null)) {
      if (epoch !== null) yield { epoch, offset };
      known = record.epoch;
      offset += EpochHeader.SIZE + record.bodyBytes;
      continue;
    }
    const later = await laterRecord(file, offset);
    if (later === null) return;
    if (later.record.epoch - 1 > after) {
      throw unusable(
        file.path,
        offset,
        `a record is damaged that was durable before epoch ${later.record.epoch} was written at ${later.offset}`,
      );
    }
    // Whatever was lost here is part of the volume already.
    offset = later.offset;
    known = 0;
  }
}

async function headerAt(file: JournalFile, offset: number): Promise<FoundRecord | null> {
  const bytes = Buffer.allocUnsafe(EpochHeader.SIZE);
  const whole = await readWhole(file, bytes, offset);
  return whole ? decodeEpochHeader(bytes, 0, file.seed) : null;
}

/** Null when a part of it does not hold. */
async function readEpoch(
  file: JournalFile,
  offset: number,
  record: FoundRecord,
): Promise<CompleteEpoch | null> {
  const head = headBytes(record.frames);
  const table = Buffer.allocUnsafe(head - EpochHeader.SIZE);
  if (!(await readWhole(file, table, offset + EpochHeader.SIZE))) return null;
  const rows = decodeTable(table, record);
  if (rows === null) return null;
  const frames: EpochFrame[] = [];
  let at = offset + head;
  let bytes = 0;
  for (const row of rows) {
    const frame = await readFrame(file, at, row);
    if (frame === null) return null;
    frames.push(frame);
    at += aligned(row.length);
    bytes += row.length;
  }
  const { generation, epoch, time } = record;
  return { generation, epoch, time, frames, bytes };
}

async function readFrame(
  file: JournalFile,
  offset: number,
  { kind, length, checksum, checksumKind }: FoundFrame,
): Promise<EpochFrame | null> {
  const buffer = Buffer.allocUnsafe(length);
  if (!(await readWhole(file, buffer, offset))) return null;
  if (checksumOf(checksumKind, buffer) !== checksum) return null;
  return { kind, payload: { buffer, length, release() {} } };
}

/** The first record of this use at or behind `bad` that was written when the bytes at `bad` were known to be durable. */
async function laterRecord(file: JournalFile, bad: number): Promise<Place | null> {
  const chunk = Buffer.allocUnsafe(SEARCH_BYTES + EpochHeader.SIZE);
  for (let base = bad; ; base += SEARCH_BYTES) {
    const count = await readSome(file, chunk, base);
    let at = chunk.indexOf(MAGIC);
    while (at >= 0 && at < SEARCH_BYTES && at + EpochHeader.SIZE <= count) {
      const isPlace = at % JOURNAL_ALIGNMENT === 0;
      const record = isPlace ? decodeEpochHeader(chunk, at, file.seed) : null;
      if (record !== null && record.synced > bad) return { offset: base + at, record };
      at = chunk.indexOf(MAGIC, at + 1);
    }
    if (count < chunk.length) return null;
  }
}

async function readWhole(file: JournalFile, buffer: Buffer, offset: number): Promise<boolean> {
  return (await readSome(file, buffer, offset)) === buffer.length;
}

/** Fewer bytes than asked at the end of the file. Throws JOURNAL_UNUSABLE for what the disk cannot read. */
async function readSome(file: JournalFile, buffer: Buffer, offset: number): Promise<number> {
  let done = 0;
  while (done < buffer.length) {
    const count = await new Promise<number>((resolve) => {
      file.file.read(buffer, done, buffer.length - done, offset + done, resolve);
    });
    if (count < 0) {
      throw new BlockferryError(
        'JOURNAL_UNUSABLE',
        `${file.path}, offset ${offset + done}: it cannot be read (errno ${-count})`,
      );
    }
    if (count === 0) return done;
    done += count;
  }
  return done;
}
