/**
 * A volume that took writes becomes the mirror of the copy that goes on.
 *
 * Invariants:
 * - What it held stays, whole, under a name that operators see: that snapshot is durable before anything else changes.
 * - It holds nothing whole of the line that goes on until its new primary has brought it in step: it has no position.
 * - When it is known what it changed since it parted from that line, that is marked, and its history is what both have. Else it has
 *   no history, and everything is compared.
 * - One commit makes it a secondary. Until then it is what it was; from then on only its new primary writes to it.
 */
import assert from 'node:assert';
import { Status } from '../../io/device.ts';
import { BLOCK_BYTES, BLOCKS_PER_REGION, GENERATIONS_MAX } from '../../io/limits.ts';
import type { CopyPosition, SnapshotRecord } from '../../volume/log/metadata-state.ts';
import type { MetadataRecord } from '../../volume/log/records.ts';
import type { SnapshotMark } from '../../volume/volume-state.ts';
import type { Volume } from '../../volume/volume.ts';
import { forkOf } from '../failover/fork.ts';
import { bytesOf } from '../failover/rejoin.ts';
import { refusal } from './epoch-intake.ts';
import { releaseJournal } from './kept-journal.ts';

/** What a volume that takes writes has in common with the node that goes on. */
export interface CommonGround {
  /** What both held; null: that is not known, and everything is compared. */
  readonly position: CopyPosition | null;
  /** Bytes of the blocks that may differ from it here. */
  readonly bytes: number;
}

/**
 * `node`: whose volume it becomes a mirror of. `snapshot`: the name for what it holds. Nobody uses it, and nothing replicates it.
 * @throws BlockferryError SNAPSHOT_EXISTS, SNAPSHOT_LIMIT, VOLUME_FAILED, METADATA_WRITE_FAILED
 */
export async function becomeSecondary(
  volume: Volume,
  node: string,
  snapshot: string,
): Promise<CommonGround> {
  const { metadata, snapshots } = volume;
  const { state } = metadata;
  assert(state.source === null, 'it took writes');
  // The journal is used again.
  await releaseJournal(volume);
  await snapshots.create(snapshot);
  const common = markedSince(volume, node) ?? markedByFork(volume, node);
  const hot = [...state.hot];
  if (hot.length > 0) metadata.append({ kind: 'regions-cold', regions: hot });
  for (const mirror of state.mirrors.keys()) {
    if (mirror !== common?.mirror) metadata.append({ kind: 'mirror-removed', mirror });
  }
  const generations = state.generations.filter(
    ({ number }) => number <= (common?.position.generation ?? 0),
  );
  metadata.append({ kind: 'history-set', generations });
  for (const record of unmarked(volume)) metadata.append(record);
  metadata.append({ kind: 'source-bound', node, volumeId: null });
  if (common !== null) {
    metadata.append({ kind: 'rejoining', mirror: common.mirror, ...common.position });
  }
  const marks = common === null ? undefined : state.mirrors.get(common.mirror);
  const bytes = marks === undefined ? volume.sizeBytes : bytesOf([marks.dirty, marks.suspect]);
  const status = await volume.commit();
  if (status !== Status.OK) throw refusal(volume.name, status);
  // What was frozen for its mirrors. What a full disk keeps from being deleted only takes space.
  for (const name of snapshots.hidden) await snapshots.discard(name).catch(() => {});
  return { position: common?.position ?? null, bytes };
}

/**
 * The mirror has taken over: this volume holds the very position that it went on from, and is its mirror from now on. `time`: wall-clock
 * milliseconds. @throws BlockferryError METADATA_WRITE_FAILED
 */
export async function followNewPrimary(volume: Volume, node: string, time: number): Promise<void> {
  const { metadata, snapshots } = volume;
  const { state } = metadata;
  const { handover, generation, generations } = state;
  assert(state.source === null && handover !== null, 'it was handed over');
  await releaseJournal(volume);
  const { epoch, id } = handover;
  const hot = [...state.hot];
  if (hot.length > 0) metadata.append({ kind: 'regions-cold', regions: hot });
  for (const mirror of state.mirrors.keys()) metadata.append({ kind: 'mirror-removed', mirror });
  const opened = { number: generation + 1, id, firstEpoch: epoch + 1 };
  metadata.append({
    kind: 'history-set',
    generations: [...generations, opened].slice(-GENERATIONS_MAX),
  });
  metadata.append({ kind: 'source-bound', node, volumeId: null });
  metadata.append({ kind: 'position', generation, epoch, time });
  const status = await volume.commit();
  if (status !== Status.OK) throw refusal(volume.name, status);
  for (const name of snapshots.hidden) await snapshots.discard(name).catch(() => {});
}

/**
 * A secondary follows another node from now on, with what it holds: that it goes on from there is decided when that node is met. Nothing
 * is on its way to it. `keptAs`: a name for what it holds, which it gives up: then it has no history, everything is compared, and its
 * snapshots are its own and of no known epoch, for the new primary may never have had them. Returns whether there was something to keep.
 * @throws BlockferryError SNAPSHOT_EXISTS, SNAPSHOT_LIMIT, VOLUME_FAILED, METADATA_WRITE_FAILED
 */
