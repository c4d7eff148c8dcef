/**
 * What one mirror may lack, and what the log says of it: at any point of a random history, after a crash that
 * keeps some prefix of the records, the log's marks and hot or parked regions cover what is really lacking.
 */
import { describe, expect, it } from 'vitest';
import { BLOCKS_PER_REGION, BLOCK_BYTES, REGION_BYTES } from '../../src/io/limits.ts';
import { MirrorBlocks } from '../../src/replicator/mirror/mirror-blocks.ts';
import type { BlockSet } from '../../src/volume/maps/block-set.ts';
import { HotRegion, RegionTable } from '../../src/volume/maps/hot-region.ts';
import type { Metadata } from '../../src/volume/log/metadata.ts';
import {
  emptyState,
  foldRecord,
  type MirrorRecord,
  type VolumeState,
} from '../../src/volume/log/metadata-state.ts';
import type { MetadataRecord } from '../../src/volume/log/records.ts';
import { seeded } from './support/host.ts';

const REGIONS = 6;
const BLOCKS = REGIONS * BLOCKS_PER_REGION - 300;

const BIRTH: readonly MetadataRecord[] = [
  {
    kind: 'volume-created',
    id: 'f'.repeat(32),
    name: 'v',
    sizeBytes: BLOCKS * BLOCK_BYTES,
    createdAt: 0,
    nextMirrorId: 1,
  },
  { kind: 'layer-created', layer: 1, parent: 0 },
  { kind: 'mirror-added', mirror: 1, uri: 'nbd://h/x', mode: 'async', stallPolicy: 'degrade' },
];

function folded(records: readonly MetadataRecord[]): VolumeState {
  const state = emptyState();
  for (const record of records) foldRecord(state, record);
  return state;
}

const recordOf = (state: VolumeState): MirrorRecord => state.mirrors.get(1)!;

/** A log in memory. */
class FakeLog {
  readonly records: MetadataRecord[] = [...BIRTH];
  readonly state: VolumeState = folded(BIRTH);
  commits = 0;

  append(record: MetadataRecord): void {
    this.records.push(record);
    foldRecord(this.state, record);
  }

  commit(): void {
    this.commits += 1;
  }

  get metadata(): Metadata {
    return this as unknown as Metadata;
  }
}

interface Run {
  readonly first: number;
  readonly count: number;
}

function runsOf(set: BlockSet): Run[] {
  const runs: Run[] = [];
  for (let run = set.nextRun(0, BLOCKS); run !== null;) {
    runs.push(run);
    run = set.nextRun(run.first + run.count, BLOCKS);
  }
  return runs;
}

interface Fixture {
  readonly log: FakeLog;
  readonly parked: RegionTable;
  readonly blocks: MirrorBlocks;
}

function fixture(): Fixture {
  const log = new FakeLog();
  const parked = new RegionTable(BLOCKS * BLOCK_BYTES);
  return { log, parked, blocks: new MirrorBlocks(log.metadata, recordOf(log.state), parked) };
}

