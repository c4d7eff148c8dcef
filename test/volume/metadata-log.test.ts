/**
 * The log is read back as it was written, cut wherever a commit was cut short, and never guessed over.
 * Method: a log with all kinds of records in several commits; then every truncation, every damaged byte, foreign
 * records, and what a power cut in the middle of a commit leaves.
 */
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import { systemRandom } from '../../src/io/random.ts';
import { checkLog } from '../../src/volume/check/check-log.ts';
import { FileHeader, readLog } from '../../src/volume/log/metadata-log.ts';
import { emptyState, foldRecord, recordsOf } from '../../src/volume/log/metadata-state.ts';
import type { VolumeState } from '../../src/volume/log/metadata-state.ts';
import { Metadata } from '../../src/volume/log/metadata.ts';
import type { MetadataRecord } from '../../src/volume/log/records.ts';
import { MemoryDisk } from './support/memory-disk.ts';

const DIRECTORY = '/volume';
const LOG = `${DIRECTORY}/metadata.log`;
const ID = '00112233445566778899aabbccddeeff';
const SIZE = 64 * 2 ** 20;

const BIRTH: MetadataRecord[] = [
  { kind: 'volume-created', id: ID, name: 'v', sizeBytes: SIZE, createdAt: 5, nextMirrorId: 1 },
  { kind: 'layer-created', layer: 1, parent: 0 },
];
const leaf = (byte: number): Uint8Array => new Uint8Array(128).fill(byte);
const COMMITS: MetadataRecord[][] = [
  [{ kind: 'opened' }],
  [
    { kind: 'allocated', layer: 1, first: 10, count: 20, state: 1 },
    { kind: 'allocated', layer: 1, first: 2000, count: 3000, state: 1 },
    { kind: 'allocated', layer: 1, first: 15, count: 2, state: 2 },
    { kind: 'layer-region', layer: 1, region: 7, data: leaf(0x0f), zero: leaf(0x30) },
  ],
  [
    { kind: 'mirror-added', mirror: 1, uri: 'nbd://h/é', mode: 'sync', stallPolicy: 'block' },
    { kind: 'mirror-bits-all', mirror: 1, set: 'dirty' },
    { kind: 'mirror-bits', mirror: 1, set: 'dirty', region: 3, state: 0, leaf: null },
    { kind: 'mirror-bits', mirror: 1, set: 'suspect', region: 4, state: 2, leaf: leaf(0x55) },
    { kind: 'mirror-bits-run', mirror: 1, set: 'suspect', first: 9, count: 5000, value: true },
    { kind: 'mirror-paused', mirror: 1, paused: true },
  ],
  [
    { kind: 'mirror-added', mirror: 2, uri: 'nbd://h/2', mode: 'async', stallPolicy: 'degrade' },
    { kind: 'regions-hot', regions: [1, 2, 3, 15] },
    { kind: 'regions-cold', regions: [2] },
    { kind: 'generation-opened', number: 3, id: ID, firstEpoch: 7 },
  ],
  [
    { kind: 'mirror-removed', mirror: 2 },
    { kind: 'mirror-bits-cleared', mirror: 1, set: 'suspect' },
    { kind: 'resized', sizeBytes: SIZE / 2 },
    { kind: 'regions-hot', regions: [5] },
    { kind: 'closed-clean' },
  ],
];

const options = (disk: MemoryDisk, compactBytes?: number) => ({
  disk,
  clock: systemClock,
  random: systemRandom,
  directory: DIRECTORY,
  ...(compactBytes === undefined ? {} : { compactBytes }),
});

function commit(metadata: Metadata): Promise<number> {
  return new Promise((resolve) => metadata.commit(resolve));
}

/** A log with the commits above, and its length after the birth and after each record. */
async function written(): Promise<{ disk: MemoryDisk; ends: number[]; batches: number[] }> {
  const disk = new MemoryDisk();
  disk.makeDirectory(DIRECTORY);
  await Metadata.create(options(disk), BIRTH);
  disk.syncDirectory(DIRECTORY);
  const batches = [disk.readFile(LOG).length];
  const metadata = Metadata.open(options(disk));
  for (const records of COMMITS) {
    for (const record of records) metadata.append(record);
    expect(await commit(metadata)).toBe(0);
    batches.push(disk.readFile(LOG).length);
  }
  metadata.close();
  const bytes = disk.readFile(LOG);
  const ends: number[] = [];
  for (let offset: number = FileHeader.SIZE; offset < bytes.length;) {
    offset += 40 + Math.ceil(bytes.readUInt32BE(offset + 8) / 8) * 8;
    ends.push(offset);
  }
  return { disk, ends, batches };
}

