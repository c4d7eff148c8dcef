/**
 * How epochs follow each other to the mirror: the next is written while the last is being flushed, but not past
 * a FLUSH or FUA of the host; a slow flush costs memory nothing, and what it may lose is marked.
 */
import { describe, expect, it } from 'vitest';
import { EPOCH_AGE_MS } from '../../src/io/limits.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { stamped } from './support/host.ts';
import type { MirrorDevice } from './support/mirror-device.ts';
import { MIB, Rig } from './support/rig.ts';

const pause = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

/** Flushes are kept, everything else is answered. */
function holdFlushes(device: MirrorDevice): void {
  device.holds = ({ operation }) => operation === 'flush';
}

describe('epochs on their way', () => {
  it('are written while the one before is flushed', async () => {
    const rig = await Rig.create(testScope());
    const { device } = await rig.mirrored();
    holdFlushes(device);
    await rig.write(0, stamped(4096, 1));
    await waitUntil('the flush', () => device.heldCount === 1);
    await rig.write(8192, stamped(4096, 2));
    await waitUntil('the second epoch', () => device.image.usedPages().length === 2);
    expect(device.heldCount).toBe(1);
    expect(rig.status().lag_seconds).toBeGreaterThanOrEqual(0);
    device.holds = null;
    device.resume();
    await rig.until('the mirror to have it', ({ staged_bytes }) => staged_bytes === 0);
  });

  it.each(['FLUSH', 'FUA', 'FLUSH when nothing is open'])(
    'are not written past a %s',
    async (kind) => {
      const rig = await Rig.create(testScope());
      const mirror = await rig.mirrored();
      const { device } = mirror;
      holdFlushes(device);
      await rig.write(0, stamped(4096, 1), { fua: kind === 'FUA' });
      if (kind.endsWith('open')) await waitUntil('the flush', () => device.heldCount === 1);
      if (kind !== 'FUA') await rig.flush();
      await rig.write(8192, stamped(4096, 2));
      await waitUntil('the flush', () => device.heldCount === 1);
      await pause(5 * EPOCH_AGE_MS);
      expect(device.image.usedPages()).toEqual([0]);
      device.holds = null;
      device.resume();
      await rig.equal(mirror);
    },
  );

  it('are not written past a FLUSH that came while they were written', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirrored();
    const { device } = mirror;
    // The first epoch closes by its age and is on its way when the host flushes.
    device.holds = () => true;
    await rig.write(0, stamped(4096, 1));
    await waitUntil('the first epoch', () => device.heldCount === 1);
    await rig.flush();
    await rig.write(8192, stamped(4096, 2));
    await pause(3 * EPOCH_AGE_MS);
    holdFlushes(device);
    device.resume();
    await waitUntil('the flush', () => device.heldCount === 1);
    await pause(3 * EPOCH_AGE_MS);
    expect(device.image.usedPages()).toEqual([0]);
    device.holds = null;
    device.resume();
    await rig.equal(mirror);
  });

  it('are let go of when the mirror answered them, and marked until it flushed', async () => {
    const rig = await Rig.create(testScope(), { stagingBytes: 4 * MIB });
    const mirror = await rig.mirrored();
    const { device } = mirror;
    holdFlushes(device);
    for (let at = 0; at < 32 * MIB; at += 256 * 1024) {
      await rig.write(at, stamped(256 * 1024, at));
      // As fast as the mirror takes it, but for the flush.
      await rig.until('room', ({ staged_bytes }) => staged_bytes < 3 * MIB);
      if (rig.status().staged_bytes > MIB) await pause(10);
    }
    expect(rig.kinds()).not.toContain('mirror-delta');
    expect(rig.status().dirty_bytes).toBeGreaterThan(16 * MIB);
    expect(rig.status().staged_bytes).toBeLessThan(4 * MIB);
    // A power cut now takes what was not flushed; all of it is marked or staged.
    mirror.powerCut(() => false);
    await rig.equal(mirror);
    expect(rig.status().delta_bytes_sent).toBe(32 * MIB);
  });

  it('have no marks left when the flush came', async () => {
    const rig = await Rig.create(testScope(), { stagingBytes: 4 * MIB });
    const mirror = await rig.mirrored();
    const { device } = mirror;
    holdFlushes(device);
    for (let at = 0; at < 8 * MIB; at += 65_536) {
      await rig.write(at, stamped(65_536, at));
      if (rig.status().staged_bytes > MIB) await pause(10);
    }
    await rig.until('marks', ({ dirty_bytes }) => dirty_bytes > 0);
    device.holds = null;
    device.resume();
    await rig.equal(mirror);
    expect(rig.kinds()).not.toContain('mirror-delta');
    const again = await rig.restart();
    expect(again.status()).toMatchObject({ dirty_bytes: 0, suspect_bytes: 0 });
  });
});
