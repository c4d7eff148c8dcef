/**
 * A state, and parts of it, as records again: what a compacted log holds, and what a flush records of a map.
 *
 * Invariants:
 * - `recordsOf(state)` folds to an equal state.
 * - No record is longer than METADATA_RECORD_BYTES_MAX, and none takes long to make.
 */
import { BLOCK_BYTES, BLOCKS_PER_REGION } from '../../io/limits.ts';
import { RegionState } from '../maps/block-set.ts';
import type { BlockSet } from '../maps/block-set.ts';
import { BlockState } from '../maps/layer-map.ts';
import type { LayerMap } from '../maps/layer-map.ts';
import type { MetadataRecord, MirrorSet } from './records.ts';
import type { MirrorRecord, VolumeState } from '../volume-state.ts';

/** Records whose fold is equal to `state`: what a compacted log holds. */
export function* recordsOf(state: VolumeState): Generator<MetadataRecord> {
  yield {
    kind: 'volume-created',
    id: state.id,
    name: state.name,
    sizeBytes: state.sizeBytes,
    createdAt: state.createdAt,
    nextMirrorId: state.nextMirrorId,
  };
  yield { kind: 'history-set', generations: state.generations };
  if (state.origin !== null) yield { kind: 'cloned', ...state.origin };
  yield* recordsOfLayers(state);
  yield* recordsOfCopy(state);
  for (const mirror of state.mirrors.values()) yield* recordsOfMirror(mirror);
  if (state.rejoin !== null) yield { kind: 'rejoining', ...state.rejoin };
  if (state.handover !== null) yield { kind: 'handing-over', ...state.handover };
  yield* recordsOfHot(state.hot);
  if (state.boot !== '') yield { kind: 'booted', id: state.boot };
  if (state.failedBoot !== '') yield { kind: 'sync-failed', boot: state.failedBoot };
  if (state.fenced !== null) yield { kind: 'fenced', reason: state.fenced };
  if (!state.clean) yield { kind: 'opened' };
}

/** What the volume is as a copy of another; after its snapshots, which a run names. */
function* recordsOfCopy(state: VolumeState): Generator<MetadataRecord> {
  const { source, position, run, reservedEpoch, refuses, kept } = state;
  if (kept !== null) yield { kind: 'journal-kept', ...kept };
  if (refuses.length > 0) yield { kind: 'source-policy', refuses };
  if (source !== null) yield { kind: 'source-bound', ...source };
  if (position !== null) yield { kind: 'position', ...position };
  if (run !== null) {
    const { cursor, ...begun } = run;
    yield { kind: 'run-opened', ...begun };
    if (cursor > 0) yield { kind: 'run-marked', run: run.run, cursor };
  }
  if (reservedEpoch > 0) yield { kind: 'epochs-reserved', epoch: reservedEpoch };
}

function* recordsOfMirror(record: MirrorRecord): Generator<MetadataRecord> {
  const { id: mirror, uri, mode, stallPolicy, lanes, limit, peer, acknowledged, run } = record;
  const { schedule, lagLimitMs, ranAt, compress } = record;
  yield { kind: 'mirror-added', mirror, uri, mode, stallPolicy };
  if (record.paused) yield { kind: 'mirror-paused', mirror, paused: true };
  if (lanes > 1 || limit !== null) yield { kind: 'mirror-options', mirror, lanes, limit };
  if (schedule.kind !== 'stream' || lagLimitMs !== null) {
    yield { kind: 'mirror-policy', mirror, schedule, lagLimitMs };
  }
  if (compress !== 'auto') yield { kind: 'mirror-compress', mirror, mode: compress };
  if (ranAt !== null) yield { kind: 'mirror-ran', mirror, time: ranAt };
  if (peer !== null) yield { kind: 'mirror-peer', mirror, ...peer };
  if (acknowledged !== null) yield { kind: 'mirror-acknowledged', mirror, ...acknowledged };
  if (run !== null) yield { kind: 'mirror-run', mirror, ...run };
  yield* recordsOfSet(mirror, 'dirty', record.dirty);
  yield* recordsOfSet(mirror, 'suspect', record.suspect);
}

