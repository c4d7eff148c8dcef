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
import { RegionState } from '../maps/block-set.ts';
import { BlockState } from '../maps/layer-map.ts';
import { foldCopyRecord } from './metadata-copy.ts';
import { derivedGeneration, foldHistoryRecord, setHistory } from './metadata-history.ts';
import { foldMirrorRecord } from './metadata-mirrors.ts';
import { foldTreeRecord } from './metadata-tree.ts';
import type { MetadataRecord } from './records.ts';
import { NO_BOOT, check, checkSize, hasBelow, layerOf } from '../volume-state.ts';
import type { LayerRecord, MutableState, VolumeState } from '../volume-state.ts';

export { recordsOf, recordsOfMap, recordsOfSet } from './state-records.ts';
export type { MapRecord } from './state-records.ts';
export { RecordRefused, emptyState, hasBelow } from '../volume-state.ts';
export type {
  CopyPosition,
  LayerRecord,
  MirrorRecord,
  MirrorRunRecord,
  RunRecord,
  SnapshotRecord,
  TimedPosition,
  VolumeState,
} from '../volume-state.ts';

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
      // What a log means that says nothing of generations.
      setHistory(state, [derivedGeneration(record.id, 1)]);
      return;
    case 'resized':
      checkSize(record.sizeBytes);
      resize(state, record.sizeBytes);
      return;
    case 'cloned':
    case 'layer-created':
    case 'layer-placed':
    case 'layer-resized':
    case 'layer-sealed':
    case 'layers-merged':
    case 'layer-removed':
    case 'top-removed':
    case 'snapshot-created':
    case 'snapshot-removed':
    case 'snapshot-kept':
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
    case 'opened':
      state.clean = false;
      return;
    case 'booted':
      state.boot = record.id;
      if (record.id !== NO_BOOT && record.id !== state.failedBoot) state.failedBoot = '';
      return;
    case 'sync-failed':
      state.failedBoot = record.boot;
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
    case 'mirror-peer':
    case 'mirror-acknowledged':
    case 'mirror-run':
    case 'mirror-run-over':
    case 'mirror-options':
    case 'mirror-compress':
    case 'mirror-policy':
    case 'mirror-ran':
    case 'regions-hot':
    case 'regions-cold':
    case 'handing-over':
    case 'handover-over':
      foldMirrorRecord(state, record);
      return;
    case 'generation-numbered':
    case 'history-set':
    case 'generation-opened':
    case 'fenced':
    case 'epochs-reserved':
      foldHistoryRecord(state, record);
      return;
    case 'source-bound':
    case 'source-cleared':
    case 'source-policy':
    case 'position':
    case 'rejoining':
    case 'journal-kept':
    case 'journal-released':
    case 'run-opened':
    case 'run-marked':
    case 'run-closed':
      foldCopyRecord(state, record);
  }
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
  if (state.run !== null && state.run.cursor > sizeBytes) {
    state.run = { ...state.run, cursor: sizeBytes };
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
