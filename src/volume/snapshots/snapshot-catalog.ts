/**
 * The snapshots that one volume has: found by name, read as devices, compared; and what forbids an operation on one of them.
 *
 * Invariants:
 * - Nothing is changed here but devices: there is one for each snapshot that somebody read, until it is forgotten.
 */
import assert from 'node:assert';
import type { BlockDevice } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import {
  BLOCK_BYTES,
  BLOCKS_PER_REGION,
  REGION_BYTES,
  SNAPSHOTS_PER_VOLUME_MAX,
} from '../../io/limits.ts';
import type { Layer } from '../layers/layer.ts';
import { changedBlocks, measureSnapshots } from '../layers/layer-tree.ts';
import type { LayerStack, ViewLayer } from '../layers/layer-tree.ts';
import type { SnapshotRecord } from '../log/metadata-state.ts';
import { isHidden, validateSnapshotName } from '../names.ts';
import { SnapshotDevice } from './snapshot-device.ts';
import type { SnapshotHost } from './snapshot-host.ts';
import type { ChangedRange, SnapshotInfo, SnapshotUsage } from './snapshot-types.ts';

/** How long sizes are measured before others get a turn, in milliseconds. */
const MEASURE_MS = 2;

export class SnapshotCatalog {
  private readonly host: SnapshotHost;
  private readonly devices = new Map<string, SnapshotDevice>();

  constructor(host: SnapshotHost) {
    this.host = host;
  }

  // ---- what there is

  find(name: string): SnapshotRecord | null {
    for (const snapshot of this.host.metadata.state.snapshots.values()) {
      if (snapshot.name === name) return snapshot;
    }
    return null;
  }

  /** Throws SNAPSHOT_NOT_FOUND, for hidden ones too: they are not the operator's. */
  require(name: string): SnapshotRecord {
    const snapshot = this.find(name);
    if (snapshot === null || isHidden(name)) throw notFound(this.host.name, name);
    return snapshot;
  }

  /** Throws SNAPSHOT_NOT_FOUND, but for hidden ones. */
  any(name: string): SnapshotRecord {
    return isHidden(name) ? this.requireHidden(name) : this.require(name);
  }

  requireHidden(name: string): SnapshotRecord {
    const snapshot = this.find(name);
    assert(isHidden(name) && snapshot !== null, 'a hidden snapshot that exists');
    return snapshot;
  }

  /** Throws SNAPSHOT_NOT_FOUND. */
  requireId(id: string): SnapshotRecord {
    const snapshot = this.host.metadata.state.snapshots.get(id);
    if (snapshot === undefined) throw notFound(this.host.name, id);
    return snapshot;
  }

  list(): SnapshotInfo[] {
    const all = [...this.host.metadata.state.snapshots.values()];
    return all.filter(({ name }) => !isHidden(name)).map(infoOf);
  }

  /** Names of those that only the replicator knows. */
  get hidden(): string[] {
    const all = [...this.host.metadata.state.snapshots.values()];
    return all.map(({ name }) => name).filter(isHidden);
  }

  async measure(): Promise<SnapshotUsage[]> {
    const { clock, metadata, layers } = this.host;
    const measure = measureSnapshots(metadata.state, layers.top.map);
    let step = measure.next();
    for (let until = clock.now() + MEASURE_MS; step.done !== true; step = measure.next()) {
      if (clock.now() < until) continue;
      await new Promise<void>((resolve) => clock.soon(resolve));
      until = clock.now() + MEASURE_MS;
    }
    const sizes = step.value;
    return this.list().map((info) => ({
      ...info,
      ...(sizes.get(info.id) ?? { ownBytes: 0, sharedBytes: 0 }),
    }));
  }

  device(name: string): BlockDevice | null {
    const snapshot = this.find(name);
    return snapshot === null ? null : this.deviceOf(snapshot);
  }

  /** Its device: the same object while the snapshot exists. */
  deviceOf(snapshot: SnapshotRecord): SnapshotDevice {
    const known = this.devices.get(snapshot.id);
    if (known !== undefined) return known;
    const { host } = this;
    const device = new SnapshotDevice({
      view: host.layers.viewOf(snapshot.layer, snapshot.sizeBytes),
      description: `snapshot ${snapshot.name} of volume ${host.name}`,
      clock: host.clock,
      ended: () => host.noticeIdle(),
    });
    this.devices.set(snapshot.id, device);
    return device;
  }

