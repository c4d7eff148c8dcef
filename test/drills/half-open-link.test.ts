/**
 * The link to the mirror goes silent without an end: no byte comes, no connection closes. The primary
 * finds out within a bounded time, under load and idle, and goes on meanwhile; when the link is back, both
 * sides become equal without a command.
 */
import { expect, test } from 'vitest';
import { requireTools, testScope } from '../support/tools.ts';
import { awaitLoad, CRASH_TEST, endLoad, MIB, Rig } from './rig.ts';

/** Replies may take 10 s and an idle link is probed every 2 s (src/io/limits.ts); the rest is room. */
const NOTICE_MS_MAX = 15_000;

test('under load', CRASH_TEST, async (context) => {
  requireTools(context, 'fio', 'nbdcopy');
  const rig = await Rig.create(testScope(), { sizeBytes: 64 * MIB });
  const load = rig.load(['--rate_iops=300']);
  await awaitLoad(rig, load, 500);
  rig.link.halfOpen();
  const lost = await rig.waitMirror(
    'the silence to be noticed',
    (mirror) => mirror.state !== 'streaming',
    NOTICE_MS_MAX,
  );
  await awaitLoad(rig, load, 500);
  rig.link.restore();
  await endLoad(load);
  await rig.settle();
  await rig.expectEqual();
  expect(lost.last_error).not.toBeNull();
});

test(
  'under load, synchronous: a write waits no longer than the deadline',
  CRASH_TEST,
  async (context) => {
    requireTools(context, 'fio', 'nbdcopy');
    const rig = await Rig.create(testScope(), { sizeBytes: 64 * MIB, mode: 'sync' });
    const load = rig.load(['--rate_iops=300']);
    await awaitLoad(rig, load, 500);
    rig.link.halfOpen();
    const startMs = performance.now();
    await awaitLoad(rig, load, 500);
    expect(performance.now() - startMs).toBeLessThan(NOTICE_MS_MAX);
    rig.link.restore();
    await endLoad(load);
    await rig.settle();
    await rig.expectEqual();
  },
);

test('idle', CRASH_TEST, async (context) => {
  requireTools(context, 'fio', 'nbdcopy');
  const rig = await Rig.create(testScope(), { sizeBytes: 16 * MIB });
  rig.link.halfOpen();
  await rig.waitMirror(
    'the silence to be noticed',
    (mirror) => mirror.state !== 'streaming',
    NOTICE_MS_MAX,
  );
  rig.link.restore();
  await rig.settle();
  await rig.expectEqual();
});
