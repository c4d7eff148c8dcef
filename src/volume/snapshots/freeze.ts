/**
 * Snapshots of one or more volumes at one instant.
 *
 * Invariants:
 * - The content changes hands between two turns in which nothing is on its way to the top layers, and no volume is written
 *   between the first and the last of them.
 * - What is durable of a new top comes before a write to it; what was announced is shown, also when something else failed.
 */
import { Status } from '../../io/device.ts';
import type { Changes } from '../changes.ts';
import type { Layer } from '../layers/layer.ts';
import { writeError } from '../log/metadata.ts';
import type { SnapshotRecord } from '../log/metadata-state.ts';
import type { MetadataRecord } from '../log/records.ts';
import { isHidden } from '../names.ts';
import type { SnapshotMark } from '../volume-state.ts';
import type { SnapshotInfo, Twin } from './snapshot-types.ts';
import type { Snapshots } from './snapshots.ts';

/** One snapshot of the present content of each volume, all at one instant. */
export function createTogether(
  volumes: readonly { readonly snapshots: Snapshots }[],
  name: string,
): Promise<SnapshotInfo[]> {
  const all = volumes.map(({ snapshots }) => snapshots);
  // Always in the same order, so that two of these do not wait for each other.
  const inOrder = all.toSorted((one, other) =>
    one.host.metadata.state.id < other.host.metadata.state.id ? -1 : 1,
  );
  const lockFrom = (index: number): Promise<SnapshotInfo[]> => {
    const next = inOrder[index];
    if (next === undefined) {
      for (const snapshots of all) snapshots.catalog.refuseName(name);
      return freeze(all, { name });
    }
    return next.host.exclusive(() => lockFrom(index + 1));
  };
  return lockFrom(0);
}

export interface Freezing {
  readonly name: string;
  /** The snapshot of that name, which takes the new content. */
  readonly replaced?: SnapshotRecord | null;
  /** Runs once, in the turn of the instant: what was applied before it is in the snapshot, and was answered. */
  readonly atInstant?: () => void;
  /** It is the same as that one on another node: nobody else hears of it. */
  readonly twin?: { readonly twin: Twin; readonly mark: SnapshotMark } | null;
  /** Recorded with it. */
  readonly records?: readonly MetadataRecord[];
}

/** The callers hold each volume's lock, and have seen to it that the name is free. */
export async function freeze(
  all: readonly Snapshots[],
  freezing: Freezing,
): Promise<SnapshotInfo[]> {
  for (const snapshots of all) snapshots.host.refuseIfFailed();
  for (const snapshots of all) await snapshots.steps.settle();
  const frozen = await takeInstant(all, freezing);
  const infos: SnapshotInfo[] = [];
  try {
    for (const [index, snapshots] of all.entries()) {
      const part = frozen[index];
      if (part !== undefined) infos.push(await snapshots.steps.keep(part, freezing));
    }
  } catch (thrown) {
    for (const { host } of all) host.changes.rearm();
    for (const [index, { id, witnessed }] of frozen.entries()) {
      if (witnessed) all[index]?.witness?.removed(id);
    }
    for (const [index, { id }] of infos.entries()) await all[index]?.steps.giveUp(id);
    throw thrown;
  }
  return infos;
}

/** A content, and the layer that holds it. */
export interface Frozen {
  readonly layer: Layer;
  readonly sizeBytes: number;
  readonly createdAt: number;
  readonly id: string;
  readonly mark: SnapshotMark | null;
  /** Others know of it already. */
  readonly witnessed: boolean;
}

/** The layers that hold the content of all volumes at one instant, under new tops where that is needed. */
async function takeInstant(all: readonly Snapshots[], freezing: Freezing): Promise<Frozen[]> {
  const tops: (Layer | null)[] = all.map(() => null);
  for (;;) {
    const failure = await announceMissing(all, tops);
    const frozen = await splitAll(all, tops, failure === null ? freezing : null);
    if (failure !== null) throw failure;
    if (frozen !== null) return frozen;
  }
}

/** Announces a top for each volume that changed since its last one and has none yet; answers what went wrong first. */
async function announceMissing(
  all: readonly Snapshots[],
  tops: (Layer | null)[],
): Promise<Error | null> {
  for (const [index, snapshots] of all.entries()) {
    if (tops[index] !== null || snapshots.steps.isUnchanged) continue;
    try {
      const { layer, status } = await snapshots.steps.announceTop();
      tops[index] = layer;
      if (status === Status.OK) continue;
      snapshots.host.changes.rearm();
      return writeError(layer.file.path, status);
    } catch (thrown) {
      return thrown as Error;
    }
  }
  return null;
}

/**
 * The instant: every volume's changes are held, none is on its way, and all tops are changed in one turn. Null when a
 * volume that needed no new top was written meanwhile. Without `freezing` what was announced is shown, and that is all.
 */
async function splitAll(
  all: readonly Snapshots[],
  tops: readonly (Layer | null)[],
  freezing: Freezing | null,
): Promise<Frozen[] | null> {
  const held: Changes[] = [];
  try {
    for (const { host } of all) {
      host.changes.hold();
      held.push(host.changes);
    }
    for (const { host } of all) await host.until(() => host.changes.running === 0);
    const isReady = all.every(
      (snapshots, index) => tops[index] !== null || snapshots.steps.isUnchanged,
    );
    if (!isReady && freezing !== null) return null;
    freezing?.atInstant?.();
    return all.map((snapshots, index) => splitOne(snapshots, tops[index] ?? null, freezing));
  } finally {
    for (const changes of held) changes.release();
  }
}

function splitOne(snapshots: Snapshots, top: Layer | null, freezing: Freezing | null): Frozen {
  const { layers, clock } = snapshots.host;
  const { sizeBytes } = layers.top;
  const wall = Math.floor(clock.wall());
  const named =
    freezing === null
      ? { id: '', createdAt: wall, mark: null, witnessed: false }
      : nameOf(snapshots, freezing, wall);
  const layer = freezing === null && top === null ? layers.top : snapshots.steps.split(top);
  return { layer, sizeBytes, ...named };
}

/** What the content is known by, here and wherever it is kept the same. */
function nameOf(
  snapshots: Snapshots,
  { name, twin = null, replaced = null }: Freezing,
  wall: number,
): Pick<Frozen, 'id' | 'createdAt' | 'mark' | 'witnessed'> {
  if (twin !== null) {
    const { id, createdAt } = twin.twin;
    return { id, createdAt, mark: twin.mark, witnessed: false };
  }
  const id = snapshots.steps.newId();
  const { witness } = snapshots;
  if (witness === null || isHidden(name)) {
    return { id, createdAt: wall, mark: null, witnessed: false };
  }
  const position = witness.taken({ id, name, createdAt: wall }, replaced?.id ?? null);
  return { id, createdAt: wall, mark: { ...position, shipped: false }, witnessed: true };
}