  *changed(from: string, to: string | null, start = 0): Generator<ChangedRange> {
    const before = this.viewOf(this.any(from));
    const after = to === null ? this.present() : this.viewOf(this.any(to));
    const region = Math.floor(start / REGION_BYTES) * BLOCKS_PER_REGION;
    for (const { first, count, zero } of changedBlocks(before, after, region)) {
      const offset = Math.max(start, first * BLOCK_BYTES);
      const end = (first + count) * BLOCK_BYTES;
      if (end > offset) yield { offset, length: end - offset, zero };
    }
  }

  private viewOf({ layer, sizeBytes }: SnapshotRecord): LayerStack {
    const top = this.host.layers.layerOf(layer);
    return { layers: chainFrom(top), blockCount: sizeBytes / BLOCK_BYTES };
  }

  private present(): LayerStack {
    const { top } = this.host.layers;
    return { layers: chainFrom(top), blockCount: top.sizeBytes / BLOCK_BYTES };
  }

  // ---- its devices

  /** The pool works for one of them. */
  get inUse(): boolean {
    for (const device of this.devices.values()) if (device.inUse) return true;
    return false;
  }

  /** Requests to snapshots so far, and those not answered. */
  get requests(): number {
    let sum = 0;
    for (const device of this.devices.values()) sum += device.requests;
    return sum;
  }

  get inFlight(): number {
    let sum = 0;
    for (const device of this.devices.values()) sum += device.inFlight;
    return sum;
  }

  /** The snapshot is gone, or has another content. */
  forget(id: string): void {
    const device = this.devices.get(id);
    if (device === undefined) return;
    this.devices.delete(id);
    device.remove();
    this.host.layers.forget(device.view);
  }

  close(): void {
    for (const device of this.devices.values()) device.remove();
  }

  // ---- what forbids an operation

  /** Throws what keeps a snapshot from being made. */
  refuseName(name: string): void {
    validateSnapshotName(name);
    const { name: volume, metadata } = this.host;
    if (this.find(name) !== null) {
      throw new BlockferryError('SNAPSHOT_EXISTS', `${volume}@${name} exists already`);
    }
    if (metadata.state.snapshots.size >= SNAPSHOTS_PER_VOLUME_MAX) {
      throw new BlockferryError(
        'SNAPSHOT_LIMIT',
        `volume ${volume} has ${SNAPSHOTS_PER_VOLUME_MAX} snapshots`,
      );
    }
  }

  /** A clone reads through its snapshot, as long as it exists. */
  refuseCloned({ id, name }: SnapshotRecord): void {
    const { name: volume } = this.host;
    const clones = this.host.clonesOf(id);
    if (clones.length === 0) return;
    throw new BlockferryError(
      'SNAPSHOT_HAS_CLONES',
      `${volume}@${name} is below ${clones.length === 1 ? 'the volume' : 'the volumes'} ${clones.join(', ')}`,
    );
  }

  refuseLarger({ name, sizeBytes }: SnapshotRecord): void {
    const { name: volume, layers } = this.host;
    if (sizeBytes <= layers.top.sizeBytes) return;
    throw new BlockferryError(
      'SNAPSHOT_TOO_LARGE',
      `${volume}@${name} has ${sizeBytes} bytes, the volume ${layers.top.sizeBytes}`,
    );
  }

  refuseRange({ sizeBytes }: SnapshotRecord, offset: number, length: number): void {
    const end = Math.min(sizeBytes, this.host.layers.top.sizeBytes);
    const whole = offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0;
    const inside = offset >= 0 && length > 0 && offset + length <= end;
    if (whole && inside && Number.isSafeInteger(offset + length)) return;
    throw new BlockferryError(
      'RANGE_INVALID',
      `${length} bytes from ${offset} are no whole blocks of the first ${end} bytes`,
    );
  }
}

/** The layers of a view, those of a clone's origin with them: numbers of layers are those of one volume. */
function chainFrom(top: Layer): ViewLayer[] {
  const chain: ViewLayer[] = [];
  for (let layer: Layer | null = top; layer !== null; layer = layer.parent) {
    chain.push({ id: layer.key, map: layer.map });
  }
  return chain;
}

export function infoOf({ id, name, createdAt, sizeBytes }: SnapshotRecord): SnapshotInfo {
  return { id, name, createdAt, sizeBytes };
}

function notFound(volume: string, name: string): BlockferryError {
  const shown = JSON.stringify(`${volume}@${name}`);
  return new BlockferryError('SNAPSHOT_NOT_FOUND', `there is no snapshot ${shown}`);
}
