/**
 * docs/internals/link.md describes the bytes that the code writes. Method: its tables are read and compared with the
 * layouts, rules, schemas and limits of the code, and frames written by hand as it says are read by the code
 * (frame-bytes.test.ts).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import * as limits from '../../../src/io/limits.ts';
import { EntryLayout } from '../../../src/replicator/link/entries.ts';
import { FRAME_MAGIC, FrameLayout, laneSeed } from '../../../src/replicator/link/frame.ts';
import { KIND_RULES } from '../../../src/replicator/link/frame-kinds.ts';
import { encodeControl, type ControlMessage } from '../../../src/replicator/link/messages.ts';
import { RangeLayout } from '../../../src/replicator/link/ranges.ts';
import { unpack } from 'msgpackr';
import { ROOT } from '../../support/root.ts';

const DOCUMENT = readFileSync(join(ROOT, 'docs', 'internals', 'link.md'), 'utf8');

/** The rows of the table below a heading whose first cell of the head is `head`. */
function rows(heading: string, head: string): string[][] {
  const at = DOCUMENT.indexOf(`\n## ${heading}\n`);
  expect(at, heading).toBeGreaterThan(0);
  const lines = DOCUMENT.slice(at).split('\n');
  const start = lines.findIndex((line) => line.split('|')[1]?.trim() === head);
  const found: string[][] = [];
  for (const line of lines.slice(start + 2)) {
    if (!line.startsWith('|')) break;
    found.push(
      line
        .split('|')
        .map((cell) => cell.trim())
        .slice(1, -1),
    );
  }
  return found;
}

function expectLayout(heading: string, offsets: Readonly<Record<string, number>>): void {
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
  expect(DOCUMENT).toContain(` has ${SIZE} bytes`);
}

/** A bound as the page writes it. */
function written(name: string, value: number): string {
  if (name.includes('_MS')) return `${value / 1000} s`;
  if (!name.includes('_BYTES')) return String(value);
  return value % 2 ** 20 === 0 ? `${value / 2 ** 20} MiB` : `${value / 1024} KiB`;
}

const run = 'ab'.repeat(16);

/** One message of each kind. The compiler sees to it that none is missing. */
const MESSAGES: { readonly [K in ControlMessage['kind']]: Extract<ControlMessage, { kind: K }> } = {
  'stream-begin': { kind: 'stream-begin', generation: 1, after: 0 },
  'run-begin': {
    kind: 'run-begin',
    number: 1,
    run,
    generation: 1,
    epoch: 1,
    time: 1,
    sizeBytes: 4096,
    generations: [],
    full: true,
  },
  'run-ready': { kind: 'run-ready', run, cursor: 0 },
  'run-mark': { kind: 'run-mark', run, cursor: 0, frames: 0 },
  'run-durable': { kind: 'run-durable', run, cursor: 0 },
  'run-commit': {
    kind: 'run-commit',
    run,
    frames: 0,
    snapshot: { id: run, name: 's', createdAt: 0 },
  },
  'run-committed': { kind: 'run-committed', run, refused: '' },
  'run-abort': { kind: 'run-abort', run },
  'snapshots-are': { kind: 'snapshots-are', ids: [] },
  'snapshots-held': { kind: 'snapshots-held', ids: [], position: null, refused: '' },
  'command-done': { kind: 'command-done', epoch: 1, error: null },
  'may-differ': { kind: 'may-differ', runs: [[0, 1]], more: false },
  policy: { kind: 'policy', refuses: ['handover'] },
  'handover-wanted': { kind: 'handover-wanted', split: false, withinMs: 1, back: null },
  'handover-denied': { kind: 'handover-denied', message: '' },
  'hand-over': { kind: 'hand-over', id: run, epoch: 1, split: false, back: null, others: [] },
  'handed-over': { kind: 'handed-over' },
  'handover-refused': { kind: 'handover-refused', message: '' },
  failed: { kind: 'failed', code: 'X', message: '' },
};

describe('the document', () => {
  test('has the header of the code', () => {
    expectLayout('Header', FrameLayout);
    expect(rows('Header', 'offset')[0]?.[3]).toBe('`BFLK`');
    expect(Buffer.from('BFLK').readUInt32BE(0)).toBe(FRAME_MAGIC);
  });

  test('has the seed of the code', () => {
    expect(DOCUMENT).toContain('`seed := crc32("TOKEN LANE SENDER")`');
    expect(laneSeed(run, 12, 'mirror')).toBe(crc32(`${run} 12 mirror`));
  });

  test('has the kinds of the code, with who sends them, flags and payloads', () => {
    const documented = rows('Kinds', 'kind').map((cells) => cells.slice(0, 5).join(' | '));
    const coded = Object.entries(KIND_RULES).map(([name, rule]) => {
      const payload = rule.most === 0 ? '0' : `${rule.least} to ${rule.most}, by ${rule.unit}`;
      return [rule.kind, name, rule.sender ?? 'both', rule.flags, payload].join(' | ');
    });
    expect(documented).toEqual(coded);
    for (const [, name, , , , says] of rows('Kinds', 'kind')) {
      const rule = KIND_RULES[name as keyof typeof KIND_RULES];
      expect(says?.includes('LENGTH is PAYLOAD_BYTES'), name).toBe(rule.lengthOfPayload);
    }
  });

  test('has the entries and the ranges of the code', () => {
    expectLayout('Entries', EntryLayout);
    expectLayout('Ranges', RangeLayout);
  });

  test('has the messages of the code, with their members', () => {
    const documented = rows('Messages', 'message').map(([kind, , members]) => [kind, members]);
    const coded = Object.values(MESSAGES).map((message) => {
      const { kind, ...members } = unpack(encodeControl(message)) as Record<string, unknown>;
      return [kind, Object.keys(members).join(', ')];
    });
    expect(documented).toEqual(coded);
  });

  test('has the bounds of the code', () => {
    const values = Object.entries(limits);
    for (const [name, value] of rows('Bounds', 'limit')) {
      const found = values.find(([each]) => each === name)?.[1];
      expect(value, name).toBe(written(name ?? '', Number(found)));
    }
    expect(rows('Bounds', 'limit').length).toBeGreaterThan(10);
  });
});
