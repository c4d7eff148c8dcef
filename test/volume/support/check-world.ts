/**
 * A data directory for a check: volumes whose logs are written record by record and whose layer files are written block
 * by block, so that a test knows every byte. And ways to damage it.
 */
import { systemClock } from '../../../src/io/clock.ts';
import { BLOCK_BYTES } from '../../../src/io/limits.ts';
import { systemRandom } from '../../../src/io/random.ts';
import { checkDataDirectory } from '../../../src/volume/check/check.ts';
import type { CheckReport } from '../../../src/volume/check/check.ts';
import type { Finding, FindingCode } from '../../../src/volume/check/check-finding.ts';
import {
  FileHeader,
  RecordBuffer,
  RecordHeader,
  readFileHeader,
} from '../../../src/volume/log/metadata-log.ts';
import { Metadata } from '../../../src/volume/log/metadata.ts';
import type { MetadataRecord } from '../../../src/volume/log/records.ts';
import { layerPath } from '../../../src/volume/recovery.ts';
import { MemoryDisk } from './memory-disk.ts';

export const BLOCKS = 64;
export const SIZE: number = BLOCKS * BLOCK_BYTES;
export const VOLUME = '11'.repeat(16);
export const DIRECTORY = `/data/volumes/${VOLUME}`;
export const LOG = `${DIRECTORY}/metadata.log`;
const SNAPSHOT_A = 'a0'.repeat(16);
const SNAPSHOT_B = 'b0'.repeat(16);

export function layerFile(layer: number): string {
  return layerPath(DIRECTORY, layer);
}

const data = (layer: number, first: number, count: number): MetadataRecord => ({
  kind: 'allocated',
  layer,
  first,
  count,
  state: 1,
});

/** A volume with two snapshots, a mirror, and a top; cleanly closed. Each list is one batch. */
export const LAYERED: readonly (readonly MetadataRecord[])[] = [
  [
    {
      kind: 'volume-created',
      id: VOLUME,
      name: 'layered',
      sizeBytes: SIZE,
      createdAt: 1_700_000_000_000,
      nextMirrorId: 1,
    },
    { kind: 'layer-created', layer: 1, parent: 0 },
  ],
  [
    { kind: 'opened' },
    {
      kind: 'mirror-added',
      mirror: 1,
      uri: 'nbd://other/m',
      mode: 'async',
      stallPolicy: 'degrade',
    },
    { kind: 'regions-hot', regions: [0] },
  ],
  [data(1, 0, 8), data(1, 20, 2)],
  [
    { kind: 'layer-created', layer: 2, parent: 1 },
    { kind: 'layer-sealed', layer: 1 },
    snapshot(SNAPSHOT_A, 'first', 1),
  ],
  [data(2, 4, 8), { kind: 'allocated', layer: 2, first: 20, count: 1, state: 2 }],
  [
    { kind: 'layer-created', layer: 3, parent: 2 },
    { kind: 'layer-sealed', layer: 2 },
    snapshot(SNAPSHOT_B, 'second', 2),
  ],
  [data(3, 40, 3), { kind: 'closed-clean' }],
];

export function snapshot(id: string, name: string, layer: number): MetadataRecord {
  return {
    kind: 'snapshot-created',
    id,
    name,
    layer,
    createdAt: 1_700_000_000_000,
    sizeBytes: SIZE,
  };
}

/** What the layers of LAYERED hold: runs of blocks. */
export const LAYERED_DATA: Readonly<Record<number, readonly (readonly [number, number])[]>> = {
  1: [
    [0, 8],
    [20, 2],
  ],
  2: [[4, 8]],
  3: [[40, 3]],
};

export class World {
  disk: MemoryDisk;

  constructor(disk = new MemoryDisk()) {
    this.disk = disk;
  }

  /** A directory with the volume of LAYERED. */
  static async layered(): Promise<World> {
    const world = new World();
    world.format();
    await world.add(VOLUME, LAYERED, LAYERED_DATA);
    return world;
  }

  /** A directory with a volume of one layer, which holds blocks 0 to 7. */
  static async plain(): Promise<World> {
    const world = new World();
    world.format();
    const [birth = []] = LAYERED;
    await world.add(VOLUME, [birth, [data(1, 0, 8), { kind: 'closed-clean' }]], { 1: [[0, 8]] });
    return world;
  }

  format(): void {
    this.disk.makeDirectory('/data');
    this.disk.makeDirectory('/data/volumes');
    this.disk.replaceFile('/data/format', Buffer.from('blockferry 1\n'));
  }

  /** Writes a volume. Files get the size of a layer of SIZE, and blocks filled with the number of their layer. */
  async add(
    id: string,
    batches: readonly (readonly MetadataRecord[])[],
    layers: typeof LAYERED_DATA,
  ): Promise<void> {
    const directory = `/data/volumes/${id}`;
    this.disk.makeDirectory(directory);
    const options = { ...this.tools, directory };
    const [birth = [], ...later] = batches;
    await Metadata.create(options, birth);
    await this.append(later, id);
    for (const [layer, runs] of Object.entries(layers)) {
      const path = layerPath(directory, Number(layer));
      this.disk.open(path, { create: true }).truncateNow(SIZE);
      for (const [first, count] of runs) this.fill(path, first, count, Number(layer));
    }
  }

