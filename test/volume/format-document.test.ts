/**
 * docs/internals/metadata-log.md describes the bytes that the code writes. Method: its tables are read and compared
 * with the layouts of the code, and one record is built by hand as the document says.
 */
import { readFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import { pack } from 'msgpackr';
import { describe, expect, test } from 'vitest';
import {
  FORMAT_VERSION,
  FileHeader,
  RecordBuffer,
  RecordHeader,
} from '../../src/volume/log/metadata-log.ts';
import {
  LAYOUTS,
  PayloadRefused,
  decodePayload,
  encodePayload,
  kindOfCode,
  widthOf,
} from '../../src/volume/log/record-codec.ts';
import type { MetadataRecord, RecordKind } from '../../src/volume/log/records.ts';
import { REFUSALS } from '../../src/volume/refusals.ts';

const DOCUMENT = readFileSync(
  new URL('../../docs/internals/metadata-log.md', import.meta.url),
  'utf8',
);

/** The rows of the table below a heading whose first cell of the head is `head`. */
function rows(heading: string, head: string): string[][] {
  const section = DOCUMENT.slice(DOCUMENT.indexOf(`## ${heading}`));
  const lines = section.split('\n');
  const start = lines.findIndex((line) => line.split('|')[1]?.trim() === head);
  const found: string[][] = [];
  for (const line of lines.slice(start + 2)) {
    if (!line.startsWith('|')) break;
    const cells = line.split('|').map((cell) => cell.trim());
    found.push(cells.slice(1, -1));
  }
  return found;
}

function expectHeader(heading: string, offsets: Readonly<Record<string, number>>): void {
  const documented = rows(heading, 'offset').map(([offset, bytes, field]) => ({
    field,
    offset: Number(offset),
    bytes: Number(bytes),
  }));
  const { SIZE, ...fields } = offsets;
  const ends = [...Object.values(fields).slice(1), SIZE!];
  const coded = Object.entries(fields).map(([field, offset], index) => ({
    field,
    offset,
    bytes: ends[index]! - offset,
  }));
  expect(documented).toEqual(coded);
}

describe('the document', () => {
  test('has the file header of the code', () => {
    expectHeader('File header', FileHeader);
  });

  test('has the record header of the code', () => {
    expectHeader('Record header', RecordHeader);
  });

  test('has the kinds of the code', () => {
    const documented = rows('Kinds', 'code').map(([code, kind]) => [kind, Number(code)]);
    expect(documented).toEqual(Object.entries(LAYOUTS).map(([kind, { code }]) => [kind, code]));
  });

  test('has the payloads of the code', () => {
    const coded: string[] = [];
    for (const [kind, { fields }] of Object.entries(LAYOUTS)) {
      let offset = 0;
      for (const [name, type] of fields ?? []) {
        const bytes =
          type === 'maybe-leaf'
            ? '0 or 128'
            : type === 'u32-list'
              ? '4 + 4n'
              : String(widthOf(type));
        coded.push([kind, offset, bytes, name === '' ? 'zero' : name, type].join(' '));
        offset += widthOf(type);
      }
    }
    expect(rows('Kinds', 'kind').map((cells) => cells.join(' '))).toEqual(coded);
  });

  test('the bytes of a record are those of the document', () => {
    const identity = {
      format: FORMAT_VERSION,
      volumeId: '00112233445566778899aabbccddeeff',
      salt: 0xdeadbeef,
    };
    const buffer = new RecordBuffer();
    buffer.append({ kind: 'resized', sizeBytes: 2 ** 30 });
    buffer.seal(identity, { batch: 1000, firstSequence: 7 });
    const payload = Buffer.from('0000000040000000', 'hex');
    const payloadChecksum = crc32(payload).toString(16).padStart(8, '0');
    const header = Buffer.from(
      `424652430002000100000008${payloadChecksum}000000000000000700000000000003e800000000`,
      'hex',
    );
    const seed = crc32(Buffer.from(identity.volumeId, 'hex'), identity.salt);
    const checksum = Buffer.alloc(4);
    checksum.writeUInt32BE(crc32(header, seed));
    expect(buffer.content.toString('hex')).toBe(
      Buffer.concat([header, checksum, payload]).toString('hex'),
    );
  });
});

const u32 = fc.nat(0xffff_ffff);
const u64 = fc.maxSafeNat();
const leaf = fc.uint8Array({ minLength: 128, maxLength: 128 });
const id = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .map((bytes) => Buffer.from(bytes).toString('hex'));
const maybeId = fc.option(id, { nil: null });
const position = { generation: u64, epoch: u64, time: u64 };
const generations = fc.array(fc.record({ number: u64, id, firstEpoch: u64 }), { maxLength: 4 });
const set = fc.constantFrom('dirty' as const, 'suspect' as const);
const record: fc.Arbitrary<MetadataRecord> = fc.oneof(
  fc.record({ kind: fc.constant('resized' as const), sizeBytes: u64 }),
  fc.record({ kind: fc.constant('layer-created' as const), layer: u32, parent: u32 }),
  fc.record({
    kind: fc.constant('allocated' as const),
    layer: u32,
    first: u64,
    count: u64,
    state: fc.constantFrom(0 as const, 1 as const, 2 as const),
  }),
  fc.record({
    kind: fc.constant('layer-region' as const),
    layer: u32,
    region: u32,
    data: leaf,
    zero: leaf,
  }),
  fc.record({
    kind: fc.constant('mirror-added' as const),
    mirror: u32,
    uri: fc.string({ unit: 'grapheme' }),
    mode: fc.constantFrom('async' as const, 'sync' as const),
    stallPolicy: fc.constantFrom('degrade' as const, 'block' as const),
  }),
  fc.record({ kind: fc.constant('mirror-paused' as const), mirror: u32, paused: fc.boolean() }),
  fc.record({
    kind: fc.constant('mirror-bits' as const),
    mirror: u32,
    set,
    region: u32,
    state: fc.constant(2 as const),
    leaf,
  }),
  fc.record({
    kind: fc.constant('mirror-bits' as const),
    mirror: u32,
    set,
    region: u32,
    state: fc.constantFrom(0 as const, 1 as const),
    leaf: fc.constant(null),
  }),
  fc.record({
    kind: fc.constant('mirror-bits-run' as const),
    mirror: u32,
    set,
    first: u64,
    count: u64,
    value: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('mirror-bits-all' as const), mirror: u32, set }),
  fc.record({ kind: fc.constant('regions-hot' as const), regions: fc.array(u32) }),
  fc.record({ kind: fc.constant('generation-numbered' as const), generation: u64 }),
  fc.record({ kind: fc.constant('closed-clean' as const) }),
  fc.record({ kind: fc.constant('layer-sealed' as const), layer: u32 }),
  fc.record({ kind: fc.constant('layers-merged' as const), from: u32, into: u32 }),
  fc.record({ kind: fc.constant('layer-removed' as const), layer: u32 }),
  fc.record({ kind: fc.constant('top-removed' as const), layer: u32 }),
  fc.record({ kind: fc.constant('layer-resized' as const), layer: u32, sizeBytes: u64 }),
  fc.record({
    kind: fc.constant('snapshot-created' as const),
    id,
    name: fc.string({ unit: 'grapheme' }),
    layer: u32,
    createdAt: u64,
    sizeBytes: u64,
  }),
  fc.record({ kind: fc.constant('snapshot-removed' as const), id }),
  fc.record({ kind: fc.constant('booted' as const), id }),
  fc.record({ kind: fc.constant('history-set' as const), generations }),
  fc.record({ kind: fc.constant('generation-opened' as const), number: u64, id, firstEpoch: u64 }),
  fc.record({ kind: fc.constant('epochs-reserved' as const), epoch: u64 }),
  fc.record({ kind: fc.constant('source-bound' as const), node: fc.string(), volumeId: maybeId }),
  fc.record({ kind: fc.constant('source-cleared' as const) }),
  fc.record({ kind: fc.constant('position' as const), ...position }),
  fc.record({
    kind: fc.constant('run-opened' as const),
    run: id,
    ...position,
    generations,
    base: id,
    full: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('run-marked' as const), run: id, cursor: u64 }),
  fc.record({ kind: fc.constant('run-closed' as const), run: id, committed: fc.boolean() }),
  fc.record({
    kind: fc.constant('mirror-peer' as const),
    mirror: u32,
    node: fc.string({ unit: 'grapheme' }),
    volumeId: maybeId,
  }),
  fc.record({
    kind: fc.constant('mirror-acknowledged' as const),
    mirror: u32,
    generation: u64,
    epoch: u64,
  }),
  fc.record({
    kind: fc.constant('mirror-run' as const),
    mirror: u32,
    run: id,
    snapshot: id,
    ...position,
  }),
  fc.record({ kind: fc.constant('mirror-run-over' as const), mirror: u32 }),
  fc.record({
    kind: fc.constant('mirror-options' as const),
    mirror: u32,
    lanes: u32,
    limit: fc.option(u64, { nil: null }),
  }),
  fc.record({
    kind: fc.constant('mirror-policy' as const),
    mirror: u32,
    schedule: fc.oneof(
      fc.constant({ kind: 'stream' as const }),
      fc.constant({ kind: 'on-demand' as const }),
      fc.record({ kind: fc.constant('every' as const), intervalMs: u32 }),
      fc.record({ kind: fc.constant('quiet' as const), bytesPerSecond: u64, intervalMs: u32 }),
    ),
    lagLimitMs: fc.option(u32, { nil: null }),
  }),
  fc.record({
    kind: fc.constant('mirror-compress' as const),
    mirror: u32,
    mode: fc.constantFrom('auto' as const, 'off' as const),
  }),
  fc.record({ kind: fc.constant('mirror-ran' as const), mirror: u32, time: u64 }),
  fc.record({
    kind: fc.constant('source-policy' as const),
    refuses: fc.uniqueArray(fc.constantFrom(...REFUSALS)),
  }),
  fc.record({ kind: fc.constant('snapshot-kept' as const), id }),
  fc.record({
    kind: fc.constant('journal-kept' as const),
    layer: u32,
    generation: u64,
    after: u64,
    last: u64,
  }),
  fc.record({ kind: fc.constant('journal-released' as const) }),
  fc.record({ kind: fc.constant('sync-failed' as const), boot: id }),
  fc.record({ kind: fc.constant('rejoining' as const), mirror: u32, generation: u64, epoch: u64 }),
  fc.record({ kind: fc.constant('handing-over' as const), mirror: u32, id, epoch: u64 }),
  fc.record({ kind: fc.constant('handover-over' as const) }),
  fc.record({ kind: fc.constant('fenced' as const), reason: fc.string() }),
  fc.record({
    kind: fc.constant('layer-placed' as const),
    layer: u32,
    container: fc.constantFrom('device' as const, 'nbd' as const),
    location: fc.string(),
  }),
);

const codes = Object.values(LAYOUTS).map(({ code }) => code);

/** Kinds whose payload is a map: they have no length of their own. */
const maps = Object.entries(LAYOUTS).flatMap(([kind, { fields }]) =>
  fields === null ? [kind] : [],
);

function decode(map: unknown): MetadataRecord {
  return decodePayload('snapshot-created', Buffer.from(pack(map)));
}

describe('payloads', () => {
  test('come back as they went', () => {
    fc.assert(
      fc.property(record, (each) => {
        expect(decodePayload(each.kind, encodePayload(each))).toEqual(each);
      }),
    );
  });

  test('that are too short or too long are refused', () => {
    fc.assert(
      fc.property(record, fc.nat(), (each, cut) => {
        fc.pre(!maps.includes(each.kind));
        const payload = encodePayload(each);
        const longer = Buffer.concat([payload, Buffer.alloc(1)]);
        expect(() => decodePayload(each.kind, longer)).toThrow(PayloadRefused);
        if (payload.length === 0) return;
        const shorter = payload.subarray(0, cut % payload.length);
        expect(() => decodePayload(each.kind, shorter)).toThrow(PayloadRefused);
      }),
    );
  });

  test('that are maps have every field, of its type, and an id of 32 digits', () => {
    const good = {
      id: '0123456789abcdef'.repeat(2),
      name: 'n',
      layer: 3,
      createdAt: 5,
      sizeBytes: 4096,
    };
    const wrong: Record<string, unknown>[] = [
      { ...good, id: good.id.slice(1) },
      { ...good, id: good.id.toUpperCase() },
      { ...good, name: 7 },
      { ...good, layer: -1 },
      { ...good, createdAt: 0.5 },
      { ...good, sizeBytes: '4096' },
    ];
    for (const name of Object.keys(good)) wrong.push({ ...good, [name]: undefined });
    expect(decode(good)).toEqual({ kind: 'snapshot-created', ...good });
    for (const map of wrong) expect(() => decode(map)).toThrow(PayloadRefused);
    expect(() => decodePayload('snapshot-removed', Buffer.from(pack({ id: 'x' })))).toThrow(
      PayloadRefused,
    );
  });

  test('of any bytes give a record or a refusal, and nothing else', () => {
    fc.assert(
      fc.property(fc.constantFrom(...codes), fc.uint8Array(), (code, bytes) => {
        const kind = kindOfCode(code) as RecordKind;
        try {
          expect(decodePayload(kind, Buffer.from(bytes)).kind).toBe(kind);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(PayloadRefused);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