/** Everything in a state, in a form that compares. */
function shown(state: VolumeState): unknown {
  return [...recordsOf(state)].map((record) => JSON.stringify(record));
}

function folded(records: readonly MetadataRecord[]): VolumeState {
  const state = emptyState();
  for (const record of records) foldRecord(state, record);
  return state;
}

function opened(bytes: Buffer): VolumeState {
  const state = emptyState();
  readLog(bytes, LOG, (record) => foldRecord(state, record));
  return state;
}

function refusal(bytes: Buffer): BlockferryError {
  try {
    opened(bytes);
  } catch (thrown) {
    if (thrown instanceof BlockferryError) return thrown;
    throw thrown;
  }
  throw new Error('the log was accepted');
}

/** The same log as version 0.2 wrote it: without flags. */
function asFormat1(bytes: Buffer, ends: readonly number[]): Buffer {
  const old = Buffer.from(bytes);
  old.writeUInt16BE(1, 8);
  old.writeUInt32BE(crc32(old.subarray(0, 60)), 60);
  const seed = crc32(Buffer.from(ID, 'hex'), old.readUInt32BE(12));
  for (const start of [64, ...ends.slice(0, -1)]) {
    old.writeUInt16BE(0, start + 6);
    old.writeUInt32BE(crc32(old.subarray(start, start + 36), seed), start + 36);
  }
  return old;
}

const ALL = [...BIRTH, ...COMMITS.flat()];

function afterCommits(count: number): VolumeState {
  return folded([...BIRTH, ...COMMITS.slice(0, count).flat()]);
}

