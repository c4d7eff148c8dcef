/**
 * A check names every damage of a metadata log with its place. Method: a log of several batches, written by the code that
 * writes logs; then every byte is changed, every length is cut, and so on, and what is found is compared with where the
 * damage was done.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import { checkLog } from '../../src/volume/check/check-log.ts';
import { FileHeader, readFileHeader } from '../../src/volume/log/metadata-log.ts';
import type { MetadataRecord } from '../../src/volume/log/records.ts';
import { LAYERED, LOG, World, codesOf, snapshot, spansOf } from './support/check-world.ts';
import type { Span } from './support/check-world.ts';

function flipped(log: Buffer, ...offsets: number[]): Buffer {
  const copy = Buffer.from(log);
  for (const offset of offsets) copy[offset]! ^= 0xff;
  return copy;
}

describe('the check of a log', () => {
  let log: Buffer;
  let spans: Span[];
  let lastBatch: number;
  beforeAll(async () => {
    const world = await World.layered();
    log = world.bytes(LOG);
    spans = spansOf(log);
    lastBatch = spans.at(-1)!.batch;
  });

  test('finds nothing in a whole one, and what it folds to', () => {
    expect(spans.length).toBe(LAYERED.flat().length);
    const { findings, state, snapshotOffsets } = checkLog(log, LOG);
    expect(findings).toEqual([]);
    expect(state?.name).toBe('layered');
    expect(
      [...snapshotOffsets.values()].every((at) => spans.some(({ start }) => start === at)),
    ).toBe(true);
  });

  test('names the record of every byte that is changed, and its end', () => {
    for (const { start, end, batch } of spans) {
      for (let offset = start; offset < end; offset += 1) {
        const { findings, state } = checkLog(flipped(log, offset), LOG);
        expect(findings.length, `byte ${offset}`).toBe(1);
        const [found] = findings;
        if (batch === lastBatch) {
          expect(found?.code, `byte ${offset}`).toBe('log-torn');
          expect(found?.severity).toBe('info');
          expect(found?.place.bytes).toEqual({ offset: batch, length: log.length - batch });
          expect(state).not.toBeNull();
        } else {
          expect(found?.code, `byte ${offset}`).toBe('log-corrupt');
          expect(found?.place.bytes).toEqual({ offset: start, length: end - start });
          expect(found?.repair).toBeNull();
          expect(state).toBeNull();
        }
      }
    }
  });

  test('names the header for every byte of it', () => {
    for (let offset = 0; offset < FileHeader.SIZE; offset += 1) {
      const { findings, state } = checkLog(flipped(log, offset), LOG);
      expect(codesOf(findings), `byte ${offset}`).toEqual(['log-header-bad']);
      expect(findings[0]?.place.bytes?.offset).toBe(0);
      expect(state).toBeNull();
    }
  });

  test('names each of several damages, with the records that are lost', () => {
    const [one, two] = [spans[3]!, spans[8]!];
    const { findings } = checkLog(flipped(log, one.start + 50, two.start + 4), LOG);
    expect(codesOf(findings)).toEqual(['log-corrupt', 'log-corrupt']);
    expect(findings.map(({ place }) => place.bytes?.offset)).toEqual([one.start, two.start]);
    expect(findings[0]?.what).toContain('checksum of the payload');
    expect(findings[1]?.what).toContain('checksum of the record header');
    for (const { what } of findings) expect(what).toContain('1 missing between');
  });

  test('tells a corrupt middle from the torn tail behind it', () => {
    const { findings, state } = checkLog(flipped(log, spans[4]!.start, log.length - 1), LOG);
    expect(codesOf(findings)).toEqual(['log-corrupt', 'log-torn']);
    expect(findings[1]?.place.bytes?.offset).toBe(spans.at(-1)!.start);
    expect(findings[1]?.repair).toBeNull();
    expect(state).toBeNull();
  });

  test('calls every cut a torn tail, but for what was there when the log was made', () => {
    const { birthBytes } = readFileHeader(log, LOG);
    const starts = new Set(spans.map(({ batch }) => batch));
    for (let length = 0; length < log.length; length += 1) {
      const { findings } = checkLog(log.subarray(0, length), LOG);
      const expected =
        length < FileHeader.SIZE
          ? ['log-header-bad']
          : length < FileHeader.SIZE + birthBytes
            ? ['log-corrupt']
            : starts.has(length)
              ? []
              : ['log-torn'];
      expect(codesOf(findings), `length ${length}`).toEqual(expected);
    }
  });

  test('calls bytes after the last commit a torn tail, whatever they are', () => {
    for (const more of [Buffer.alloc(1), Buffer.alloc(4096), Buffer.alloc(77, 0xbf)]) {
      const { findings, state } = checkLog(Buffer.concat([log, more]), LOG);
      expect(codesOf(findings)).toEqual(['log-torn']);
      expect(findings[0]?.place.bytes).toEqual({ offset: log.length, length: more.length });
      expect(state?.snapshots.size).toBe(2);
    }
  });

  test('names zeroes, records that are repeated, and records out of order', () => {
    const { start, end } = spans[5]!;
    const zeroes = Buffer.from(log).fill(0, start, end);
    expect(checkLog(zeroes, LOG).findings[0]?.what).toContain('zeroes stand where a record should');
    const repeated = Buffer.concat([log.subarray(0, end), log.subarray(start)]);
    const [found] = checkLog(repeated, LOG).findings;
    expect(found?.code).toBe('log-corrupt');
    expect(found?.place.bytes).toEqual({ offset: end, length: end - start });
    expect(found?.what).toMatch(/the record has the sequence \d+, where \d+ follows/);
    const without = Buffer.concat([log.subarray(0, start), log.subarray(end)]);
    expect(checkLog(without, LOG).findings[0]?.place.bytes?.offset).toBe(start);
  });

  test('does not take the log of another volume, or an older one, for this one', async () => {
    const other = (await World.layered()).bytes(LOG);
    const { start, batch } = spans[6]!;
    const mixed = Buffer.concat([log.subarray(0, start), other.subarray(start)]);
    const { findings } = checkLog(mixed, LOG);
    // Nothing of it is valid here, so it can only be what a commit left.
    expect(codesOf(findings)).toEqual(['log-torn']);
    expect(findings[0]?.place.bytes?.offset).toBe(batch);
  });
});

describe('a record that does not follow', () => {
  test.each<[string, MetadataRecord, RegExp]>([
    ['an unknown layer', { kind: 'layer-removed', layer: 77 }, /layer 77 is unknown/],
    [
      'a block past the end',
      { kind: 'allocated', layer: 3, first: 60, count: 5, state: 1 },
      /passes the end/,
    ],
    ['a snapshot of a layer that is written', snapshot('c0'.repeat(16), 'c', 3), /not sealed/],
    ['a second snapshot of one name', snapshot('c0'.repeat(16), 'first', 2), /name/],
  ])('is named, though its checksums hold: %s', async (_, record, text) => {
    const world = await World.layered();
    const before = world.bytes(LOG).length;
    const length = world.appendUnchecked(record);
    const { findings, state } = checkLog(world.bytes(LOG), LOG);
    expect(codesOf(findings)).toEqual(['log-record-refused']);
    expect(findings[0]?.what).toMatch(text);
    expect(findings[0]?.place.bytes).toEqual({ offset: before, length });
    expect(state).toBeNull();
  });

  test('is told from one of a newer version', async () => {
    const world = await World.layered();
    const before = world.bytes(LOG).length;
    world.appendUnchecked({ kind: 'opened' }, 9999);
    const { findings } = checkLog(world.bytes(LOG), LOG);
    expect(codesOf(findings)).toEqual(['log-newer']);
    expect(findings[0]?.place.bytes).toEqual({ offset: before, length: 40 });
  });
});
