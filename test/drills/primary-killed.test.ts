/**
 * The primary dies without notice under load and is started again: both sides become equal without a
 * command, and only the regions that were active are compared, only what differs is sent.
 */
import { expect, test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep } from '../support/wait.ts';
import { awaitLoad, CRASH_TEST, endLoad, MIB, REGION_BYTES, Rig } from './rig.ts';

/** Longer than a region stays active without writes (src/io/limits.ts), with room to spare. */
const COOL_MS = 8_000;
/** Regions that become active ahead of a writer that walks through the volume (src/volume/activity-log.ts). */
const AHEAD_BYTES = 8 * REGION_BYTES;

test.for(['async', 'sync'] as const)(
  '%s: kill -9 of the primary',
  CRASH_TEST,
  async (mode, context) => {
    requireTools(context, 'fio', 'nbdcopy');
    const rig = await Rig.create(testScope(), { sizeBytes: 192 * MIB, mode });
    // Everything is written once and cools down, so that a copy of it all would be seen below.
    const fill = rig.load(['--bs=256k', '--rw=write', '--numjobs=1', '--rate_iops=0', '--loops=1']);
    await awaitLoad(rig, fill, 800);
    await endLoad(fill);
    await rig.settle();
    await sleep(COOL_MS);

    const area = 32 * MIB;
    const load = rig.load([`--offset=${64 * MIB}`, `--size=${area}`]);
    await awaitLoad(rig, load, 3000);
    await rig.alpha.kill();
    await load.waitForExit(20_000);

    await rig.alpha.start();
    const mirror = await rig.settle();
    await rig.expectEqual();
    expect(mirror.bytes_compared).toBeGreaterThan(0);
    expect(mirror.bytes_compared).toBeLessThanOrEqual(area + AHEAD_BYTES);
    expect(mirror.delta_bytes_sent).toBeLessThanOrEqual(mirror.bytes_compared);
  },
);
