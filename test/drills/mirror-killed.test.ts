/**
 * The mirror dies without notice while its primary is under load. The load does not notice; when the
 * mirror is back, both sides become equal without a command, and the delta run sends little more than the
 * blocks that changed.
 */
import { expect, test } from 'vitest';
import { blocksTouched } from '../../scripts/drill/request-log.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { awaitLoad, BLOCK_BYTES, CRASH_TEST, endLoad, MIB, Rig, VOLUME } from './rig.ts';

test.for(['async', 'sync'] as const)(
  '%s: kill -9 of the mirror',
  CRASH_TEST,
  async (mode, context) => {
    requireTools(context, 'fio', 'nbdcopy');
    const rig = await Rig.create(testScope(), { sizeBytes: 128 * MIB, mode });
    const load = rig.load();
    await awaitLoad(rig, load, 2000);
    const before = await rig.waitMirror('streaming under load', (mirror) => mirror.consistent);
    const killed = rig.log.lastEvent;
    await rig.beta.kill();
    await rig.waitMirror(
      'the loss to be noticed',
      (mirror) => mirror.state !== 'streaming',
      15_000,
    );
    await awaitLoad(rig, load, 5000);
    await endLoad(load);

    const away = await rig.alpha.mirror(VOLUME);
    await rig.beta.start();
    const after = await rig.settle();
    await rig.expectEqual();

    // What was on its way when the mirror died may have to be sent again, whatever became of it.
    const changed = blocksTouched(rig.recorded(), killed, Infinity).size * BLOCK_BYTES;
    const sent = after.delta_bytes_sent - before.delta_bytes_sent;
    expect(sent).toBeGreaterThan(changed / 2);
    expect(sent).toBeLessThanOrEqual(1.1 * (changed + before.staged_bytes));
    expect(away.last_error).not.toBeNull();
  },
);
