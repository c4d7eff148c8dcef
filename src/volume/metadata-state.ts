/**
 * The pure reducer of the metadata log: the state of a volume is the fold of its records.
 *
 * Invariants:
 * - `foldRecord` does no I/O and reads nothing but its arguments: the same records give the same state.
 * - Records come from disk with a good checksum, but they are not trusted to fit: one that names an
 *   unknown layer or mirror, or a block past the end, throws RecordRefused and changes nothing.
 * - `recordsOf(state)` folds to an equal state: that is what compaction writes.
 */
import { BLOCK_BYTES, BLOCKS_PER_REGION, VOLUME_BYTES_MAX } from '../io/limits.ts';
import { BlockSet, RegionState } from './block-set.ts';
import { BlockState, LayerMap } from './layer-map.ts';
import type { MetadataRecord, MirrorAdded, MirrorSet } from './records.ts';

export interface LayerRecord {
  readonly id: number;
  /** The layer below; 0 for the base layer. */
  readonly parent: number;
  /** Nothing is written to it any more, and `map` is exact. */
  readonly sealed: boolean;
  /** A sealed layer keeps the size that it had: it may be smaller or larger than the volume. */
  readonly map: LayerMap;
}

export interface SnapshotRecord {
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly name: string;
  readonly layer: number;
  /** Wall-clock milliseconds since 1970. */
  readonly createdAt: number;
  readonly sizeBytes: number;
}

export interface MirrorRecord {
  readonly id: number;
  readonly uri: string;
  readonly mode: 'async' | 'sync';
  readonly stallPolicy: 'degrade' | 'block';
  readonly paused: boolean;
  /** Blocks that differ. Folded from records: what is durable, or buffered for the next commit. */
  readonly dirty: BlockSet;
  /** Blocks that may differ and are to be compared. */
  readonly suspect: BlockSet;
}

export interface VolumeState {
  /** 32 hexadecimal digits; empty before the first record. */
  readonly id: string;
  readonly name: string;
  readonly sizeBytes: number;
  /** Wall-clock milliseconds since 1970. */
  readonly createdAt: number;
  readonly generation: number;
  /** Parents before their children, as they came. */
  readonly layers: ReadonlyMap<number, LayerRecord>;
  /** The layer that takes writes; 0 before the first. */
  readonly topLayer: number;
  /** Greater than the number of any layer that there ever was. */
  readonly nextLayer: number;
  /** By id, in the order in which they were made. */
  readonly snapshots: ReadonlyMap<string, SnapshotRecord>;
  readonly mirrors: ReadonlyMap<number, MirrorRecord>;
  /** Regions that were recorded hot. */
  readonly hot: ReadonlySet<number>;
  readonly nextMirrorId: number;
  /** The last word about writing is `closed-clean`, or nothing was ever written. */
  readonly clean: boolean;
  /** The run of the system in which it was last opened for writing; empty before the first. */
  readonly boot: string;
}

/** A record that cannot follow the ones before it. */
export class RecordRefused extends Error {}

type Writable<Value> = { -readonly [Key in keyof Value]: Value[Key] };
interface MutableState extends Writable<
  Omit<VolumeState, 'layers' | 'snapshots' | 'mirrors' | 'hot'>
> {
  readonly layers: Map<number, Writable<LayerRecord>>;
  readonly snapshots: Map<string, SnapshotRecord>;
  readonly mirrors: Map<number, Writable<MirrorRecord>>;
  readonly hot: Set<number>;
}

const GENERATION_FIRST = 1;

export function emptyState(): VolumeState {
  const state: MutableState = {
    id: '',
    name: '',
    sizeBytes: 0,
    createdAt: 0,
    generation: GENERATION_FIRST,
    layers: new Map<number, LayerRecord>(),
    topLayer: 0,
    nextLayer: 1,
    snapshots: new Map<string, SnapshotRecord>(),
    mirrors: new Map<number, MirrorRecord>(),
    hot: new Set<number>(),
    nextMirrorId: 1,
    clean: true,
    boot: '',
  };
  return state;
}

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

type TreeKind =
  | 'layer-created'
  | 'layer-resized'
  | 'layer-sealed'
  | 'layers-merged'
  | 'layer-removed'
  | 'snapshot-created'
  | 'snapshot-removed';