describe('the blocks that a mirror may lack', () => {
  it('are those that a byte range touches', () => {
    const { blocks } = fixture();
    blocks.mark(BLOCK_BYTES - 1, 2);
    blocks.mark(10 * BLOCK_BYTES, BLOCK_BYTES);
    expect(blocks.dirtyBytes).toBe(3 * BLOCK_BYTES);
    expect([0, 1, 2, 9, 10, 11].map((block) => blocks.dirty.has(block))).toEqual([
      true,
      true,
      false,
      false,
      true,
      false,
    ]);
  });

  it('are recorded also when they are in flight, and cleared when they arrived', () => {
    const { log, blocks } = fixture();
    blocks.mark(0, 8 * BLOCK_BYTES);
    blocks.dirty.remove(0, 4);
    blocks.markInFlight(0, 4 * BLOCK_BYTES);
    blocks.record(0);
    expect(recordOf(log.state).dirty.count).toBe(8);
    blocks.settleInFlight();
    expect(recordOf(log.state).dirty.count).toBe(4);
    expect(blocks.inFlight.count).toBe(0);
    const { length } = log.records;
    blocks.record(0);
    blocks.recordAll();
    expect(log.records).toHaveLength(length);
  });

  it('come back when the connection is lost', () => {
    const { blocks } = fixture();
    blocks.markInFlight(0, 4 * BLOCK_BYTES);
    blocks.mark(0, BLOCK_BYTES);
    blocks.takeBack();
    expect([blocks.dirty.count, blocks.inFlight.count, blocks.clean]).toEqual([4, 0, false]);
  });

  it('are cleared in the log with two records when there are none', () => {
    const { log, blocks } = fixture();
    log.append({ kind: 'mirror-bits-all', mirror: 1, set: 'dirty' });
    log.append({ kind: 'mirror-bits-all', mirror: 1, set: 'suspect' });
    const { length } = log.records;
    blocks.recordAll();
    expect(log.records.length - length).toBe(2);
    expect(recordOf(log.state).dirty.count + recordOf(log.state).suspect.count).toBe(0);
  });

  it('are recorded with what the mirror holds, and one that was set back holds less than once for a while', () => {
    const { log, blocks } = fixture();
    const told = () => recordOf(log.state).acknowledged;
    blocks.acknowledge({ generation: 1, epoch: 5 });
    blocks.recordAll();
    expect(told()).toEqual({ generation: 1, epoch: 5 });
    blocks.acknowledge({ generation: 1, epoch: 2 });
    blocks.recordAll();
    expect(told()).toEqual({ generation: 1, epoch: 5 });
    blocks.acknowledge({ generation: 1, epoch: 9 });
    blocks.recordAll();
    expect(told()).toEqual({ generation: 1, epoch: 9 });
  });

  it('are suspect in the log where a region is parked, whatever else is said', () => {
    const { log, parked, blocks } = fixture();
    const last = REGIONS - 1;
    parked.add(new HotRegion(last, 1, 0));
    blocks.record(last);
    expect(recordOf(log.state).suspect.count).toBe(BLOCKS - last * BLOCKS_PER_REGION);
    blocks.recordAll();
    blocks.settleInFlight();
    expect(recordOf(log.state).suspect.count).toBe(BLOCKS - last * BLOCKS_PER_REGION);
    expect(blocks.suspectBytes).toBe(0);
    parked.clear();
    blocks.record(last);
    expect(recordOf(log.state).suspect.count).toBe(0);
  });

  it('are recorded many regions at a time where they are all alike', () => {
    const log = new FakeLog();
    const sizeBytes = 2 ** 44;
    log.append({ kind: 'resized', sizeBytes });
    log.append({ kind: 'mirror-bits-all', mirror: 1, set: 'dirty' });
    const parked = new RegionTable(sizeBytes);
    const blocks = new MirrorBlocks(log.metadata, recordOf(log.state), parked);
    const all = blocks.dirty.blockCount;
    blocks.dirty.remove(0, all);
    blocks.inFlight.add(0, all);
    blocks.mark(5 * REGION_BYTES, BLOCK_BYTES);
    blocks.mark(9000 * REGION_BYTES + 8192, BLOCK_BYTES);
    parked.add(new HotRegion(7000, 1, 0));
    const { length } = log.records;
    const before = performance.now();
    blocks.settleInFlight();
    expect(performance.now() - before).toBeLessThan(4000);
    expect(log.records.length - length).toBeLessThan(12);
    const { dirty, suspect } = recordOf(log.state);
    expect([dirty.count, dirty.has(5 * 1024), dirty.has(9000 * 1024 + 2)]).toEqual([2, true, true]);
    expect([suspect.count, suspect.has(7000 * 1024)]).toEqual([BLOCKS_PER_REGION, true]);
  });

  it('are suspect in the regions of an earlier life, up to the end of the volume', () => {
    const { blocks } = fixture();
    blocks.suspectRegions([0, REGIONS - 1, REGIONS, 99]);
    expect(blocks.suspectBytes).toBe((2 * BLOCKS_PER_REGION - 300) * BLOCK_BYTES);
  });

  it('grow with the volume, and are silent about a mirror or a region that the log dropped', () => {
    const { log, blocks } = fixture();
    blocks.mark(0, BLOCK_BYTES);
    blocks.resize(BLOCKS + 500);
    expect(blocks.dirty.count).toBe(501);
    const { length } = log.records;
    blocks.record(REGIONS);
    log.append({ kind: 'mirror-removed', mirror: 1 });
    blocks.record(0);
    blocks.recordAll();
    expect(log.records).toHaveLength(length + 1);
  });

  it.each([1, 2, 3])('are covered at every record of a random history (seed %i)', (seed) => {
    const random = seeded(seed);
    const { log, parked, blocks } = fixture();
    const hot = new Set<number>();
    /** After each record: what lacked then. */
    const lackedAt: (readonly Run[] | undefined)[] = [];
    const lacking = (): Run[] =>
      [blocks.dirty, blocks.inFlight, blocks.suspect].flatMap((set) => runsOf(set));
    const heat = (region: number): void => {
      if (!hot.has(region)) log.append({ kind: 'regions-hot', regions: [region] });
      hot.add(region);
      parked.delete(region);
    };
    const cool = (region: number, early: boolean): void => {
      if (!hot.has(region)) return;
      if (early) parked.add(new HotRegion(region, 1, 0));
      blocks.record(region);
      log.append({ kind: 'regions-cold', regions: [region] });
      hot.delete(region);
    };
    for (let step = 0; step < 400; step += 1) {
      const block = Math.floor(random() * (BLOCKS - 40));
      const count = 1 + Math.floor(random() * 40);
      const region = Math.floor(random() * REGIONS);
      const dice = random();
      if (dice < 0.4) {
        heat(Math.floor(block / BLOCKS_PER_REGION));
        heat(Math.floor((block + count - 1) / BLOCKS_PER_REGION));
        blocks.mark(block * BLOCK_BYTES, count * BLOCK_BYTES);
      } else if (dice < 0.55) cool(region, random() < 0.3);
      else if (dice < 0.7) {
        const run = blocks.dirty.nextRun(block, 64);
        if (run !== null) {
          blocks.dirty.remove(run.first, run.count);
          blocks.inFlight.add(run.first, run.count);
        }
      } else if (dice < 0.8) blocks.settleInFlight();
      else if (dice < 0.88) blocks.takeBack();
      else if (dice < 0.93) blocks.recordAll();
      else if (parked.delete(region)) blocks.record(region);
      lackedAt[log.records.length] = lacking();
    }
    let state = folded(BIRTH);
    for (const [index, record] of log.records.entries()) {
      if (index >= BIRTH.length) foldRecord(state, record);
      const lacked = lackedAt[index + 1];
      if (lacked === undefined) continue;
      const { dirty, suspect } = recordOf(state);
      for (const { first, count } of lacked) {
        for (let block = first; block < first + count; block += 1) {
          const covered =
            dirty.has(block) ||
            suspect.has(block) ||
            state.hot.has(Math.floor((block * BLOCK_BYTES) / REGION_BYTES));
          if (!covered) throw new Error(`block ${block} is forgotten after record ${index}`);
        }
      }
    }
    state = folded(log.records);
    for (const region of hot) expect(state.hot.has(region)).toBe(true);
  });
});
