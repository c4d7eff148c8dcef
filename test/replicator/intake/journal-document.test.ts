/**
 * docs/internals/journal.md describes the bytes that the code writes. Method: its tables are compared with the layouts of the
 * code, and one record is built by hand as the document says.
 */
import { readFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { xxh64 } from '@node-rs/xxhash';
import { describe, expect, test } from 'vitest';
import { FrameKind } from '../../../src/replicator/link/link-types.ts';
import { ChecksumKind, checksumOf } from '../../../src/replicator/payload-checksum.ts';
import {
  EpochHeader,
  FrameRow,
  JOURNAL_FORMAT,
  JournalHeader,
  RECORDS_START,
  decodeEpochHeader,
  decodeJournalHeader,
  decodeTable,
  encodeHead,
  encodeJournalHeader,
  recordBytes,
  seedOf,
} from '../../../src/replicator/intake/journal-codec.ts';

const DOCUMENT = readFileSync(
  new URL('../../../docs/internals/journal.md', import.meta.url),
  'utf8',
);

function rowsBelow(heading: string): { field: string; offset: number; bytes: number }[] {
  const section = DOCUMENT.slice(DOCUMENT.indexOf(`## ${heading}`))
    .split('\n')
    .slice(1);
  const lines = section.slice(section.findIndex((line) => line.startsWith('|')) + 2);
  const end = lines.findIndex((line) => !line.startsWith('|'));
  return lines.slice(0, end).map((line) => {
    const [, offset, bytes, field] = line.split('|').map((cell) => cell.trim());
    return { field: field!, offset: Number(offset), bytes: Number(bytes) };
  });
}

function coded(layout: Readonly<Record<string, number>>): ReturnType<typeof rowsBelow> {
  const { SIZE, ...fields } = layout;
  const ends = [...Object.values(fields).slice(1), SIZE!];
  return Object.entries(fields).map(([field, offset], index) => ({
    field,
    offset,
    bytes: ends[index]! - offset,
  }));
}

const use = { volumeId: '00112233445566778899aabbccddeeff', salt: 0xdeadbeef, serial: 7 };
const payload = { buffer: Buffer.from('data, twelve'), length: 12, release() {} };
const epoch = {
  generation: 2,
  epoch: 2 ** 32 + 5,
  time: 1_700_000_000_000,
  frames: [{ kind: FrameKind.RANGES, payload }],
  bytes: 12,
};

function hex(value: number, bytes: number): string {
  return value.toString(16).padStart(bytes * 2, '0');
}

describe('the document', () => {
  test.each([
    ['File header', JournalHeader],
    ['Record header', EpochHeader],
    ['Row of the table', FrameRow],
  ])('has the layout of the code: %s', (heading, layout) => {
    expect(rowsBelow(heading)).toEqual(coded(layout));
  });

  test('says where records begin, and the kinds of frames', () => {
    expect(DOCUMENT).toContain(`records begin at offset ${RECORDS_START}`);
    const { DATA, RANGES, COMMAND } = FrameKind;
    expect(DOCUMENT).toContain(`${DATA} DATA, ${RANGES} RANGES, ${COMMAND} COMMAND`);
  });

  test('the bytes of a record are those of the document', () => {
    const seed = crc32(Buffer.from(`${use.volumeId}${hex(7, 8)}`, 'hex'), use.salt);
    const checksum = Number(xxh64(payload.buffer) & 0xffff_ffffn);
    const table = `${hex(2, 2)}0001${hex(12, 4)}${hex(checksum, 4)}00000000`;
    const head =
      `42464a5200000000${hex(2, 8)}${hex(epoch.epoch, 8)}${hex(epoch.time, 8)}${hex(5000, 8)}` +
      `${hex(1, 4)}${hex(32, 4)}${hex(crc32(Buffer.from(table, 'hex')), 4)}${'00'.repeat(8)}`;
    const expected = `${head}${hex(crc32(Buffer.from(head, 'hex'), seed), 4)}${table}`;
    const target = Buffer.alloc(80, 0xee);
    encodeHead(target, 0, epoch, { seed: seedOf(use), synced: 5000 });
    expect(target.toString('hex')).toBe(expected);
    expect(recordBytes(epoch)).toBe(64 + 32);
  });
});

describe('headers', () => {
  test('come back as they went', () => {
    const header = encodeJournalHeader(use);
    expect(decodeJournalHeader(header, use.volumeId)).toEqual({ kind: 'use', use });
    const target = Buffer.alloc(80);
    encodeHead(target, 0, epoch, { seed: seedOf(use), synced: 5000 });
    const found = decodeEpochHeader(target, 0, seedOf(use))!;
    expect(found).toMatchObject({ generation: 2, epoch: epoch.epoch, synced: 5000, frames: 1 });
    const row = { kind: FrameKind.RANGES, length: 12 };
    const checksum = checksumOf(ChecksumKind.XXH64, payload.buffer);
    expect(decodeTable(target.subarray(64), found)).toEqual([
      { ...row, checksumKind: ChecksumKind.XXH64, checksum },
    ]);
  });

  test('of the format before, all of whose checksums are CRC32, are read; those of a later one are not', () => {
    const header = encodeJournalHeader(use);
    const withFormat = (format: number): Buffer => {
      header.writeUInt16BE(format, JournalHeader.FORMAT);
      const checksum = crc32(header.subarray(0, JournalHeader.CHECKSUM));
      header.writeUInt32BE(checksum, JournalHeader.CHECKSUM);
      return header;
    };
    expect(decodeJournalHeader(withFormat(1), use.volumeId)).toEqual({ kind: 'use', use });
    const later = JOURNAL_FORMAT + 1;
    const found = decodeJournalHeader(withFormat(later), use.volumeId);
    expect(found).toEqual({ kind: 'newer', format: later });
    // There its kind was a reserved zero.
    expect(ChecksumKind.CRC32).toBe(0);
  });

  test('have the checksum with which a payload came over its link', () => {
    const target = Buffer.alloc(80);
    const came = { ...payload, checksum: 77, checksumKind: ChecksumKind.CRC32 };
    const frames = [{ kind: FrameKind.RANGES, payload: came }];
    encodeHead(target, 0, { ...epoch, frames }, { seed: seedOf(use), synced: 5000 });
    const found = decodeEpochHeader(target, 0, seedOf(use))!;
    const row = { kind: FrameKind.RANGES, length: 12 };
    expect(decodeTable(target.subarray(64), found)).toEqual([
      { ...row, checksumKind: ChecksumKind.CRC32, checksum: 77 },
    ]);
  });

  test('with a checksum of a kind that there is not are not believed', () => {
    const target = Buffer.alloc(80);
    encodeHead(target, 0, epoch, { seed: seedOf(use), synced: 5000 });
    const found = decodeEpochHeader(target, 0, seedOf(use))!;
    const table = Buffer.from(target.subarray(64));
    table.writeUInt16BE(2, FrameRow.CHECKSUM_KIND);
    expect(decodeTable(table, { ...found, tableChecksum: crc32(table) })).toBeNull();
  });

  test('of another use, another volume, or with any bit changed are not believed', () => {
    const target = Buffer.alloc(80);
    encodeHead(target, 0, epoch, { seed: seedOf(use), synced: 5000 });
    expect(decodeEpochHeader(target, 0, seedOf({ ...use, serial: 8 }))).toBeNull();
    const header = encodeJournalHeader(use);
    expect(decodeJournalHeader(header, 'ff'.repeat(16)).kind).toBe('bad');
    expect(decodeJournalHeader(Buffer.alloc(64), use.volumeId).kind).toBe('blank');
    for (let bit = 0; bit < 64 * 8; bit += 1) {
      const flip = (bytes: Buffer): Buffer => {
        const changed = Buffer.from(bytes);
        changed[bit >> 3]! ^= 1 << (bit & 7);
        return changed;
      };
      expect(decodeEpochHeader(flip(target), 0, seedOf(use))).toBeNull();
      expect(decodeJournalHeader(flip(header), use.volumeId).kind).toBe('bad');
    }
  });
});
