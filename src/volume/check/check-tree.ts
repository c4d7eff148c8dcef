/**
 * The state that a log folds to, under a check: the tree of layers, the snapshots, and the sizes of all maps.
 *
 * Pure. The fold refuses most of what is looked for here; it is looked for again, since a fold that lets it pass
 * would be the fault that matters most.
 */
import { BLOCK_BYTES, BLOCKS_PER_REGION, CHECK_STEPS_PER_TURN } from '../../io/limits.ts';
import { BlockferryError } from '../../io/errors.ts';
import { checkCopy } from './check-copy.ts';
import { atBlocks, atBytes, atFile, finding } from './check-finding.ts';
import type { Finding, FindingCode, Place, RepairStep } from './check-finding.ts';
import type { LayerRecord, SnapshotRecord, VolumeState } from '../log/metadata-state.ts';
import { faultOfSnapshot, validateVolumeName } from '../names.ts';
import { layerPath } from '../recovery.ts';

export interface TreePlaces {
  readonly directory: string;
  readonly logPath: string;
  /** Offsets in the log of the records that made snapshots; without one the log as a whole is named. */
  readonly snapshotOffsets: ReadonlyMap<string, number>;
}

export function checkState(state: VolumeState, places: TreePlaces): Finding[] {
  const log = atFile(places.logPath);
  return [
    ...checkName(state, log),
    ...checkTree(state, places),
    ...checkSnapshots(state, places),
    ...checkMapSizes(state, log),
    ...checkCopy(state, log),
  ];
}

function checkName(state: VolumeState, log: Place): Finding[] {
  const why = whyRefused(() => validateVolumeName(state.name));
  return why === null ? [] : [finding('volume-name-invalid', log, why)];
}

/** What is wrong with a name; null when it is good. */
function whyRefused(validate: () => void): string | null {
  try {
    validate();
    return null;
  } catch (thrown) {
    if (thrown instanceof BlockferryError) return thrown.message;
    throw thrown;
  }
}

function checkTree(state: VolumeState, places: TreePlaces): Finding[] {
  const findings: Finding[] = [];
  const log = atFile(places.logPath);
  const add = (code: FindingCode, what: string): void =>
    void findings.push(finding(code, log, what));
  const bases: number[] = [];
  for (const { id, parent } of state.layers.values()) {
    if (parent === 0) bases.push(id);
    else if (!state.layers.has(parent)) {
      add('layer-parent-unknown', `layer ${id} lies on layer ${parent}, which does not exist`);
    }
    if (loops(state, id)) add('layer-loop', `layer ${id} lies on itself`);
  }
  if (bases.length !== 1) {
    const which = bases.length === 0 ? '' : `: ${bases.join(', ')}`;
    add('layer-base-wrong', `${bases.length} layers lie on nothing instead of one${which}`);
  }
  checkHead(state, add);
  if (findings.length > 0) return findings;
  for (const { id, sealed } of state.layers.values()) {
    if (sealed || id === state.topLayer) continue;
    const what = `layer ${id} has no seal: a snapshot was being taken, and the next open ends that`;
    findings.push(finding('layer-not-sealed', log, what));
  }
  findings.push(...checkUnreachable(state, places.directory));
  return findings;
}

function checkHead(state: VolumeState, add: (code: FindingCode, what: string) => void): void {
  const head = state.layers.get(state.topLayer);
  if (head === undefined) {
    add('head-wrong', `layer ${state.topLayer}, which takes the writes, does not exist`);
    return;
  }
  if (head.sealed) add('head-wrong', `layer ${head.id}, which takes the writes, is sealed`);
  for (const { id, parent } of state.layers.values()) {
    if (parent === head.id) {
      add('head-wrong', `layer ${id} lies on layer ${head.id}, which takes the writes`);
    }
  }
}

function loops(state: VolumeState, layer: number): boolean {
  let steps = 0;
  for (let id = layer; id !== 0; id = state.layers.get(id)?.parent ?? 0) {
    if (id === layer && steps > 0) return true;
    // A loop further down, which its own layers name.
    if (steps > state.layers.size) return false;
    steps += 1;
  }
  return false;
}

