/**
 * The metadata log under a check: what it folds to, and every place in it that cannot be believed.
 *
 * Invariants:
 * - `readLog` alone says whether a log can be used, and what it folds to: here that is only put into words, and looked
 *   at past the first bad place, so that all of them are named.
 * - With a fault there is no state: nothing is judged, or repaired, by a part of a log.
 */
import { crc32 } from 'node:zlib';
import { BlockferryError } from '../../io/errors.ts';
import { CHECK_STEPS_PER_TURN } from '../../io/limits.ts';
import { atBytes, atFile, finding } from './check-finding.ts';
import type { Finding } from './check-finding.ts';
import {
  CorruptLog,
  FileHeader,
  RECORD_ALIGNMENT,
  RecordHeader,
  readFileHeader,
  readLog,
  recordAt,
} from '../log/metadata-log.ts';
import type { FileHeaderFields, FoundRecord, LogIdentity } from '../log/metadata-log.ts';
import { emptyState, foldRecord } from '../log/metadata-state.ts';
import type { VolumeState } from '../log/metadata-state.ts';
import { kindOfCode } from '../log/record-codec.ts';

export interface CheckedLog {
  readonly findings: readonly Finding[];
  /** Null when the log has a fault. */
  readonly state: VolumeState | null;
  /** Offsets of the records that made snapshots, by the ids of these. */
  readonly snapshotOffsets: ReadonlyMap<string, number>;
}

/** Checks the bytes of the log at `path`. */
export function checkLog(bytes: Buffer, path: string): CheckedLog {
  const state = emptyState();
  const snapshotOffsets = new Map<string, number>();
  const bad = (...findings: Finding[]): CheckedLog => ({ findings, state: null, snapshotOffsets });
  try {
    const { identity, end, torn } = readLog(bytes, path, (record, offset) => {
      foldRecord(state, record);
      if (record.kind === 'snapshot-created') snapshotOffsets.set(record.id, offset);
    });
    if (state.id !== identity.volumeId || state.topLayer === 0) {
      const what =
        state.id === ''
          ? 'no record says which volume this is'
          : state.topLayer === 0
            ? `the volume ${state.id} has no layer`
            : `the header names the volume ${identity.volumeId}, the records ${state.id}`;
      return bad(finding('log-incomplete', atBytes(path, FileHeader.VOLUME_ID, end), what));
    }
    const findings: Finding[] = [];
    if (torn) findings.push(tornTail(bytes, path, end, true));
    return { findings, state, snapshotOffsets };
  } catch (thrown) {
    if (thrown instanceof CorruptLog) return bad(...explainCorrupt(bytes, path, thrown));
    if (!(thrown instanceof BlockferryError)) throw thrown;
    return bad(finding('log-newer', newerPlace(bytes, path), thrown.message));
  }
}

function tornTail(bytes: Buffer, path: string, end: number, mendable: boolean): Finding {
  const what = `the last commit was cut short: ${bytes.length - end} bytes that were never answered for`;
  const repair = mendable ? ({ kind: 'rewrite-log' } as const) : null;
  return finding('log-torn', atBytes(path, end, bytes.length), what, repair);
}

function explainCorrupt(bytes: Buffer, path: string, corrupt: CorruptLog): Finding[] {
  const { offset, why, cause } = corrupt;
  let header: FileHeaderFields;
  try {
    header = readFileHeader(bytes, path);
  } catch {
    const end = Math.min(bytes.length, FileHeader.SIZE);
    return [finding('log-header-bad', atBytes(path, offset, end), why)];
  }
  const record = recordAt(bytes, offset, header.identity);
  if (cause !== undefined && record !== null) {
    const what = `the record cannot follow those before it: ${why}`;
    return [finding('log-record-refused', atBytes(path, offset, record.end), what)];
  }
  const findings: Finding[] = [];
  for (const step of walkLog(bytes, header)) {
    if (step.kind !== 'gap' || step.offset < offset) continue;
    if (step.lost === null && step.offset !== offset) {
      findings.push(tornTail(bytes, path, step.offset, false));
    } else {
      findings.push(gapFinding(path, step, step.offset === offset ? why : null));
    }
  }
  // A file that ends between two records has no byte that is bad.
  const isNamed = findings.some(({ place }) => place.bytes?.offset === offset);
  if (!isNamed) findings.unshift(finding('log-corrupt', atBytes(path, offset, bytes.length), why));
  return findings;
}

