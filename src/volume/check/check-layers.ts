/**
 * The files of a volume's directory against the layers that its log tells of.
 *
 * Nothing is written. A file that cannot be opened or read is a finding, never the end of a check.
 */
import type { Disk, DiskFile } from '../../io/disk.ts';
import { errorText } from '../../io/errors.ts';
import { BLOCK_BYTES } from '../../io/limits.ts';
import { checkContainer } from './check-container.ts';
import { checkContent } from './check-extents.ts';
import type { CheckTools, OutsideMeaning } from './check-extents.ts';
import { atBytes, atFile, finding } from './check-finding.ts';
import type { Finding, RepairStep } from './check-finding.ts';
import { overlapsOf } from './check-tree.ts';
import { LOG_NAME, NEW_LOG_NAME } from '../log/metadata.ts';
import { hasBelow } from '../log/metadata-state.ts';
import type { LayerRecord, VolumeState } from '../log/metadata-state.ts';
import { NEW_PROBE_NAME, PROBE_NAME } from '../layers/extents-probe.ts';
import { JOURNAL_NAMES, STAGING_NAME } from '../names.ts';
import { layerPath } from '../recovery.ts';

/** What a volume may have beside its layers. */
const OTHER_NAMES: ReadonlySet<string> = new Set([
  LOG_NAME,
  PROBE_NAME,
  NEW_PROBE_NAME,
  ...JOURNAL_NAMES,
  STAGING_NAME,
]);

export interface CheckedDirectory {
  readonly disk: Disk;
  readonly directory: string;
  readonly state: VolumeState;
  readonly tools: CheckTools;
  /** See `mergingLayers`. */
  readonly merging: ReadonlySet<number>;
}

/** What lies in the directory and does not belong to the log or to a layer. */
export function checkNames({ disk, directory, state }: CheckedDirectory): Finding[] {
  const findings: Finding[] = [];
  const files = [...state.layers.values()].filter(({ place }) => place === null);
  const wanted = new Set(files.map(({ id }) => layerPath(directory, id)));
  for (const name of disk.list(directory)) {
    const path = `${directory}/${name}`;
    if (wanted.has(path) || OTHER_NAMES.has(name)) continue;
    const place = atFile(path);
    const remove: RepairStep = { kind: 'remove', path };
    if (name === NEW_LOG_NAME) {
      findings.push(finding('log-leftover', place, 'a compaction that did not end', remove));
    } else if (/^layer-\d{8,}\.data$/.test(name)) {
      const what = 'the log has no such layer: it was being made, or was given up';
      findings.push(finding('layer-file-orphan', place, what, remove));
    } else {
      findings.push(finding('foreign-file', place, 'nothing of a volume has this name'));
    }
  }
  return findings;
}

/** Layers that a merge may be working on, or may have been: half of it may be done in their files. */
export function mergingLayers(state: VolumeState): ReadonlySet<number> {
  const children = new Map<number, LayerRecord[]>();
  for (const layer of state.layers.values()) {
    children.set(layer.parent, [...(children.get(layer.parent) ?? []), layer]);
  }
  const named = new Set([...state.snapshots.values()].map(({ layer }) => layer));
  const merging = new Set<number>();
  for (const { id, sealed } of state.layers.values()) {
    const [child, ...others] = children.get(id) ?? [];
    if (!sealed || named.has(id) || child?.sealed !== true || others.length > 0) continue;
    merging.add(id);
    merging.add(child.id);
  }
  return merging;
}

/** What data outside the map of a layer means. `killed`: the system runs on since the volume was written. */
export function meaningFor(
  state: VolumeState,
  layer: LayerRecord,
  { killed, merging }: { killed: boolean; merging: ReadonlySet<number> },
): OutsideMeaning {
  const { id, sealed } = layer;
  if (!sealed && !state.clean) return !hasBelow(state, layer) || killed ? 'adopt' : 'unused';
  // Above another layer a write that failed may have left something, which is not content.
  if (id === state.topLayer && !hasBelow(state, layer)) return 'fault';
  return merging.has(id) ? 'merging' : 'unused';
}

/** The file of one layer, against the record of that layer. */
export async function checkLayer(
  checked: CheckedDirectory,
  layer: LayerRecord,
): Promise<Finding[]> {
  const { disk, directory, state, tools, merging } = checked;
  if (layer.place !== null) return checkContainer(layer.place, layer.map, tools);
  const path = layerPath(directory, layer.id);
  let file: DiskFile;
  try {
    if (!disk.exists(path)) {
      const what = `the file of layer ${layer.id} is not there: ${layer.map.data.count} blocks of data`;
      return [finding('layer-file-missing', atFile(path), what)];
    }
    file = disk.open(path, { create: false });
  } catch (thrown) {
    return [finding('unreadable', atFile(path), errorText(thrown))];
  }
  try {
    const findings: Finding[] = [];
    for (const found of overlapsOf(layer, path)) {
      if (found === null) await tools.turn();
      else findings.push(found);
    }
    const killed = state.boot !== '' && state.boot === disk.bootId;
    const meaning = meaningFor(state, layer, { killed, merging });
    findings.push(...checkLength(file, layer, layer.sealed || state.clean));
    if (disk.knowsExtents) {
      findings.push(...(await checkContent(file, layer.map, meaning, tools)));
    } else {
      const what = 'this system does not tell holes from data: the map could not be compared';
      findings.push(finding('extents-unknown', atFile(path), what));
    }
    return findings;
  } catch (thrown) {
    return [finding('unreadable', atFile(path), errorText(thrown))];
  } finally {
    file.closeNow();
  }
}

/** `exact`: the map of the layer says all that its file holds. */
export function checkLength(file: DiskFile, layer: LayerRecord, exact: boolean): Finding[] {
  const { id, map, parent } = layer;
  const wanted = map.blockCount * BLOCK_BYTES;
  const length = file.sizeNow();
  if (length === wanted) return [];
  const step: RepairStep = { kind: 'set-length', path: file.path, sizeBytes: wanted };
  const lengths = `the file has ${length} bytes and layer ${id} ${wanted}`;
  if (length > wanted) {
    const what = `${lengths}: a change of size was cut short`;
    return [finding('layer-file-long', atBytes(file.path, wanted, length), what, step)];
  }
  const place = atBytes(file.path, length, wanted);
  const lost = map.data.nextRun(Math.floor(length / BLOCK_BYTES), map.blockCount);
  if (lost !== null) {
    const what = `${lengths}; block ${lost.first}, past its end, was data`;
    return [finding('layer-file-short', place, what)];
  }
  if (parent !== 0) {
    const what = `${lengths}: only a hole is missing, and the next open adds it`;
    return [finding('layer-file-end-missing', place, what, step)];
  }
  // A base layer's size is recorded after its bytes. An exact map proves that nothing but a hole is missing.
  const what = `${lengths}; no data is recorded past its end`;
  return [finding('layer-file-short', place, what, exact ? step : null)];
}