export async function followAnother(
  volume: Volume,
  node: string,
  keptAs: string | null,
): Promise<boolean> {
  const { metadata, snapshots } = volume;
  const { source, generations, position } = metadata.state;
  assert(source !== null && metadata.state.run === null, 'a secondary, and all of it is whole');
  if (keptAs !== null && position !== null) await snapshots.create(keptAs);
  const marks = marksOf(volume);
  if (keptAs !== null) {
    metadata.append({ kind: 'history-set', generations: [] });
    for (const record of unmarked(volume)) metadata.append(record);
  }
  metadata.append({ kind: 'source-bound', node, volumeId: null });
  const status = await volume.commit();
  if (status === Status.OK) return keptAs !== null && position !== null;
  metadata.append({ kind: 'source-bound', ...source });
  if (keptAs !== null) {
    metadata.append({ kind: 'history-set', generations });
    if (position !== null) metadata.append({ kind: 'position', ...position });
    for (const record of markedAgain(volume, marks)) metadata.append(record);
  }
  throw refusal(volume.name, status);
}

/**
 * A mark names a generation by its number, which the line that goes on may have used for another one: of what was taken in one that
 * the history has no more, nothing says what epoch's end it is. Snapshots keep their order.
 */
function* unmarked({ metadata }: Volume): Generator<MetadataRecord> {
  const { generations, snapshots } = metadata.state;
  const isKnown = ({ mark }: SnapshotRecord): boolean =>
    mark === undefined || generations.some(({ number }) => number === mark.generation);
  const all = [...snapshots.values()];
  const first = all.findIndex((snapshot) => !isKnown(snapshot));
  for (const snapshot of first < 0 ? [] : all.slice(first)) {
    const { mark: _, ...bare } = snapshot;
    yield { kind: 'snapshot-removed', id: snapshot.id };
    yield { kind: 'snapshot-created', ...(isKnown(snapshot) ? snapshot : bare) };
  }
}

function marksOf({ metadata }: Volume): Map<string, SnapshotMark> {
  const marks = new Map<string, SnapshotMark>();
  for (const { id, mark } of metadata.state.snapshots.values()) {
    if (mark !== undefined) marks.set(id, mark);
  }
  return marks;
}

/** What `unmarked` took away, for the log had no space for it. Snapshots keep their order. */
function* markedAgain(
  { metadata }: Volume,
  marks: ReadonlyMap<string, SnapshotMark>,
): Generator<MetadataRecord> {
  const all = [...metadata.state.snapshots.values()];
  const first = all.findIndex(({ id }) => marks.has(id));
  for (const snapshot of first < 0 ? [] : all.slice(first)) {
    const mark = marks.get(snapshot.id);
    yield { kind: 'snapshot-removed', id: snapshot.id };
    yield { kind: 'snapshot-created', ...snapshot, ...(mark === undefined ? {} : { mark }) };
  }
}

interface Marks {
  /** The mirror entry that has them. */
  readonly mirror: number;
  /** Outside of them the volume holds what its line held then. */
  readonly position: CopyPosition;
}

/** The node was a mirror of this volume: what it lacks is marked, as it always was. Null: it was none. */
function markedSince({ metadata }: Volume, node: string): Marks | null {
  const { state } = metadata;
  for (const { id, peer, acknowledged } of state.mirrors.values()) {
    if (peer?.node !== node || acknowledged === null) continue;
    const blockCount = state.sizeBytes / BLOCK_BYTES;
    for (const region of state.hot) {
      const first = region * BLOCKS_PER_REGION;
      const count = Math.min(BLOCKS_PER_REGION, blockCount - first);
      metadata.append(runOf(id, 'suspect', first, count));
    }
    return { mirror: id, position: { ...acknowledged } };
  }
  return null;
}

/** This volume was a mirror of that node, and was promoted: what changed since is told by the layers. */
function markedByFork(volume: Volume, node: string): Marks | null {
  const fork = forkOf(volume);
  if (fork === null) return null;
  const { metadata, snapshots, sizeBytes } = volume;
  const mirror = metadata.state.nextMirrorId;
  const options = { mode: 'async', stallPolicy: 'degrade' } as const;
  metadata.append({ kind: 'mirror-added', mirror, uri: node, ...options });
  for (const { offset, length } of snapshots.changed(fork.snapshot, null)) {
    const end = Math.min(offset + length, sizeBytes);
    if (end <= offset) continue;
    metadata.append(runOf(mirror, 'dirty', offset / BLOCK_BYTES, (end - offset) / BLOCK_BYTES));
  }
  return { mirror, position: fork.position };
}

function runOf(
  mirror: number,
  set: 'dirty' | 'suspect',
  first: number,
  count: number,
): MetadataRecord {
  return { kind: 'mirror-bits-run', mirror, set, first, count, value: true };
}
