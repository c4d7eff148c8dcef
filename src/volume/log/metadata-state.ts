/**
 * The pure reducer of the metadata log: the state of a volume is the fold of its records.
 *
 * Invariants:
 * - `foldRecord` does no I/O and reads nothing but its arguments: the same records give the same state.
 * - Records come from disk with a good checksum, but they are not trusted to fit: one that names an
 *   unknown layer or mirror, or a block past the end, throws RecordRefused and changes nothing.
 * - `recordsOf(state)` folds to an equal state: that is what compaction writes.
 */
import { BLOCK_BYTES, BLOCKS_PER_REGION } from '../../io/limits.ts';
import { BlockSet, RegionState } from '../maps/block-set.ts';
import { BlockState } from '../maps/layer-map.ts';
import { foldTreeRecord } from './metadata-tree.ts';
import type { MetadataRecord, MirrorAdded, MirrorSet } from './records.ts';
import { check, checkSize, hasBelow, layerOf } from '../volume-state.ts';
import type {
  LayerRecord,
  MirrorRecord,
  MutableState,
  VolumeState,
  Writable,
} from '../volume-state.ts';

export { recordsOf, recordsOfMap, recordsOfSet } from './state-records.ts';
export type { MapRecord } from './state-records.ts';
export { RecordRefused, emptyState, hasBelow } from '../volume-state.ts';
export type { LayerRecord, MirrorRecord, SnapshotRecord, VolumeState } from '../volume-state.ts';

/** Folds one record into `folded`, which it changes. Throws RecordRefused before any change. */
export function foldRecord(folded: VolumeState, record: MetadataRecord): void {
  const state = folded as MutableState;
  if (record.kind !== 'volume-created') check(state.id !== '', 'the volume is not created yet');
  switch (record.kind) {
    case 'volume-created':
      check(state.id === '', 'the volume is created twice');
      checkSize(record.sizeBytes);
      state.id = record.id;
      state.name = record.name;
      state.sizeBytes = record.sizeBytes;
      state.createdAt = record.createdAt;
      state.nextMirrorId = record.nextMirrorId;
      return;
    case 'resized':
      checkSize(record.sizeBytes);
      resize(state, record.sizeBytes);
      return;
    case 'cloned':
    case 'layer-created':
    case 'layer-resized':
    case 'layer-sealed':
    case 'layers-merged':
    case 'layer-removed':
    case 'snapshot-created':
    case 'snapshot-removed':
      foldTreeRecord(state, record);
      return;
    case 'allocated':
      checkRangeOf(layerOf(state, record.layer), record.first, record.count);
      layerOf(state, record.layer).map.set(record.first, record.count, record.state);
      return;
    case 'layer-region': {
      const { map } = layerOf(state, record.layer);
      check(record.region < map.data.regionCount, `region ${record.region} is past the end`);
      check(
        record.data.every((bits, index) => (bits & (record.zero[index] ?? 0)) === 0),
        'a block is data and zero at once',
      );
      map.data.setRegion(record.region, RegionState.MIXED, record.data);
      map.zero.setRegion(record.region, RegionState.MIXED, record.zero);
      return;
    }
    case 'generation-opened':
      check(record.generation >= state.generation, 'a generation never goes back');
      state.generation = record.generation;
      return;
    case 'opened':
      state.clean = false;
      return;
    case 'booted':
      state.boot = record.id;
      return;
    case 'closed-clean':
      state.clean = true;
      return;
    case 'mirror-added':
    case 'mirror-removed':
    case 'mirror-paused':
    case 'mirror-bits':
    case 'mirror-bits-run':
    case 'mirror-bits-cleared':
    case 'mirror-bits-all':
    case 'regions-hot':
    case 'regions-cold':
      foldMirrorRecord(state, record);
  }
}

type MirrorKind =
  | 'mirror-added'
  | 'mirror-removed'
  | 'mirror-paused'
  | 'mirror-bits'
  | 'mirror-bits-run'
  | 'mirror-bits-cleared'
  | 'mirror-bits-all'
  | 'regions-hot'
  | 'regions-cold';