describe('a metadata log', () => {
  test('gives back the state of its records', async () => {
    const { disk } = await written();
    const metadata = Metadata.open(options(disk));
    expect(shown(metadata.state)).toEqual(shown(folded(ALL)));
    expect(metadata.unclean).toBe(false);
    expect(metadata.state.nextMirrorId).toBe(3);
    expect([...metadata.state.hot]).toEqual([1, 3, 5]);
    expect(metadata.state.mirrors.get(1)).toMatchObject({ uri: 'nbd://h/é', paused: true });
    expect(metadata.state.layers.get(1)!.map.stateOf(15)).toBe(2);
  });

  test('cut at any byte gives the whole commits before the cut', async () => {
    const { disk, batches } = await written();
    const bytes = disk.readFile(LOG);
    for (let length = 0; length <= bytes.length; length += 1) {
      const cut = bytes.subarray(0, length);
      if (length < batches[0]!) {
        expect(refusal(cut).code).toBe('METADATA_CORRUPT');
      } else {
        const whole = batches.filter((end) => end <= length).length - 1;
        expect(shown(opened(cut))).toEqual(shown(afterCommits(whole)));
      }
    }
  });

  test('followed by zeroes or rubbish is cut there', async () => {
    const { disk } = await written();
    const bytes = disk.readFile(LOG);
    for (const tail of [Buffer.alloc(5000), systemRandom.bytes(5000)]) {
      expect(shown(opened(Buffer.concat([bytes, tail])))).toEqual(shown(folded(ALL)));
    }
  });

  test('with a damaged byte before a later commit is refused, with the offset', async () => {
    const { disk, ends, batches } = await written();
    const bytes = disk.readFile(LOG);
    for (let offset = 0; offset < bytes.length; offset += 1) {
      const damaged = Buffer.from(bytes);
      damaged[offset]! ^= 0x10;
      const record = ends.findIndex((end) => offset < end);
      const start = offset < FileHeader.SIZE ? 0 : (ends[record - 1] ?? FileHeader.SIZE);
      const lastBatch = offset >= batches.at(-2)!;
      if (lastBatch) {
        // The last commit cannot be told from one that was cut short.
        expect(shown(opened(damaged))).toEqual(shown(afterCommits(COMMITS.length - 1)));
      } else {
        const error = refusal(damaged);
        expect(error.code).toBe('METADATA_CORRUPT');
        expect(error.message).toContain(`offset ${start}:`);
      }
    }
  });

  test('whose last commit reached the disk in part is cut before it', async () => {
    const { disk, ends, batches } = await written();
    const bytes = disk.readFile(LOG);
    // One record of the last commit is missing, the ones before and after it are there.
    for (const [index, end] of ends.entries()) {
      if (end <= batches.at(-2)!) continue;
      const lost = Buffer.from(bytes).fill(0, ends[index - 1], ends[index - 1]! + 40);
      expect(shown(opened(lost))).toEqual(shown(afterCommits(COMMITS.length - 1)));
    }
  });

  test('of a later format, or with records of unknown kinds, is refused as newer', async () => {
    const { disk } = await written();
    const bytes = disk.readFile(LOG);
    const newer = Buffer.from(bytes);
    newer.writeUInt16BE(3, 8);
    newer.writeUInt32BE(crc32(newer.subarray(0, 60)), 60);
    expect(refusal(newer).code).toBe('DATA_DIR_FORMAT_NEWER');
    const unknown = Buffer.from(bytes);
    const seed = crc32(Buffer.from(ID, 'hex'), bytes.readUInt32BE(12));
    unknown.writeUInt16BE(999, 64 + 4);
    unknown.writeUInt32BE(crc32(unknown.subarray(64, 64 + 36), seed), 64 + 36);
    expect(refusal(unknown).code).toBe('DATA_DIR_FORMAT_NEWER');
  });

  test('of format 1 is read as it was, and written anew with the next commit', async () => {
    const { disk, ends, batches } = await written();
    const old = asFormat1(disk.readFile(LOG), ends);
    expect(shown(opened(old))).toEqual(shown(folded(ALL)));
    // What is whole of a commit that was cut short counts: nothing in such a log says that more belonged to it.
    for (const [index, end] of ends.entries()) {
      if (end < batches[0]!) continue;
      expect(shown(opened(old.subarray(0, end + 7)))).toEqual(
        shown(folded(ALL.slice(0, index + 1))),
      );
    }
    const damaged = Buffer.from(old).fill(0, ends[3], ends[3]! + 40);
    expect(refusal(damaged).code).toBe('METADATA_CORRUPT');
    const torn = Buffer.from(old).fill(0, batches.at(-2), batches.at(-2)! + 40);
    expect(shown(opened(torn))).toEqual(shown(afterCommits(COMMITS.length - 1)));
    disk.replaceFile(LOG, old);
    expect(checkLog(old, LOG).findings).toEqual([]);
    const metadata = Metadata.open(options(disk));
    metadata.append({ kind: 'opened' });
    expect(await commit(metadata)).toBe(0);
    metadata.close();
    expect(disk.readFile(LOG).readUInt16BE(8)).toBe(2);
    expect(shown(opened(disk.readFile(LOG)))).toEqual(shown(folded([...ALL, { kind: 'opened' }])));
  });

  test('with a record that cannot follow is refused', async () => {
    const { disk } = await written();
    const bytes = disk.readFile(LOG);
    // The same record twice has a sequence that is used up: it ends the log, and a good commit follows it.
    const first = bytes.subarray(64, 64 + 40);
    expect(refusal(Buffer.concat([bytes.subarray(0, 64), first, bytes.subarray(64)])).code).toBe(
      'METADATA_CORRUPT',
    );
    expect(() => folded([...ALL, { kind: 'mirror-removed', mirror: 9 }])).toThrow('unknown');
    expect(() => folded([...ALL, { kind: 'mirror-removed', mirror: 2 }])).toThrow('unknown');
  });

  test('whose tail was cut is replaced before anything is appended', async () => {
    const { disk, batches } = await written();
    const file = disk.open(LOG, { create: false });
    file.truncateNow(batches.at(-1)! - 8);
    const metadata = Metadata.open(options(disk));
    expect(metadata.unclean).toBe(true);
    metadata.append({ kind: 'epochs-reserved', epoch: 9_000 });
    const salt = disk.readFile(LOG).readUInt32BE(12);
    expect(await commit(metadata)).toBe(0);
    expect(disk.readFile(LOG).readUInt32BE(12)).not.toBe(salt);
    expect(shown(opened(disk.readFile(LOG)))).toEqual(shown(metadata.state));
  });
});