  /** Commits more records, one batch each list. */
  async append(batches: readonly (readonly MetadataRecord[])[], id = VOLUME): Promise<void> {
    const metadata = Metadata.open({ ...this.tools, directory: `/data/volumes/${id}` });
    for (const records of batches) {
      for (const record of records) metadata.append(record);
      const status = await new Promise<number>((resolve) => metadata.commit(resolve));
      if (status !== 0) throw new Error(`commit answered ${status}`);
    }
    metadata.close();
  }

  /** Appends a record to the log as a batch of its own, whether or not it can follow; says how long it is. */
  appendUnchecked(record: MetadataRecord, code: number | null = null): number {
    const log = this.bytes(LOG);
    const buffer = new RecordBuffer();
    buffer.append(record);
    if (code !== null) buffer.content.writeUInt16BE(code, RecordHeader.KIND);
    const { identity, firstSequence } = readFileHeader(log, LOG);
    const place = { batch: log.length, firstSequence: firstSequence + spansOf(log).length };
    buffer.seal(identity, place);
    this.put(LOG, Buffer.concat([log, buffer.content]));
    return buffer.length;
  }

  get tools(): { disk: MemoryDisk; clock: typeof systemClock; random: typeof systemRandom } {
    return { disk: this.disk, clock: systemClock, random: systemRandom };
  }

  check(options: { volume?: string; repair?: boolean } = {}): Promise<CheckReport> {
    const { volume = null, repair = false } = options;
    return checkDataDirectory({ ...this.tools, path: '/data', volume, repair });
  }

  /** All findings, but those of severity info when `noInfo`. */
  async found(noInfo = false): Promise<Finding[]> {
    const report = await this.check();
    return findingsOf(report).filter(({ severity }) => !noInfo || severity !== 'info');
  }

  bytes(path: string): Buffer {
    return this.disk.readFile(path);
  }

  /** Puts these bytes in place of the file's. */
  put(path: string, content: Buffer): void {
    const file = this.disk.open(path, { create: true });
    file.truncateNow(0);
    file.writeNow(content, 0, content.length, 0);
  }

  fill(path: string, first: number, count: number, value: number): void {
    const bytes = Buffer.alloc(count * BLOCK_BYTES, value);
    this.disk.open(path, { create: false }).writeNow(bytes, 0, bytes.length, first * BLOCK_BYTES);
  }

  async punch(path: string, first: number, count: number): Promise<void> {
    const file = this.disk.open(path, { create: false });
    await new Promise((resolve) =>
      file.punchHole(first * BLOCK_BYTES, count * BLOCK_BYTES, resolve),
    );
  }

  resize(path: string, sizeBytes: number): void {
    this.disk.open(path, { create: false }).truncateNow(sizeBytes);
  }

  /** Makes everything durable as it is. */
  async sync(): Promise<void> {
    const visit = async (path: string): Promise<void> => {
      this.disk.syncDirectory(path);
      for (const name of this.disk.list(path)) {
        const entry = `${path}/${name}`;
        if (isFile(this.disk, entry)) {
          const file = this.disk.open(entry, { create: false });
          await new Promise((resolve) => file.datasync(resolve));
        } else {
          await visit(entry);
        }
      }
    };
    await visit('/data');
  }

  swap(one: string, other: string): void {
    this.disk.rename(one, `${one}.away`);
    this.disk.rename(other, one);
    this.disk.rename(`${one}.away`, other);
  }

  /** Every file with its bytes, and every directory. */
  image(): Map<string, string> {
    const image = new Map<string, string>();
    const visit = (path: string): void => {
      for (const name of this.disk.list(path)) {
        const entry = `${path}/${name}`;
        if (isFile(this.disk, entry)) {
          image.set(entry, this.disk.readFile(entry).toString('latin1'));
        } else {
          image.set(entry, 'a directory');
          visit(entry);
        }
      }
    };
    visit('/data');
    return image;
  }
}

function isFile(disk: MemoryDisk, path: string): boolean {
  try {
    disk.readFile(path);
    return true;
  } catch {
    return false;
  }
}

export function findingsOf(report: CheckReport): Finding[] {
  return [...report.findings, ...report.volumes.flatMap(({ findings }) => findings)];
}

export function codesOf(findings: readonly Finding[]): FindingCode[] {
  return findings.map(({ code }) => code);
}

export interface Span {
  readonly start: number;
  readonly end: number;
  readonly batch: number;
}

/** Where the records are, by their lengths alone. */
export function spansOf(log: Buffer): Span[] {
  const spans: Span[] = [];
  for (let start: number = FileHeader.SIZE; start < log.length;) {
    const payload = log.readUInt32BE(start + RecordHeader.PAYLOAD_BYTES);
    const end = start + RecordHeader.SIZE + Math.ceil(payload / 8) * 8;
    spans.push({ start, end, batch: Number(log.readBigUInt64BE(start + RecordHeader.BATCH)) });
    start = end;
  }
  return spans;
}
