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
import type { SnapshotInfo } from './snapshot-types.ts';
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
      for (const snapshots of all) snapshots.refuseName(name);
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
}

/** The callers hold each volume's lock, and have seen to it that the name is free. */
export async function freeze(
  all: readonly Snapshots[],
  { name, replaced = null, atInstant = nothing }: Freezing,
): Promise<SnapshotInfo[]> {
  for (const snapshots of all) snapshots.host.refuseIfFailed();
  for (const snapshots of all) await snapshots.settle();
  const frozen = await takeInstant(all, atInstant);
  const infos: SnapshotInfo[] = [];
  try {
    for (const [index, snapshots] of all.entries()) {
      const part = frozen[index];
      if (part !== undefined) infos.push(await snapshots.keep(part, name, replaced));
    }
  } catch (thrown) {
    for (const { host } of all) host.changes.rearm();
    for (const [index, { id }] of infos.entries()) await all[index]?.giveUp(id);
    throw thrown;
  }
  return infos;
}

/** A content, and the layer that holds it. */
export interface Frozen {
  readonly layer: Layer;
  readonly sizeBytes: number;
  readonly createdAt: number;
}

/** The layers that hold the content of all volumes at one instant, under new tops where that is needed. */
async function takeInstant(all: readonly Snapshots[], atInstant: () => void): Promise<Frozen[]> {
  const tops: (Layer | null)[] = all.map(() => null);
  for (;;) {
    const failure = await announceMissing(all, tops);
    const frozen = await splitAll(all, tops, failure === null ? atInstant : null);
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
    if (tops[index] !== null || snapshots.isUnchanged) continue;
    try {
      const { layer, status } = await snapshots.announceTop();
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
 * volume that needed no new top was written meanwhile. Without `atInstant` what was announced is shown, and that is all.
 */
async function splitAll(
  all: readonly Snapshots[],
  tops: readonly (Layer | null)[],
  atInstant: (() => void) | null,
): Promise<Frozen[] | null> {
  const held: Changes[] = [];
  try {
    for (const { host } of all) {
      host.changes.hold();
      held.push(host.changes);
    }
    for (const { host } of all) await host.until(() => host.changes.running === 0);
    const isReady = all.every((snapshots, index) => tops[index] !== null || snapshots.isUnchanged);
    if (!isReady && atInstant !== null) return null;
    atInstant?.();
    return all.map((snapshots, index) => {
      const { sizeBytes } = snapshots.host.layers.top;
      const createdAt = Math.floor(snapshots.host.clock.wall());
      const top = tops[index] ?? null;
      const layer =
        atInstant === null && top === null ? snapshots.host.layers.top : snapshots.split(top);
      return { layer, sizeBytes, createdAt };
    });
  } finally {
    for (const changes of held) changes.release();
  }
}

function nothing(): void {}