describe('a long log', () => {
  test('is compacted, and a power cut at any step leaves one whole log', async () => {
    const { disk } = await written();
    const metadata = Metadata.open(options(disk, 4096));
    disk.holding = true;
    let acknowledged = 0;
    let longest = 0;
    const salts = new Set<number>();
    for (let epoch = 40; epoch < 440; epoch += 1) {
      metadata.append({ kind: 'epochs-reserved', epoch });
      metadata.append({ kind: 'regions-hot', regions: [epoch % 8] });
      const answers: number[] = [];
      metadata.commit((status) => answers.push(status));
      while (answers.length === 0) {
        const after = disk.crash(() => systemRandom.fraction() < 0.5);
        const state = Metadata.open(options(after)).state;
        expect(state.reservedEpoch).toBeGreaterThanOrEqual(acknowledged);
        if (disk.held.length > 0) disk.letGo();
        await new Promise((resolve) => setImmediate(resolve));
      }
      expect(answers).toEqual([0]);
      acknowledged = epoch;
      const bytes = disk.readFile(LOG);
      longest = Math.max(longest, bytes.length);
      salts.add(bytes.readUInt32BE(12));
      const durable = Metadata.open(options(disk.crash(() => false))).state;
      expect(durable.reservedEpoch).toBe(epoch);
    }
    expect(salts.size).toBeGreaterThan(3);
    expect(longest).toBeLessThan(8192);
    expect(shown(opened(disk.readFile(LOG)))).toEqual(shown(metadata.state));
  });

  test('that finds no room for its successor goes on as it is', async () => {
    const { disk } = await written();
    const metadata = Metadata.open(options(disk, 2048));
    // Pages for the log itself, none for a second one.
    const file = disk.open(LOG, { create: false });
    const length = file.sizeNow();
    file.writeNow(Buffer.alloc(20_000), 0, 20_000, length);
    disk.pagesMax = disk.pagesUsed();
    for (let epoch = 40; epoch < 100; epoch += 1) {
      metadata.append({ kind: 'epochs-reserved', epoch });
      metadata.append({ kind: 'regions-hot', regions: [1, 2, 3, 4, 5, 6] });
      expect(await commit(metadata)).toBe(0);
    }
    expect(disk.exists(`${LOG}.new`)).toBe(false);
    expect(opened(disk.readFile(LOG)).reservedEpoch).toBe(99);
  });

  test('with more waiting than is allowed is written anew from the state', async () => {
    const { disk } = await written();
    const metadata = Metadata.open(options(disk));
    const regions = Array.from({ length: 200_000 }, () => 3);
    for (let count = 0; count < 100; count += 1) metadata.append({ kind: 'regions-hot', regions });
    expect(await commit(metadata)).toBe(0);
    expect(disk.readFile(LOG).length).toBeLessThan(20_000);
    expect(shown(opened(disk.readFile(LOG)))).toEqual(shown(metadata.state));
  });
});

describe('commits', () => {
  test('are grouped: one write and one sync serve all that wait', async () => {
    const { disk } = await written();
    const metadata = Metadata.open(options(disk));
    disk.syncs.clear();
    disk.holding = true;
    const answers: number[] = [];
    const ask = (): void => metadata.commit((status) => answers.push(status));
    metadata.append({ kind: 'epochs-reserved', epoch: 10_000 });
    ask();
    ask();
    metadata.append({ kind: 'epochs-reserved', epoch: 11_000 });
    for (let count = 0; count < 100; count += 1) ask();
    expect(answers).toEqual([]);
    disk.letGo();
    disk.letGo();
    expect(answers).toEqual([0, 0]);
    expect(disk.syncs.get(LOG)).toBe(1);
    disk.letGo();
    disk.letGo();
    expect(answers).toHaveLength(102);
    expect(disk.syncs.get(LOG)).toBe(2);
  });
});

describe('records that a full disk refused', () => {
  test('go into the log together with what takes them back', async () => {
    const { disk } = await written();
    const metadata = Metadata.open(options(disk));
    disk.pagesMax = 0;
    metadata.append({ kind: 'mirror-removed', mirror: 1 });
    // More than the last page has room for.
    metadata.append({ kind: 'regions-hot', regions: Array.from({ length: 2000 }, () => 6) });
    const refused = commit(metadata).then((status) => {
      disk.pagesMax = Number.POSITIVE_INFINITY;
      metadata.append({
        kind: 'mirror-added',
        mirror: 1,
        uri: 'x',
        mode: 'async',
        stallPolicy: 'block',
      });
      return status;
    });
    // Somebody else waits meanwhile, whose batch has room.
    metadata.append({ kind: 'regions-hot', regions: [7] });
    const other = commit(metadata);
    expect(await refused).toBe(28);
    expect(await other).toBe(0);
    const after = Metadata.open(options(disk.crash(() => false)));
    expect(after.state.mirrors.get(1)?.uri).toBe('x');
    expect(after.state.hot.has(7)).toBe(true);
  });
});