/** Layers as they came: each after the one below it, and last the one that takes writes. */
function* recordsOfLayers(state: VolumeState): Generator<MetadataRecord> {
  for (const { id, parent, map, sealed, place } of state.layers.values()) {
    const sizeBytes = map.blockCount * BLOCK_BYTES;
    yield { kind: 'layer-created', layer: id, parent };
    if (place !== null) {
      const { kind: container, location } = place;
      yield { kind: 'layer-placed', layer: id, container, location };
    }
    if (sizeBytes !== state.sizeBytes) yield { kind: 'layer-resized', layer: id, sizeBytes };
    yield* recordsOfMap(id, map, null);
    if (sealed) yield { kind: 'layer-sealed', layer: id };
  }
  for (const snapshot of state.snapshots.values()) yield { kind: 'snapshot-created', ...snapshot };
}

/** Regions of one regions-hot record of a compacted log: far below a record's largest payload. */
const HOT_REGIONS_PER_RECORD = 16_384;

function* recordsOfHot(hot: ReadonlySet<number>): Generator<MetadataRecord> {
  const regions = [...hot];
  for (let index = 0; index < regions.length; index += HOT_REGIONS_PER_RECORD) {
    yield { kind: 'regions-hot', regions: regions.slice(index, index + HOT_REGIONS_PER_RECORD) };
  }
}

/** Records that mark every block of `set`, as in a mirror's set that is empty. */
export function* recordsOfSet(
  mirror: number,
  set: MirrorSet,
  blocks: BlockSet,
): Generator<MetadataRecord> {
  let region = blocks.nextRegion(0);
  while (region >= 0) {
    if (blocks.regionState(region) === RegionState.MIXED) {
      const leaf = blocks.leafOf(region);
      yield { kind: 'mirror-bits', mirror, set, region, state: RegionState.MIXED, leaf };
      region = blocks.nextRegion(region + 1);
    } else {
      const last = lastUniform(blocks, region);
      const first = region * BLOCKS_PER_REGION;
      const end = Math.min(blocks.blockCount, (last + 1) * BLOCKS_PER_REGION);
      yield { kind: 'mirror-bits-run', mirror, set, first, count: end - first, value: true };
      region = blocks.nextRegion(last + 1);
    }
  }
}

function lastUniform(blocks: BlockSet, region: number): number {
  let last = region;
  while (last + 1 < blocks.regionCount && blocks.regionState(last + 1) === RegionState.ALL) {
    last += 1;
  }
  return last;
}

/** What is said of a layer's map. */
export type MapRecord = Extract<MetadataRecord, { kind: 'allocated' | 'layer-region' }>;

/** Blocks of one record at most: a search for the end of a longer run would take too long in one go. */
const RECORD_BLOCKS_MAX: number = 2 ** 24;

/** A region described by more runs than this is recorded whole: that is shorter. */
const RUNS_PER_REGION_MAX = 4;

/**
 * Records of what `map` says of the blocks of `only`, or of every block that is not absent.
 * A region of many runs is recorded whole, also the blocks that are not in `only`.
 */
export function* recordsOfMap(
  layer: number,
  map: LayerMap,
  only: BlockSet | null,
): Generator<MapRecord> {
  const end = map.blockCount;
  let block = 0;
  let pending: Extract<MetadataRecord, { kind: 'allocated' }>[] = [];
  let region = -1;
  while (block < end) {
    const run = nextMapRun(map, only, block);
    if (run === null) break;
    const runRegion = Math.floor(run.first / BLOCKS_PER_REGION);
    if (runRegion !== region) {
      yield* pending;
      pending = [];
      region = runRegion;
    }
    pending.push({ kind: 'allocated', layer, ...run });
    block = run.first + run.count;
    if (pending.length > RUNS_PER_REGION_MAX) {
      yield {
        kind: 'layer-region',
        layer,
        region,
        data: map.data.leafOf(region),
        zero: map.zero.leafOf(region),
      };
      // The last run may reach into the regions after this one: they are described on their own.
      pending = [];
      block = (region + 1) * BLOCKS_PER_REGION;
    }
  }
  yield* pending;
}

function nextMapRun(
  map: LayerMap,
  only: BlockSet | null,
  from: number,
): { first: number; count: number; state: BlockState } | null {
  if (only !== null) {
    const run = only.nextRun(from, RECORD_BLOCKS_MAX);
    if (run === null) return null;
    const end = map.runEnd(run.first, run.first + run.count);
    return { first: run.first, count: end - run.first, state: map.stateOf(run.first) };
  }
  let block = from;
  while (block < map.blockCount) {
    const state = map.stateOf(block);
    const end = map.runEnd(block, map.blockCount);
    if (state !== BlockState.ABSENT) return { first: block, count: end - block, state };
    block = end;
  }
  return null;
}
