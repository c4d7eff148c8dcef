/**
 * Two nodes where their sizes and their pasts are unusual: long holes, copies of what nobody recorded, a mirror that was set
 * back. Method: as in ferry.test.ts, the real replicator and a real secondary in one process; the mirror is read through its
 * export.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { write } from '../volume/support/request.ts';
import { stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';

const SIZE = 300 * MIB;

describe('a mirror that is compared', () => {
  it('tells of data where the volume has a hole longer than any other question', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope, { sizeBytes: SIZE });
    const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE });
    await rig.write(0, stamped(MIB, 1));
    const { volume } = mirror.secondary;
    expect(await write(volume, 0, stamped(MIB, 1))).toBe(0);
    expect(await write(volume, 200 * MIB, stamped(8192, 2))).toBe(0);
    expect(await write(volume, SIZE - 4096, stamped(4096, 3))).toBe(0);
    await rig.addPeer(mirror, { seeded: true });
    await rig.inStep();
    expect(await mirror.differences(rig.expected)).toEqual([]);
    expect(rig.status().delta_bytes_sent).toBeLessThan(64 * 1024);
  });
});
