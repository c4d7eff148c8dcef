/**
 * A mirror that left the stream for a schedule, and whose link ended before its last requests were answered: what is told of them
 * later is of a link that is over, and no run begins there. Method: the real replicator, and a mirror on a plain server over real
 * sockets that holds its answers.
 */
import { describe, expect, it } from 'vitest';
import { REPLICATOR_TICK_MS } from '../../src/io/limits.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { stamped } from './support/host.ts';
import { MIB, Rig } from './support/rig.ts';

describe('a mirror that rests', () => {
  it('has its next run on the link that is there, not on the one that was answered last', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 16 * MIB });
    const mirror = await rig.mirrored();
    const { device } = mirror;
    device.holds = ({ operation }) => operation === 'write';
    await rig.write(MIB, stamped(4096, 1));
    await waitUntil('the write there', () => device.heldCount > 0);
    await rig.device.setMirror(mirror.uri, { schedule: { kind: 'on-demand' } });
    const resync = rig.device.resyncMirror(mirror.uri);
    // The next contact takes longer than the next look at the schedule.
    mirror.keepWaiting();
    device.holds = null;
    device.resume();
    await resync;
    await waitUntil('the next contact', () => mirror.waitingCount > 0);
    await new Promise((resolve) => setTimeout(resolve, 2 * REPLICATOR_TICK_MS));
    mirror.letIn();
    await rig.until(
      'the run',
      ({ state, suspect_bytes }) => state === 'delta' && suspect_bytes === 0,
    );
    expect(rig.expected.differences(device.image)).toEqual([]);
  });
});
