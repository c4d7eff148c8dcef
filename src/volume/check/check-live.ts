/**
 * A volume that is in use, under a check. Nothing is written.
 *
 * Invariants:
 * - Only what stands still is judged: the durable part of the log, the tree as it is in one turn, sealed layers that no
 *   merge works on, and of the layer that takes writes what no change under way touches.
 * - What would be a fault in a layer that takes writes is looked at once more in a single turn: file, map and the list of
 *   changes agree there.
 * - Files are pinned while they are read, and the event loop is never held for longer than one bounded piece.
 */
import type { Disk, DiskFile } from '../../io/disk.ts';
import { WOULD_BLOCK } from '../../io/disk.ts';
import { BlockferryError } from '../../io/errors.ts';
import { BLOCK_BYTES, CHECK_READ_BYTES, CHECK_STEPS_PER_TURN } from '../../io/limits.ts';
import { checkLiveContainer } from './check-container.ts';
import { Places, checkContent, fileRuns, writtenRuns } from './check-extents.ts';
import type { BlockRange, CheckTools } from './check-extents.ts';
import { atFile, finding } from './check-finding.ts';
import type { Finding } from './check-finding.ts';
import { checkLength, mergingLayers } from './check-layers.ts';
import { gapFinding, walkLog } from './check-log.ts';
import { checkState, overlapsOf } from './check-tree.ts';
import type { Layer } from '../layers/layer.ts';
import { LOG_NAME } from '../log/metadata.ts';
import { readFileHeader } from '../log/metadata-log.ts';
import { hasBelow } from '../log/metadata-state.ts';
import type { LayerRecord } from '../log/metadata-state.ts';
import { layerPath } from '../recovery.ts';
import type { Volume } from '../volume.ts';

export interface LiveCheck {
  readonly disk: Disk;
  readonly volume: Volume;
  /** The volume was closed: the check ends at once. */
  readonly gone: () => boolean;
}

/** Times that a place with a change under way is looked at again, one a turn. Then it is left to the next check. */
const LOOKS_MAX = 256;

/** Throws VOLUME_NOT_FOUND when the volume is closed meanwhile, and what the disk throws. */
export async function checkLiveVolume({ disk, volume, gone }: LiveCheck): Promise<Finding[]> {
  const tools: CheckTools = {
    buffer: Buffer.alloc(CHECK_READ_BYTES),
    async turn() {
      await new Promise<void>((resolve) => volume.clock.soon(resolve));
      if (gone()) {
        throw new BlockferryError('VOLUME_NOT_FOUND', `the volume ${volume.name} was closed`);
      }
    },
  };
  const { directory } = volume;
  const findings: Finding[] = [];
  if (volume.failed) {
    const what = `it refuses writes: ${volume.failure ?? ''}`;
    findings.push(finding('volume-failed', atFile(directory), what));
  }
  findings.push(...(await checkLiveLog(disk, volume, `${directory}/${LOG_NAME}`, tools)));
  // The tree, and the files that it needs: in one turn.
  const { state } = volume.metadata;
  const logPath = `${directory}/${LOG_NAME}`;
  findings.push(...checkState(state, { directory, logPath, snapshotOffsets: new Map() }));
  const names = new Set(disk.list(directory));
  for (const { id, map, place } of state.layers.values()) {
    if (place !== null) continue;
    const file = layerPath(directory, id);
    if (names.has(file.slice(directory.length + 1))) continue;
    const what = `the file of layer ${id} is not there: ${map.data.count} blocks of data, until the volume is closed`;
    findings.push(finding('layer-file-missing', atFile(file), what));
  }
  // They come and go meanwhile.
  for (const layer of Array.from(volume.layers.all())) {
    layer.pin();
    try {
      findings.push(...(await checkLiveLayer(disk, volume, layer, tools)));
    } finally {
      layer.unpin();
    }
    await tools.turn();
  }
  // A volume in use is not repaired.
  return findings.map((found) => ({ ...found, repair: null }));
}

/** The records of the durable part, which does not change while it is read. */
async function checkLiveLog(
  disk: Disk,
  volume: Volume,
  path: string,
  tools: CheckTools,
): Promise<Finding[]> {
  const file = disk.open(path, { create: false });
  try {
    // In the turn in which the file was opened: a new log may take its place in the next one.
    const bytes = Buffer.alloc(volume.metadata.durableBytes);
    const read = await readWhole(file, bytes, tools);
    if (read < bytes.length) {
      const what =
        read < 0
          ? `it could not be read (errno ${-read})`
          : `it has ${read} bytes; ${bytes.length} were durable`;
      return [finding(read < 0 ? 'unreadable' : 'log-corrupt', atFile(path), what)];
    }
    return await walkLive(bytes, path, tools);
  } finally {
    file.closeNow();
  }
}

/** Bytes read until the end of the file or of `bytes`, or a negative errno. */
async function readWhole(file: DiskFile, bytes: Buffer, tools: CheckTools): Promise<number> {
  let done = 0;
  while (done < bytes.length) {
    const start = done;
    const length = Math.min(CHECK_READ_BYTES, bytes.length - start);
    const count = await new Promise<number>((resolve) =>
      file.read(bytes, start, length, start, resolve),
    );
    if (count < 0) return count;
    if (count === 0) return done;
    done += count;
    await tools.turn();
  }
  return done;
}