/** What a gap in the log says of it. */
export function gapFinding(path: string, gap: LogGap, more: string | null): Finding {
  const lost =
    gap.lost === null
      ? 'nothing good follows'
      : `the next good record is at ${gap.end}, ${gap.lost} missing between`;
  const what = `${gap.why}; ${lost}${more === null ? '' : ` (${more})`}`;
  return finding('log-corrupt', atBytes(path, gap.offset, gap.end), what);
}

function newerPlace(bytes: Buffer, path: string): ReturnType<typeof atFile> {
  let header: FileHeaderFields;
  try {
    header = readFileHeader(bytes, path);
  } catch {
    return atBytes(path, FileHeader.FORMAT, FileHeader.HEADER_BYTES);
  }
  for (const step of walkLog(bytes, header)) {
    if (step.kind === 'record' && kindOfCode(step.record.code) === null) {
      return atBytes(path, step.offset, step.record.end);
    }
  }
  return atFile(path);
}

export interface LogGap {
  readonly kind: 'gap';
  /** The first byte that is no good. */
  readonly offset: number;
  /** Where good records go on, or the end. */
  readonly end: number;
  /** Records that stood here, by their sequence; null when none follows. */
  readonly lost: number | null;
  readonly why: string;
}

type LogStep =
  | { readonly kind: 'record'; readonly offset: number; readonly record: FoundRecord }
  | LogGap
  /** Only time has passed. */
  | { readonly kind: 'pause' };

interface Expected {
  readonly sequence: number;
  /** Where the batch begins that is not whole yet. */
  readonly batch: number;
}

/** Every good record of the log, and every gap between them. A log that ends inside a commit ends with a gap. */
export function* walkLog(bytes: Buffer, header: FileHeaderFields): Generator<LogStep> {
  const { identity } = header;
  let offset: number = FileHeader.SIZE;
  let expected: Expected = { sequence: header.firstSequence, batch: FileHeader.SIZE };
  while (offset < bytes.length) {
    let record = recordAt(bytes, offset, identity);
    if (
      record === null ||
      record.sequence !== expected.sequence ||
      record.batch !== expected.batch
    ) {
      const why = whyBad(bytes, offset, identity, expected);
      const start = offset;
      record = null;
      while (record === null && offset + RECORD_ALIGNMENT < bytes.length) {
        offset += RECORD_ALIGNMENT;
        if ((offset / RECORD_ALIGNMENT) % CHECK_STEPS_PER_TURN === 0) yield { kind: 'pause' };
        const next = recordAt(bytes, offset, identity);
        if (next !== null && next.sequence >= expected.sequence) record = next;
      }
      if (record === null) {
        yield { kind: 'gap', offset: start, end: bytes.length, lost: null, why };
        return;
      }
      const lost = record.sequence - expected.sequence;
      yield { kind: 'gap', offset: start, end: offset, lost, why };
    }
    yield { kind: 'record', offset, record };
    offset = record.end;
    expected = { sequence: record.sequence + 1, batch: record.last ? record.end : record.batch };
  }
  if (expected.batch === offset) return;
  const why = `the commit at ${expected.batch} has no last record`;
  yield { kind: 'gap', offset, end: offset, lost: null, why };
}

/** Which of the rules of docs/internals/metadata-log.md the bytes at `offset` break. */
function whyBad(bytes: Buffer, offset: number, identity: LogIdentity, expected: Expected): string {
  const found = recordAt(bytes, offset, identity);
  if (found !== null) {
    return found.sequence === expected.sequence
      ? `the record belongs to a batch at ${found.batch}, which is not this one`
      : `the record has the sequence ${found.sequence}, where ${expected.sequence} follows`;
  }
  if (offset + RecordHeader.SIZE > bytes.length) return 'the file ends inside a record header';
  const header = bytes.subarray(offset, offset + RecordHeader.SIZE);
  if (header.every((byte) => byte === 0)) return 'zeroes stand where a record should';
  if (header.toString('latin1', 0, 4) !== 'BFRC') return 'no record begins here';
  const seed = crc32(Buffer.from(identity.volumeId, 'hex'), identity.salt);
  const checksum = crc32(header.subarray(0, RecordHeader.CHECKSUM), seed);
  if (header.readUInt32BE(RecordHeader.CHECKSUM) !== checksum) {
    return 'the checksum of the record header does not hold';
  }
  const end = offset + RecordHeader.SIZE + header.readUInt32BE(RecordHeader.PAYLOAD_BYTES);
  if (end > bytes.length) return 'the file ends inside the payload of a record';
  return 'the checksum of the payload does not hold';
}
