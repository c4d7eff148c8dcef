/**
 * The part of the metadata reducer that keeps the mirrors and the hot regions.
 *
 * Invariants:
 * - What is recorded of a mirror goes with it.
 * - What a mirror acknowledged never goes back, until it is another peer.
 */
import { BLOCK_BYTES, BLOCKS_PER_REGION, LINK_LANES_MAX } from '../../io/limits.ts';
import { BlockSet } from '../maps/block-set.ts';
import { check } from '../volume-state.ts';
import type { MirrorRecord, MutableState, Writable } from '../volume-state.ts';
import { isBefore } from './metadata-copy.ts';
import type {
  MetadataRecord,
  MirrorAcknowledged,
  MirrorAdded,
  MirrorOptions,
  MirrorPeer,
  MirrorPolicy,
  MirrorSet,
} from './records.ts';

type MirrorKind =
  | 'mirror-added'
  | 'mirror-removed'
  | 'mirror-paused'
  | 'mirror-bits'
  | 'mirror-bits-run'
  | 'mirror-bits-cleared'
  | 'mirror-bits-all'
  | 'mirror-peer'
  | 'mirror-acknowledged'
  | 'mirror-run'
  | 'mirror-run-over'
  | 'mirror-options'
  | 'mirror-policy'
  | 'mirror-compress'
  | 'mirror-ran'
  | 'regions-hot'
  | 'regions-cold'
  | 'handing-over'
  | 'handover-over';

/** Throws RecordRefused before any change. */
export function foldMirrorRecord(
  state: MutableState,
  record: Extract<MetadataRecord, { kind: MirrorKind }>,
): void {
  switch (record.kind) {
    case 'mirror-added':
      addMirror(state, record);
      return;
    case 'mirror-removed':
      check(state.mirrors.delete(record.mirror), `mirror ${record.mirror} is unknown`);
      if (state.rejoin?.mirror === record.mirror) state.rejoin = null;
      if (state.handover?.mirror === record.mirror) state.handover = null;
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
    case 'mirror-peer':
      bindPeer(mirrorOf(state, record.mirror), record);
      return;
    case 'mirror-acknowledged':
      acknowledge(state, record);
      return;
    case 'mirror-run': {
      const { mirror, run, snapshot, generation, epoch, time } = record;
      mirrorOf(state, mirror).run = { run, snapshot, generation, epoch, time };
      return;
    }
    case 'mirror-run-over':
      mirrorOf(state, record.mirror).run = null;
      return;
    case 'mirror-options':
      setOptions(state, record);
      return;
    case 'mirror-compress':
      mirrorOf(state, record.mirror).compress = record.mode;
      return;
    case 'mirror-policy':
      setPolicy(state, record);
      return;
    case 'mirror-ran':
      mirrorOf(state, record.mirror).ranAt = record.time;
      return;
    case 'handing-over': {
      const { mirror, id, epoch } = record;
      check(state.source === null, 'a secondary hands nothing over');
      check(state.mirrors.has(mirror), `mirror ${mirror} is unknown`);
      state.handover = { mirror, id, epoch };
      return;
    }
    case 'handover-over':
      state.handover = null;
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
    lanes: 1,
    limit: null,
    schedule: { kind: 'stream' },
    lagLimitMs: null,
    compress: 'auto',
    ranAt: null,
    peer: null,
    acknowledged: null,
    run: null,
    dirty: new BlockSet(blockCount),
    suspect: new BlockSet(blockCount),
  });
  state.nextMirrorId = Math.max(state.nextMirrorId, record.mirror + 1);
}

/** Another peer than before has held nothing yet. */
function bindPeer(mirror: Writable<MirrorRecord>, { node, volumeId }: MirrorPeer): void {
  const { peer } = mirror;
  const known = peer?.volumeId ?? volumeId;
  if (peer !== null && (peer.node !== node || known !== volumeId)) {
    mirror.acknowledged = null;
    mirror.run = null;
  }
  mirror.peer = { node, volumeId };
}

function acknowledge(state: MutableState, record: MirrorAcknowledged): void {
  const mirror = mirrorOf(state, record.mirror);
  check(!isBefore(record, mirror.acknowledged), 'what a mirror acknowledged never goes back');
  mirror.acknowledged = { generation: record.generation, epoch: record.epoch };
}

function setOptions(state: MutableState, { mirror, lanes, limit }: MirrorOptions): void {
  const found = mirrorOf(state, mirror);
  check(lanes >= 1 && lanes <= LINK_LANES_MAX, 'the number of lanes is out of range');
  check(limit === null || limit >= 1, 'a limit is at least one byte per second');
  found.lanes = lanes;
  found.limit = limit;
}

function setPolicy(state: MutableState, { mirror, schedule, lagLimitMs }: MirrorPolicy): void {
  const found = mirrorOf(state, mirror);
  check(lagLimitMs === null || lagLimitMs >= 1, 'a limit of the lag is at least a millisecond');
  const follows = schedule.kind === 'stream';
  check(found.mode === 'async' || follows, 'a synchronous mirror follows every write');
  found.schedule = schedule;
  found.lagLimitMs = lagLimitMs;
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