async function walkLive(bytes: Buffer, path: string, tools: CheckTools): Promise<Finding[]> {
  let header: ReturnType<typeof readFileHeader>;
  try {
    header = readFileHeader(bytes, path);
  } catch (thrown) {
    if (!(thrown instanceof BlockferryError)) throw thrown;
    return [finding('log-header-bad', atFile(path), thrown.message)];
  }
  const findings: Finding[] = [];
  let steps = 0;
  let turnAt = CHECK_READ_BYTES;
  for (const step of walkLog(bytes, header)) {
    steps += 1;
    if (step.kind === 'gap') findings.push(gapFinding(path, step, null));
    const passed = step.kind === 'record' && step.record.end > turnAt;
    if (step.kind !== 'pause' && !passed && steps % CHECK_STEPS_PER_TURN !== 0) continue;
    if (step.kind === 'record') turnAt = step.record.end + CHECK_READ_BYTES;
    await tools.turn();
  }
  return findings;
}

async function checkLiveLayer(
  disk: Disk,
  volume: Volume,
  layer: Layer,
  tools: CheckTools,
): Promise<Finding[]> {
  const { state } = volume.metadata;
  const record = state.layers.get(layer.id);
  // It went while others were looked at.
  if (record === undefined) return [];
  if (layer.container !== null) return checkLiveContainer(layer.container, record.map);
  if (layer === volume.layer) {
    const short = checkLength(layer.file, record, false).filter(
      // A file that is longer is on its way to another size.
      ({ severity }) => severity === 'fault',
    );
    return disk.knowsExtents && !hasBelow(state, record)
      ? [...short, ...(await checkTop(volume, layer, tools))]
      : short;
  }
  // What is being sealed is judged next time.
  if (!layer.sealed) return [];
  return checkSealed(disk, volume, { layer, record }, tools);
}

/** A sealed layer; nothing is said of one that a merge changes, or may have begun to, or that takes writes again. */
async function checkSealed(
  disk: Disk,
  volume: Volume,
  { layer, record }: { layer: Layer; record: LayerRecord },
  tools: CheckTools,
): Promise<Finding[]> {
  const { state } = volume.metadata;
  const { file } = layer;
  const stands = (): boolean =>
    state.layers.get(layer.id) === record && record.sealed && !mergingLayers(state).has(layer.id);
  if (!stands()) return [];
  const blocks = record.map.data.count;
  const findings = checkLength(file, record, true);
  for (const found of overlapsOf(record, file.path)) {
    if (found === null) await tools.turn();
    else findings.push(found);
  }
  if (disk.knowsExtents) {
    findings.push(...(await checkContent(file, record.map, 'unused', tools)));
  }
  return stands() && record.map.data.count === blocks ? findings : [];
}

/** Data in the file of the layer that takes writes which is not in its map, nor on its way there. */
async function checkTop(volume: Volume, layer: Layer, tools: CheckTools): Promise<Finding[]> {
  const text = 'is in no map, and nothing is being written there';
  const places = new Places('data-outside-map', layer.file.path, text);
  const pieceBlocks = CHECK_READ_BYTES / BLOCK_BYTES;
  for (const run of fileRuns(layer.file, layer.map)) {
    if (run === null) await tools.turn();
    else if (!run.mapped) {
      const end = run.first + run.count;
      for (let first = run.first; first < end; first += pieceBlocks) {
        const piece = { first, count: Math.min(pieceBlocks, end - first) };
        for (const block of await strangeBlocks(volume, layer, piece, tools)) {
          places.add({ first: block, count: 1 });
        }
      }
    }
    // Another layer took its place: this one will be sealed.
    if (layer !== volume.layer) break;
  }
  return places.findings();
}

/** Blocks of `piece` that hold data which nobody knows, all of it seen in one turn. */
async function strangeBlocks(
  volume: Volume,
  layer: Layer,
  piece: BlockRange,
  tools: CheckTools,
): Promise<number[]> {
  const { buffer } = tools;
  const offset = piece.first * BLOCK_BYTES;
  const length = piece.count * BLOCK_BYTES;
  for (let look = 0; look < LOOKS_MAX; look += 1) {
    await tools.turn();
    if (layer !== volume.layer || offset + length > layer.sizeBytes) return [];
    if (volume.changes.overlap(offset, offset + length)) continue;
    const read = layer.file.readNow(buffer, 0, length, offset);
    if (read === WOULD_BLOCK || (read >= 0 && read < length)) {
      // Brings it into memory for the next look.
      await new Promise((resolve) => layer.file.read(buffer, 0, length, offset, resolve));
      continue;
    }
    if (read < 0) return [];
    const blocks: number[] = [];
    for (const { first, count } of writtenRuns(buffer.subarray(0, length))) {
      for (let block = piece.first + first; block < piece.first + first + count; block += 1) {
        if (!layer.map.data.has(block)) blocks.push(block);
      }
    }
    return blocks;
  }
  return [];
}
