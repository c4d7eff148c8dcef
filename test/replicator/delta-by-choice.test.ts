/**
 * Mirrors that are sent delta runs by choice: on demand, each so often, or when the host is quiet. Between runs they hold what the
 * volume held at one moment, whatever the host writes; and they can be made to follow every write again. Method: the real
 * replicator, mirrors on another node and on a plain server over real sockets.
 */
import { describe, expect, it } from 'vitest';
import type { Schedule } from '../../src/replicator/policy/schedule.ts';
import { testScope } from '../support/tools.ts';
import { stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';
import type { SparseImage } from './support/sparse-image.ts';

const SIZE = 16 * MIB;
const ON_DEMAND: Schedule = { kind: 'on-demand' };

interface Far {
  readonly uri: string;
  differences(expected: SparseImage): Promise<number[]> | number[];
}

async function pair(kind: 'blockferry' | 'nbd', schedule: Schedule) {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: SIZE });
  await rig.write(0, stamped(MIB, 1));
  let far: Far;
  if (kind === 'blockferry') far = await PeerMirror.start(scope, { sizeBytes: SIZE });
  else {
    const { uri, device } = await rig.mirror();
    far = { uri, differences: (expected) => expected.differences(device.image) };
  }
  const { uri } = far;
  await rig.device.addMirror({ uri, mode: 'async', stallPolicy: 'degrade', policy: { schedule } });
  await rested(rig);
  return { rig, far };
}

/** So many runs are over. */
const rested = (rig: Rig, runs = 1): Promise<unknown> =>
  rig.until('the end of the run', ({ state }) => {
    return (
      state === 'delta' && rig.kinds().filter((kind) => kind === 'mirror-rested').length >= runs
    );
  });

describe.each(['blockferry', 'nbd'] as const)('a mirror of kind %s with a schedule', (kind) => {
  it('holds what the last run brought, until another is asked for', async () => {
    const { rig, far } = await pair(kind, ON_DEMAND);
    expect(rig.status()).toMatchObject({ delta: 'on-demand', consistent: true, dirty_bytes: 0 });
    expect(rig.status().lag_seconds).toBe(0);
    expect(await far.differences(rig.expected)).toEqual([]);
    const before = rig.expected.clone();
    await rig.write(4 * MIB, stamped(8192, 2));
    await rig.flush();
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(rig.status()).toMatchObject({ state: 'delta', consistent: true, dirty_bytes: 8192 });
    expect(rig.status().lag_seconds).toBeGreaterThan(0);
    expect(await far.differences(before)).toEqual([]);
    await rig.device.syncMirror(far.uri);
    await rested(rig, 2);
    expect(rig.status()).toMatchObject({ consistent: true, dirty_bytes: 0 });
    expect(await far.differences(rig.expected)).toEqual([]);
    expect(rig.kinds()).not.toContain('mirror-streaming');
  });

  it('follows every write again when it is told to, and has runs again', async () => {
    const { rig, far } = await pair(kind, ON_DEMAND);
    await rig.write(4 * MIB, stamped(8192, 3));
    await rig.device.setMirror(far.uri, { schedule: { kind: 'stream' } });
    await rig.inStep();
    expect(rig.status().delta).toBeNull();
    await rig.device.setMirror(far.uri, { schedule: ON_DEMAND });
    expect(rig.status()).toMatchObject({ state: 'delta', delta: 'on-demand' });
    await rig.write(5 * MIB, stamped(8192, 4));
    expect(rig.status().dirty_bytes).toBe(8192);
    await rig.device.syncMirror(far.uri);
    await rested(rig, 3);
    expect(await far.differences(rig.expected)).toEqual([]);
  });

  it('stays at its last run over a restart, and has a run each so often', async () => {
    const { rig, far } = await pair(kind, ON_DEMAND);
    const { last_run_at: at } = rig.status();
    await rig.write(4 * MIB, stamped(8192, 5));
    const next = await rig.restart();
    await next.until('contact', ({ state }) => state === 'delta');
    expect(next.status()).toMatchObject({ delta: 'on-demand', last_run_at: at });
    expect(next.status().dirty_bytes).toBe(8192);
    expect(next.kinds()).not.toContain('mirror-shipping');
    await next.device.setMirror(far.uri, { schedule: { kind: 'every', intervalMs: 1000 } });
    await next.until('a run', ({ dirty_bytes, state }) => dirty_bytes === 0 && state === 'delta');
    await next.write(5 * MIB, stamped(8192, 6));
    await next.until('a run', ({ dirty_bytes, state }) => dirty_bytes === 0 && state === 'delta');
    expect(await far.differences(next.expected)).toEqual([]);
  });

  it('takes up a run that its link was lost in', async () => {
    const { rig, far } = await pair(kind, ON_DEMAND);
    await rig.device.pauseMirror(far.uri);
    await rig.write(4 * MIB, stamped(MIB, 7));
    await rig.device.resumeMirror(far.uri);
    await rested(rig, 2);
    await rig.device.limitMirror(far.uri, 1);
    await rig.device.syncMirror(far.uri);
    await rig.until('the run', ({ state }) => state === 'shipping');
    await rig.device.pauseMirror(far.uri);
    await rig.device.limitMirror(far.uri, null);
    await rig.device.resumeMirror(far.uri);
    await rested(rig, 3);
    expect(await far.differences(rig.expected)).toEqual([]);
  });
});

describe('a delta run by choice', () => {
  it('brings another node one moment, and leaves what is written meanwhile to the next', async () => {
    const { rig, far } = await pair('blockferry', ON_DEMAND);
    await rig.write(4 * MIB, stamped(2 * MIB, 8));
    await rig.device.limitMirror(far.uri, MIB);
    await rig.device.syncMirror(far.uri);
    // The moment is behind it when something was sent.
    const { bytes_sent: first } = rig.status();
    await rig.until('the run', ({ bytes_sent: sent }) => sent > first);
    expect(rig.status().state).toBe('shipping');
    const { last_run_at: before } = rig.status();
    const moment = rig.expected.clone();
    await rig.write(8 * MIB, stamped(8192, 9));
    await rig.write(4 * MIB, stamped(8192, 10));
    await rig.device.limitMirror(far.uri, null);
    await rested(rig, 2);
    expect(await far.differences(moment)).toEqual([]);
    expect(rig.status()).toMatchObject({ consistent: true, dirty_bytes: 16_384, staged_bytes: 0 });
    expect(Date.parse(rig.status().last_run_at ?? '')).toBeGreaterThan(Date.parse(before ?? ''));
  });
});

describe('a schedule', () => {
  it('is not for a synchronous mirror, and a run on demand not for one that follows', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    const { uri } = await rig.mirror();
    const sync = { uri, mode: 'sync' as const, stallPolicy: 'block' as const };
    const refused = rig.device.addMirror({ ...sync, policy: { schedule: ON_DEMAND } });
    await expect(refused).rejects.toThrow('a synchronous mirror follows every write');
    await rig.device.addMirror(sync);
    await rig.inStep();
    const set = rig.device.setMirror(uri, { schedule: ON_DEMAND });
    await expect(set).rejects.toThrow('a synchronous mirror follows every write');
    await expect(rig.device.syncMirror(uri)).rejects.toThrow('follows every write');
    expect(rig.status()).toMatchObject({ state: 'streaming', delta: null });
  });
});
