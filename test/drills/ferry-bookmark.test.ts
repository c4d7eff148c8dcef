/**
 * A delta run that is cut short by the death of either side goes on where it was: what it had marked as durable on the mirror
 * is not sent again. Here it is the initial copy, over a slow link, and more than half of it is there when the node dies.
 */
import { expect, test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { FERRY_TEST, FerryRig, MIB, VOLUME } from './ferry-rig.ts';

const SIZE = 256 * MIB;
const BEFORE_KILL_BYTES = 160 * MIB;
const SLOW_BYTES = 80 * MIB;
/** A run is marked every 64 MiB; what was sent since, and what the link holds, goes again. */
const AGAIN_BYTES_MAX = (64 + 32) * MIB;

test.for(['alpha', 'beta'] as const)('%s is killed in a run', FERRY_TEST, async (name, context) => {
  requireTools(context, 'fio', 'nbdcopy');
  const rig = await FerryRig.create(testScope(), { sizeBytes: SIZE, lanes: 2 });
  await rig.fill(0, SIZE);
  rig.link.throttle(SLOW_BYTES);
  await rig.addMirrors();
  await waitUntil('most of the copy', () => rig.link.bytesToTarget > BEFORE_KILL_BYTES, {
    timeoutMs: 30_000,
    everyMs: 5,
  });
  await rig[name].kill();
  const before = rig.link.bytesToTarget;
  rig.link.throttle(null);
  await rig[name].start();
  expect((await rig.alpha.mirror(VOLUME)).state).not.toBe('streaming');
  await rig.settle();
  await rig.expectEqual();
  const after = rig.link.bytesToTarget - before;
  expect(before).toBeLessThan(SIZE);
  expect(before + after).toBeLessThanOrEqual(SIZE + AGAIN_BYTES_MAX);
});