/** Layers that are neither below the head nor below a snapshot. Upper ones first: so they can go. */
function checkUnreachable(state: VolumeState, directory: string): Finding[] {
  const reached = new Set<number>();
  const reach = (layer: number): void => {
    for (let id = layer; id !== 0 && !reached.has(id); id = state.layers.get(id)?.parent ?? 0) {
      reached.add(id);
    }
  };
  reach(state.topLayer);
  for (const { layer } of state.snapshots.values()) reach(layer);
  const findings: Finding[] = [];
  for (const { id, map } of [...state.layers.values()].toReversed()) {
    if (reached.has(id)) continue;
    const path = layerPath(directory, id);
    const what = `nothing looks through layer ${id} (${map.data.count} blocks of data): it was given up, and goes`;
    const step: RepairStep = { kind: 'drop-layer', layer: id, path };
    findings.push(finding('layer-unreachable', atFile(path), what, step));
  }
  return findings;
}

function checkSnapshots(state: VolumeState, places: TreePlaces): Finding[] {
  const findings: Finding[] = [];
  const first = new Map<string, SnapshotRecord>();
  for (const snapshot of state.snapshots.values()) {
    const offset = places.snapshotOffsets.get(snapshot.id);
    const place =
      offset === undefined ? atFile(places.logPath) : atBytes(places.logPath, offset, offset);
    const shown = `snapshot ${JSON.stringify(snapshot.name)} (${snapshot.id})`;
    const layer = state.layers.get(snapshot.layer);
    if (layer === undefined) {
      const what = `${shown} is layer ${snapshot.layer}, which does not exist`;
      findings.push(finding('snapshot-layer-unknown', place, what));
    } else if (!layer.sealed) {
      const what = `${shown} is layer ${layer.id}, which is not sealed`;
      findings.push(finding('snapshot-layer-not-sealed', place, what));
    }
    const why = faultOfSnapshot(snapshot.name);
    if (why !== null) findings.push(finding('snapshot-name-invalid', place, `${shown}: ${why}`));
    const other = first.get(snapshot.name);
    if (other === undefined) first.set(snapshot.name, snapshot);
    else {
      const what = `${shown} has the name of the snapshot ${other.id}`;
      findings.push(finding('snapshot-name-twice', place, what));
    }
  }
  return findings;
}

function checkMapSizes(state: VolumeState, log: Place): Finding[] {
  const findings: Finding[] = [];
  const blocks = state.sizeBytes / BLOCK_BYTES;
  const head = state.layers.get(state.topLayer);
  if (head !== undefined && head.map.blockCount !== blocks) {
    findings.push(finding('map-size-wrong', log, sizes(`layer ${head.id}`, head.map, blocks)));
  }
  for (const layer of state.layers.values()) {
    if (layer.map.zero.blockCount !== layer.map.blockCount) {
      const what = sizes(`the zeroes of layer ${layer.id}`, layer.map.zero, layer.map.blockCount);
      findings.push(finding('map-size-wrong', log, what));
    }
  }
  for (const { uri, dirty, suspect } of state.mirrors.values()) {
    for (const set of [dirty, suspect]) {
      if (set.blockCount === blocks) continue;
      const what = sizes(`the map of the mirror ${uri}`, set, blocks);
      findings.push(finding('mirror-map-size-wrong', log, what));
    }
  }
  const regions = Math.ceil(blocks / BLOCKS_PER_REGION);
  for (const region of state.hot) {
    if (region < regions) continue;
    const place = atBlocks(log.file, {
      first: region * BLOCKS_PER_REGION,
      count: BLOCKS_PER_REGION,
    });
    const what = `region ${region} was written, but the volume has ${regions} regions`;
    findings.push(finding('hot-region-outside', place, what));
  }
  return findings;
}

function sizes(what: string, map: { readonly blockCount: number }, blocks: number): string {
  return `${what} has ${map.blockCount} blocks instead of ${blocks}`;
}

/** Blocks that a map calls data and zero at once: the first of them. Null: only time has passed. */
export function* overlapsOf({ id, map }: LayerRecord, file: string): Generator<Finding | null> {
  const { data, zero } = map;
  for (let region = zero.nextRegion(0); region >= 0; region = zero.nextRegion(region + 1)) {
    if (region % CHECK_STEPS_PER_TURN === 0) yield null;
    if (region >= data.regionCount) return;
    if (data.countIn(region) === 0) continue;
    const zeroes = zero.leafOf(region);
    const both = data.leafOf(region).map((bits, index) => bits & (zeroes[index] ?? 0));
    const byte = both.findIndex((bits) => bits !== 0);
    if (byte < 0) continue;
    const bits = both[byte] ?? 0;
    const first = region * BLOCKS_PER_REGION + byte * 8 + Math.log2(bits & -bits);
    const what = `layer ${id} calls the block data and zero at once`;
    yield finding('map-overlap', atBlocks(file, { first, count: 1 }), what);
    return;
  }
}