function foldMirrorRecord(
  state: MutableState,
  record: Extract<MetadataRecord, { kind: MirrorKind }>,
): void {
  switch (record.kind) {
    case 'mirror-added':
      addMirror(state, record);
      return;
    case 'mirror-removed':
      check(state.mirrors.delete(record.mirror), `mirror ${record.mirror} is unknown`);
      return;
    case 'mirror-paused':
      mirrorOf(state, record.mirror).paused = record.paused;
      return;
    case 'mirror-bits':
      checkRegion(state, record.region);
      setOf(state, record).setRegion(record.region, record.state, record.leaf);
      return;
    case 'mirror-bits-run': {
      checkRange(state, record.first, record.count);
      const set = setOf(state, record);
      if (record.value) set.add(record.first, record.count);
      else set.remove(record.first, record.count);
      return;
    }
    case 'mirror-bits-cleared':
      setOf(state, record).clear();
      return;
    case 'mirror-bits-all':
      setOf(state, record).addAll();
      return;
    case 'regions-hot':
      for (const region of record.regions) checkRegion(state, region);
      for (const region of record.regions) state.hot.add(region);
      return;
    case 'regions-cold':
      for (const region of record.regions) state.hot.delete(region);
  }
}

function addMirror(state: MutableState, record: MirrorAdded): void {
  check(!state.mirrors.has(record.mirror), `mirror ${record.mirror} exists already`);
  const blockCount = state.sizeBytes / BLOCK_BYTES;
  state.mirrors.set(record.mirror, {
    id: record.mirror,
    uri: record.uri,
    mode: record.mode,
    stallPolicy: record.stallPolicy,
    paused: false,
    dirty: new BlockSet(blockCount),
    suspect: new BlockSet(blockCount),
  });
  state.nextMirrorId = Math.max(state.nextMirrorId, record.mirror + 1);
}

function resize(state: MutableState, sizeBytes: number): void {
  const blockCount = sizeBytes / BLOCK_BYTES;
  const before = state.sizeBytes / BLOCK_BYTES;
  const top = layerOf(state, state.topLayer);
  state.sizeBytes = sizeBytes;
  top.map.resize(blockCount);
  // What lies below may be longer than the volume was: it must not come up through the part that grew.
  if (hasBelow(state, top) && blockCount > before) {
    top.map.set(before, blockCount - before, BlockState.ZERO);
  }
  for (const mirror of state.mirrors.values()) {
    mirror.dirty.resize(blockCount);
    mirror.suspect.resize(blockCount);
  }
  const regions = Math.ceil(blockCount / BLOCKS_PER_REGION);
  for (const region of state.hot) {
    if (region >= regions) state.hot.delete(region);
  }
}

function checkRangeOf({ map }: LayerRecord, first: number, count: number): void {
  check(first >= 0 && count > 0, 'the range of blocks is empty');
  check(first + count <= map.blockCount, 'the range of blocks passes the end');
}

function checkRange(state: MutableState, first: number, count: number): void {
  check(first >= 0 && count > 0, 'the range of blocks is empty');
  check(first + count <= state.sizeBytes / BLOCK_BYTES, 'the range of blocks passes the end');
}

function checkRegion(state: MutableState, region: number): void {
  const regions = Math.ceil(state.sizeBytes / BLOCK_BYTES / BLOCKS_PER_REGION);
  check(region >= 0 && region < regions, `region ${region} is past the end`);
}

function mirrorOf(state: MutableState, mirror: number): Writable<MirrorRecord> {
  const found = state.mirrors.get(mirror);
  check(found !== undefined, `mirror ${mirror} is unknown`);
  return found;
}

function setOf(state: MutableState, record: { mirror: number; set: MirrorSet }): BlockSet {
  const mirror = mirrorOf(state, record.mirror);
  return record.set === 'dirty' ? mirror.dirty : mirror.suspect;
}