function foldTreeRecord(
  state: MutableState,
  record: Extract<MetadataRecord, { kind: TreeKind }>,
): void {
  switch (record.kind) {
    case 'layer-created':
      createLayer(state, record.layer, record.parent);
      return;
    case 'layer-resized':
      checkSize(record.sizeBytes);
      layerOf(state, record.layer).map.resize(record.sizeBytes / BLOCK_BYTES);
      return;
    case 'layer-sealed':
      layerOf(state, record.layer).sealed = true;
      return;
    case 'layers-merged':
      mergeLayers(state, record.from, record.into);
      return;
    case 'layer-removed':
      removeLayer(state, record.layer);
      return;
    case 'snapshot-created': {
      const { id, name, layer, createdAt, sizeBytes } = record;
      check(!state.snapshots.has(id), `snapshot ${id} exists already`);
      check(layerOf(state, layer).sealed, `layer ${layer} is not sealed`);
      checkSize(sizeBytes);
      state.snapshots.set(id, { id, name, layer, createdAt, sizeBytes });
      return;
    }
    case 'snapshot-removed':
      check(state.snapshots.delete(record.id), `snapshot ${record.id} is unknown`);
  }
}

function createLayer(state: MutableState, layer: number, parent: number): void {
  check(!state.layers.has(layer), `layer ${layer} exists already`);
  check(layer > 0, 'layers count from 1');
  check((parent === 0) === (state.layers.size === 0), 'one layer is the base layer');
  if (parent !== 0) layerOf(state, parent);
  const map = new LayerMap(state.sizeBytes / BLOCK_BYTES);
  state.layers.set(layer, { id: layer, parent, sealed: false, map });
  state.topLayer = layer;
  state.nextLayer = Math.max(state.nextLayer, layer + 1);
}

/** One of the two lies on the other, which carries nothing else when it is the one that goes. */
function mergeLayers(state: MutableState, from: number, into: number): void {
  const gone = layerOf(state, from);
  const kept = layerOf(state, into);
  check(gone.sealed && kept.sealed, 'only sealed layers are merged');
  check(from !== state.topLayer && into !== state.topLayer, 'the top layer is not merged');
  const children = [...state.layers.values()].filter(({ parent }) => parent === from);
  if (kept.parent === from) {
    check(children.length === 1, `layer ${from} carries more than layer ${into}`);
    check(!isNamed(state, from), `layer ${from} is a snapshot`);
    kept.parent = gone.parent;
  } else {
    check(gone.parent === into, `layers ${from} and ${into} are no neighbours`);
    check(!isNamed(state, into), `layer ${into} is a snapshot`);
    for (const child of children) child.parent = into;
    for (const snapshot of state.snapshots.values()) {
      if (snapshot.layer === from) state.snapshots.set(snapshot.id, { ...snapshot, layer: into });
    }
  }
  state.layers.delete(from);
}

function removeLayer(state: MutableState, layer: number): void {
  layerOf(state, layer);
  check(layer !== state.topLayer, 'the top layer is not removed');
  check(!isNamed(state, layer), `layer ${layer} is a snapshot`);
  const carries = [...state.layers.values()].some(({ parent }) => parent === layer);
  check(!carries, `layer ${layer} carries others`);
  state.layers.delete(layer);
}

function isNamed(state: MutableState, layer: number): boolean {
  return [...state.snapshots.values()].some((snapshot) => snapshot.layer === layer);
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
  state.sizeBytes = sizeBytes;
  const top = layerOf(state, state.topLayer);
  top.map.resize(blockCount);
  // What lies below may be longer than the volume was: it must not come up through the part that grew.
  if (top.parent !== 0 && blockCount > before) {
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
  yield { kind: 'generation-opened', generation: state.generation };
  yield* recordsOfLayers(state);
  for (const mirror of state.mirrors.values()) {
    yield {
      kind: 'mirror-added',
      mirror: mirror.id,
      uri: mirror.uri,
      mode: mirror.mode,
      stallPolicy: mirror.stallPolicy,
    };
    if (mirror.paused) yield { kind: 'mirror-paused', mirror: mirror.id, paused: true };
    yield* recordsOfSet(mirror.id, 'dirty', mirror.dirty);
    yield* recordsOfSet(mirror.id, 'suspect', mirror.suspect);
  }
  yield* recordsOfHot(state.hot);
  if (state.boot !== '') yield { kind: 'booted', id: state.boot };
  if (!state.clean) yield { kind: 'opened' };
}

/** Layers as they came: each after the one below it, and last the one that takes writes. */
function* recordsOfLayers(state: VolumeState): Generator<MetadataRecord> {
  for (const { id, parent, map, sealed } of state.layers.values()) {
    const sizeBytes = map.blockCount * BLOCK_BYTES;
    yield { kind: 'layer-created', layer: id, parent };
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

function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new RecordRefused(message);
}

function checkSize(sizeBytes: number): void {
  check(Number.isSafeInteger(sizeBytes), 'the size is not an integer');
  check(sizeBytes > 0 && sizeBytes <= VOLUME_BYTES_MAX, `the size ${sizeBytes} is out of range`);
  check(sizeBytes % BLOCK_BYTES === 0, `the size ${sizeBytes} is not whole blocks`);
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

function layerOf(state: MutableState, layer: number): Writable<LayerRecord> {
  const found = state.layers.get(layer);
  check(found !== undefined, `layer ${layer} is unknown`);
  return found;
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
