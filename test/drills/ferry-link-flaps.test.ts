/**
 * The link is cut, stands still and comes back, again and again, under fio that verifies what it wrote. fio meets no error,
 * both sides end equal without a command, and what travels is what was written, and what was on its way at each cut.
 */
import { expect, test } from 'vitest';
import { fio } from '../support/fio.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep } from '../support/wait.ts';
import { FERRY_TEST, FerryRig, MIB, VOLUME } from './ferry-rig.ts';

const SIZE = 64 * MIB;
/** What may be on its way beside what is staged: epochs that close between the look at them and the cut. */
const UNSEEN_BYTES = 8 * MIB;

test.for([1, 4])(
  'fio verifies while the link flaps, %i lanes',
  FERRY_TEST,
  async (lanes, context) => {
    requireTools(context, 'fio', 'nbdcopy');
    const rig = await FerryRig.inStep(testScope(), { sizeBytes: SIZE, lanes });
    const words =
      'rw=randwrite bs=4k-64k iodepth=16 fsync=64 verify=crc32c rate=16m size=64m randrepeat=0';
    const before = rig.link.bytesToTarget;
    const job = { ended: false };
    const report = fio({
      name: 'verify',
      uri: rig.alpha.uri(VOLUME),
      options: words.split(' '),
      timeoutMs: 120_000,
    }).finally(() => {
      job.ended = true;
    });
    let onTheWay = 0;
    const states = new Set<string>();
    for (let flap = 0; !job.ended; flap++) {
      await sleep(300 + Math.random() * 700);
      onTheWay += (await rig.alpha.mirror(VOLUME)).staged_bytes + UNSEEN_BYTES;
      if (flap % 3 === 2) rig.link.halfOpen();
      else rig.link.cut();
      await sleep(Math.random() * 500);
      states.add((await rig.alpha.mirror(VOLUME)).state);
      rig.link.restore();
    }
    const { write } = await report;
    const mirror = await rig.settle();
    await rig.expectEqual();
    expect(mirror.kind).toBe('blockferry');
    expect(write.total_ios).toBeGreaterThan(0);
    expect(rig.link.bytesToTarget - before).toBeLessThanOrEqual(1.05 * SIZE + onTheWay);
    expect(mirror.bytes_sent).toBeGreaterThan(0);
    expect(states.has('delta') || states.has('connecting')).toBe(true);
  },
);
