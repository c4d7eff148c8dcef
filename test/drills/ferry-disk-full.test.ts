/**
 * The disk of a mirror runs full while epochs come: the primary's clients notice nothing, the status says why. Killed or
 * stopped, the mirror starts again though not a byte of its disk is free, and with space again it catches up without a
 * command. Real processes; the disk is an ext4 with blocks of 1 KiB, filled to the last by a file beside the data directory.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fillUp, smallExt4 } from '../support/small-disk.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { FERRY_TEST, FerryRig, MIB } from './ferry-rig.ts';

const SIZE = 32 * MIB;
const DISK = 64 * MIB;

test.for(['kill', 'stop'] as const)(
  'a mirror whose disk is full starts again after a %s, and catches up when there is space',
  FERRY_TEST,
  async (end, context) => {
    requireRoot(context, 'mount -o loop');
    requireTools(context, 'mkfs.ext4', 'losetup', 'fio', 'nbdcopy');
    const scope = testScope();
    const disk = await smallExt4(scope, DISK);
    const rig = await FerryRig.inStep(scope, { sizeBytes: SIZE, betaData: join(disk, 'data') });
    await rig.fill(0, 4 * MIB);
    await rig.settle();

    const early = await fillUp(disk, 'early');
    await rig.fill(0, SIZE);
    await rig.waitMirror(
      'the error',
      ({ last_error }) => last_error?.includes('its disk is full') === true,
    );
    await rig.beta[end]();
    expect(rig.beta.log().includes('"node-stopped"')).toBe(end === 'stop');
    const late = await fillUp(disk, 'late');
    await rig.beta.start();
    expect((await rig.source()).durable_epoch).toBeGreaterThan(0);
    await rig.fill(8 * MIB, 12 * MIB);

    for (const filler of [early, late]) rmSync(filler);
    await rig.settle();
    await rig.expectEqual();
  },
);
