/**
 * Changing the size of an open volume. After a crash it has the old or the new size.
 *
 * Invariants:
 * - Growing: the file first, so that a size that is recorded always has its bytes.
 * - Shrinking: the record first, so that what is cut off is not needed by any state that recovery can find.
 * - What grows reads as zeroes. A file that is lengthened does; of a container that part is zeroed before it counts.
 * - What the mirrors hold past the old end is unknown: it is marked in the same commit as the new size.
 */
import assert from 'node:assert';
import { Status } from '../io/device.ts';
import { errnoOf } from '../io/errors.ts';
import { BLOCK_BYTES, ZERO_PUNCH_BYTES_MAX, ZERO_WRITE_BYTES_MAX } from '../io/limits.ts';
import type { Changes } from './changes.ts';
import type { Layer } from './layers/layer.ts';
import { writeError } from './log/metadata.ts';
import type { Metadata } from './log/metadata.ts';
import { recordsOfMap } from './log/metadata-state.ts';
import { BlockSet } from './maps/block-set.ts';
import type { LayerMap } from './maps/layer-map.ts';
import { ZEROES } from './zeroing.ts';

/** What a volume lends to the change of its size. */
export interface ResizeHost {
  /** The layer that takes writes. */
  readonly layer: Layer;
  readonly changes: Changes;
  readonly metadata: Metadata;
  /** Resolves when `ready` says so. */
  until(ready: () => boolean): Promise<void>;
  flushed(): Promise<number>;
  commit(): Promise<number>;
  /** Throws VOLUME_FAILED. */
  refuseIfFailed(): void;
}

/** Throws VOLUME_FAILED or METADATA_WRITE_FAILED: then the size is what it was. */
export async function growVolume(host: ResizeHost, sizeBytes: number): Promise<void> {
  const { layer, metadata } = host;
  const before = layer.sizeBytes;
  setFileSize(layer, before);
  setFileSize(layer, sizeBytes);
  if (layer.container !== null) await zeroContainer(layer, before, sizeBytes);
  // Through a flush, in whose order syncs are answered: one of its own that fails may have taken what a flush is asked for.
  layer.touched = true;
  const flushed = await host.flushed();
  host.refuseIfFailed();
  if (flushed !== Status.OK) throw writeError(layer.file.path, flushed);
  metadata.append({ kind: 'resized', sizeBytes });
  markForMirrors(metadata, before / BLOCK_BYTES, (sizeBytes - before) / BLOCK_BYTES);
  const status = await host.commit();
  if (status !== Status.OK) {
    host.refuseIfFailed();
    metadata.append({ kind: 'resized', sizeBytes: before });
    throw writeError(layer.file.path, status);
  }
  layer.resize(sizeBytes);
}

/** Drops what is past the new end. Throws as `growVolume`. */
export async function shrinkVolume(host: ResizeHost, sizeBytes: number): Promise<void> {
  const { layer, changes, metadata } = host;
  changes.hold();
  try {
    await host.until(() => changes.running === 0);
    await host.flushed();
    host.refuseIfFailed();
    const before = layer.sizeBytes;
    const recorded = recordedMap(host).clone();
    layer.sizeBytes = sizeBytes;
    metadata.append({ kind: 'resized', sizeBytes });
    const status = await host.commit();
    if (status !== Status.OK) undoShrink(host, before, status, recorded);
    layer.resize(sizeBytes);
    cutFile(layer, sizeBytes);
  } finally {
    changes.release();
  }
}

function recordedMap({ layer, metadata }: ResizeHost): LayerMap {
  const record = metadata.state.layers.get(layer.id);
  assert(record, 'the top is in the log');
  return record.map;
}

/**
 * The record could not be made durable: the volume keeps its size, and the log learns again what it dropped. `recorded`: the map that
 * it had. At once, for what was durable must not wait for a flush: any commit takes the shrinking along.
 */
function undoShrink(host: ResizeHost, before: number, status: number, recorded: LayerMap): never {
  const { layer, metadata } = host;
  layer.sizeBytes = before;
  host.refuseIfFailed();
  const first = metadata.state.sizeBytes / BLOCK_BYTES;
  const end = before / BLOCK_BYTES;
  metadata.append({ kind: 'resized', sizeBytes: before });
  const map = recordedMap(host).clone();
  for (let block = first; block < end;) {
    const next = recorded.runEnd(block, end);
    map.set(block, next - block, recorded.stateOf(block));
    block = next;
  }
  const cut = new BlockSet(end);
  cut.add(first, end - first);
  for (const record of recordsOfMap(layer.id, map, cut)) metadata.append(record);
  layer.forgetRecords(first);
  // The mirrors' bits past the cut went with the fold: too many bits are safe, too few are not.
  markForMirrors(metadata, first, layer.map.blockCount - first);
  throw writeError(layer.file.path, status);
}

function markForMirrors(metadata: Metadata, first: number, count: number): void {
  for (const mirror of metadata.state.mirrors.keys()) {
    metadata.append({ kind: 'mirror-bits-run', mirror, set: 'dirty', first, count, value: true });
  }
}

function setFileSize(layer: Layer, sizeBytes: number): void {
  try {
    layer.file.truncateNow(sizeBytes);
  } catch (thrown) {
    throw writeError(layer.file.path, errnoOf(thrown));
  }
}

/** The new size is durable already: a file that is still too long is cut before it grows, or at the next open. */
function cutFile(layer: Layer, sizeBytes: number): void {
  try {
    layer.file.truncateNow(sizeBytes);
  } catch {
    // Only its space is not given back yet.
  }
}

/** Zeroes whole blocks, in pieces. Throws METADATA_WRITE_FAILED. */
async function zeroContainer({ file }: Layer, from: number, end: number): Promise<void> {
  let mayPunch = true;
  for (let at = from; at < end;) {
    const most = mayPunch ? ZERO_PUNCH_BYTES_MAX : ZERO_WRITE_BYTES_MAX;
    const [position, length] = [at, Math.min(most, end - at)];
    const status = await new Promise<number>((resolve) => {
      if (mayPunch) file.punchHole(position, length, resolve);
      else file.write(ZEROES, 0, length, position, resolve);
    });
    if (mayPunch && status === -Status.ENOTSUP) mayPunch = false;
    else if (status < 0) throw writeError(file.path, -status);
    else at += length;
  }
}
