/**
 * A mirror that cannot keep up leaves the stream before the staging queue is full, the host goes on at its own
 * speed, and a delta run brings the mirror back. Other mirrors are not affected.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { sleep, waitUntil } from '../support/wait.ts';
import { stamped } from './support/host.ts';
import { MIB, Rig } from './support/rig.ts';

const STAGING = 4 * MIB;
/** Between two writes of a mebibyte. */
const PACE_MS = 40;

describe('a mirror that is outrun', () => {
  it('leaves the stream, and comes back by itself', async () => {
    const rig = await Rig.create(testScope(), { stagingBytes: STAGING });
    const mirror = await rig.mirrored();
    mirror.device.stall();
    let staged = 0;
    for (let at = 0; at < 16 * MIB; at += 65_536) {
      await rig.write(at, stamped(65_536, at));
      staged = Math.max(staged, rig.status().staged_bytes);
    }
    expect(staged).toBeGreaterThan(STAGING / 2);
    expect(staged).toBeLessThanOrEqual(STAGING);
    expect(rig.status()).toMatchObject({ state: 'delta', staged_bytes: 0, dirty_bytes: 16 * MIB });
    mirror.device.resume();
    await rig.equal(mirror);
    expect(rig.status().delta_bytes_sent).toBe(16 * MIB);
    expect(rig.kinds()).not.toContain('mirror-error');
  });

  it('takes no other mirror with it', async () => {
    const rig = await Rig.create(testScope(), { stagingBytes: STAGING });
    const slow = await rig.mirrored();
    const quick = await rig.mirror();
    await rig.addMirror(quick);
    await rig.inStep(quick);
    slow.device.stall();
    // A block and its zeroing cannot share an epoch: many epochs, few bytes.
    for (let index = 0; index < 4200; index += 1) {
      if (index % 2 === 0) await rig.write(0, stamped(4096, index));
      else await rig.zero(0, 4096);
      if (index % 64 === 0) await rig.inStep(quick);
    }
    expect(rig.status(slow).state).toBe('delta');
    expect(rig.status(quick).state).toBe('streaming');
    expect(rig.kinds().filter((kind) => kind === 'mirror-delta')).toHaveLength(1);
    slow.device.resume();
    await rig.equal(slow);
    await rig.equal(quick);
  });

  it('gives up only the staging of the last sweep when it is outrun in a delta run', async () => {
    const rig = await Rig.create(testScope(), { stagingBytes: STAGING });
    await rig.write(0, stamped(MIB, 1));
    const mirror = await rig.mirror();
    const { device } = mirror;
    device.onAsked = ({ operation }) => operation === 'write' && device.stall();
    await rig.addMirror(mirror);
    await waitUntil('the run to be under way', () => device.heldCount > 0);
    for (let at = 0; at < 8 * MIB; at += 65_536) await rig.write(at, stamped(65_536, at));
    expect(rig.kinds()).toContain('mirror-outrun');
    expect(rig.status().state).toBe('shipping');
    device.onAsked = null;
    device.resume();
    await rig.equal(mirror);
    expect(rig.kinds()).not.toContain('mirror-delta');
  });

  it('leaves the stream while the queue is far from full when a delta run sends less', async () => {
    const rig = await Rig.create(testScope(), {});
    const mirror = await rig.mirrored();
    mirror.device.stall();
    // Each flush ends an epoch, so the same blocks are staged again and again; not so fast that the rate is a cause as well.
    for (let round = 0; round < 70; round += 1) {
      await rig.write(0, stamped(MIB, round));
      void rig.flush();
      await sleep(PACE_MS);
    }
    expect(rig.status()).toMatchObject({ state: 'streaming' });
    await rig.until('the redundancy to be seen', ({ state }) => state === 'delta');
    expect(rig.status()).toMatchObject({ staged_bytes: 0, dirty_bytes: MIB });
    expect(rig.status().last_error).toContain('a delta run sends less');
    mirror.device.resume();
    await rig.equal(mirror);
    expect(rig.status().delta_bytes_sent).toBeLessThanOrEqual(2 * MIB);
  });
});
