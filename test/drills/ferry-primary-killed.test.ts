/**
 * The primary is killed under load, alone or together with the mirror, and started again: both sides are equal without a
 * command. Only the regions that were being written are compared, and only what differs is sent. What the mirror shows
 * meanwhile is one state that the volume really had.
 */
import { expect, test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep, waitUntil } from '../support/wait.ts';
import { awaitRounds, FERRY_TEST, FerryRig, MIB } from './ferry-rig.ts';

const SIZE = 96 * MIB;
const REGION_BYTES = 4 * MIB;
/** The rounds and fio write here. Behind them and what is activated ahead of them all is full, and cold. */
const AREA = { blocks: 31, spread: MIB };
const BUSY_BYTES = 32 * MIB;
/** Longer than a region stays active without writes (src/io/limits.ts), with room to spare. */
const COOL_MS = 7_000;
/** Regions that become active ahead of a writer that walks through the volume (src/volume/activity-log.ts). */
const AHEAD_BYTES = 8 * REGION_BYTES;
/** What of the writes can differ: epochs that were on their way, and what fio had in flight. */
const DIFFERING_BYTES_MAX = 8 * MIB;

const CASES = [
  { killed: ['alpha'], lanes: 1, mode: 'async' },
  { killed: ['alpha', 'beta'], lanes: 4, mode: 'sync' },
] as const;

test.for(CASES)(
  'kill -9 of $killed, $mode',
  FERRY_TEST,
  async ({ killed, lanes, mode }, context) => {
    requireTools(context, 'fio', 'nbdcopy', 'python3-libnbd');
    const rig = await FerryRig.inStep(testScope(), { sizeBytes: SIZE, lanes, mode });
    await rig.fill(BUSY_BYTES, SIZE);
    await rig.settle();
    await sleep(COOL_MS);

    const rounds = rig.rounds(AREA, 1);
    const load = rig.load([
      `--size=${BUSY_BYTES}`,
      '--offset=4k',
      '--blockalign=1m',
      '--bs=64k',
      '--rate_iops=300',
    ]);
    await awaitRounds(rounds, 20);
    await Promise.all(killed.map((name) => rig[name].kill()));
    await Promise.all([rounds.waitForExit(20_000), load.waitForExit(20_000)]);
    rig.link.cut();
    if (killed.length > 1) await rig.beta.start();
    await waitUntil('beta to show what it has', () => rig.applied());
    expect(await rig.writesShown(AREA)).toBeGreaterThan(0);

    rig.link.restore();
    await rig.alpha.start();
    const mirror = await rig.settle();
    await rig.expectEqual();
    expect(mirror.bytes_compared).toBeGreaterThan(0);
    expect(mirror.bytes_compared).toBeLessThanOrEqual(BUSY_BYTES + AHEAD_BYTES);
    expect(mirror.delta_bytes_sent).toBeLessThanOrEqual(DIFFERING_BYTES_MAX);
  },
);
