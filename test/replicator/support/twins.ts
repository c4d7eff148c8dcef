/** Compares the snapshots of a volume with those of its mirror: which there are, and what they hold. */
import { expect } from 'vitest';
import { waitUntil } from '../../support/wait.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import type { SnapshotInfo } from '../../../src/volume/snapshots/snapshot-types.ts';
import { Host } from './host.ts';
import type { PeerMirror } from './peer-mirror.ts';
import { MIB, type Rig } from './rig.ts';

export function snapshotsOf({ snapshots }: Volume): SnapshotInfo[] {
  return snapshots.list().toSorted((one, other) => (one.name < other.name ? -1 : 1));
}

/** Every snapshot of the volume is on the mirror, byte for byte, and no other that came from there. */
export async function expectTwins(rig: Rig, mirror: PeerMirror): Promise<void> {
  const there = mirror.secondary.volume;
  // What is durable there may not be applied yet.
  await waitUntil('the same snapshots', () => {
    expect(snapshotsOf(there)).toEqual(snapshotsOf(rig.volume));
    return true;
  });
  for (const { name } of snapshotsOf(rig.volume)) await expectSame(name, rig.volume, there);
  expect(await mirror.differences(rig.expected)).toEqual([]);
}

async function expectSame(name: string, here: Volume, there: Volume): Promise<void> {
  const [one, other] = [here, there].map(({ snapshots }) => {
    const device = snapshots.device(name);
    if (device === null) throw new Error(`there is no ${name}`);
    return new Host(device);
  });
  for (let at = 0; at < here.sizeBytes; at += MIB) {
    const [expected, found] = [await one!.read(at, MIB), await other!.read(at, MIB)];
    if (!found.equals(expected)) throw new Error(`${name} differs in the MiB at ${at}`);
  }
}
