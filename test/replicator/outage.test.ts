/**
 * A mirror goes away and comes back: what the host writes meanwhile becomes marks, a delta run sends exactly
 * the marked blocks, and the mirror is in the stream again without a command.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { seeded, stamped } from './support/host.ts';
import { MIB, Rig } from './support/rig.ts';

describe('a mirror that was away', () => {
  it('gets the blocks that changed, and no more', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 128 * MIB });
    for (let at = 0; at < 32 * MIB; at += MIB) await rig.write(at, stamped(MIB, at / MIB));
    const mirror = await rig.mirrored();
    const sentBefore = rig.status().delta_bytes_sent;
    mirror.leave();
    await rig.until('the loss to be seen', ({ state }) => state === 'delta');
    const random = seeded(7);
    const changed = new Set<number>();
    for (let index = 0; index < 500; index += 1) {
      const block = Math.floor(random() * 8192);
      await rig.write(block * 4096, stamped(4096, 5000 + index));
      changed.add(block);
    }
    expect(rig.status()).toMatchObject({ dirty_bytes: changed.size * 4096, suspect_bytes: 0 });
    mirror.comeBack();
    await rig.equal(mirror);
    expect(rig.status().delta_bytes_sent - sentBefore).toBe(changed.size * 4096);
    expect(rig.status().bytes_compared).toBe(0);
    const transitions = rig.kinds().filter((kind) => kind !== 'mirror-error');
    expect(transitions.slice(-3)).toEqual(['mirror-delta', 'mirror-shipping', 'mirror-streaming']);
  });

  it('gets what was staged and unanswered when it went', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirrored();
    mirror.device.stall();
    for (let index = 0; index < 100; index += 1)
      await rig.write(index * 8192, stamped(4096, index));
    await rig.until('something to be staged', ({ staged_bytes }) => staged_bytes === 100 * 4096);
    mirror.powerCut(() => false);
    await rig.equal(mirror);
    expect(rig.status().delta_bytes_sent).toBe(100 * 4096);
  });

  it('is told apart from a mirror that has everything: nothing is sent when nothing changed', async () => {
    const rig = await Rig.create(testScope());
    await rig.write(0, stamped(MIB, 1));
    const mirror = await rig.mirrored();
    const asked = mirror.device.asked.length;
    mirror.cut();
    await rig.until('the loss to be seen', ({ state }) => state === 'delta');
    await rig.equal(mirror);
    const after = mirror.device.asked.slice(asked);
    expect(after.filter(({ operation }) => operation !== 'flush')).toEqual([]);
    expect(rig.status().consistent).toBe(true);
  });

  it('converges through cuts at any moment', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 96 * MIB });
    const mirror = await rig.mirrored();
    mirror.device.shuffleAnswers(seeded(12));
    const random = seeded(11);
    for (let round = 0; round < 25; round += 1) {
      for (let index = 0; index < 40; index += 1) {
        const offset = Math.floor(random() * (96 * 256 - 16)) * 4096;
        await rig.write(
          offset,
          stamped((1 + Math.floor(random() * 16)) * 4096, round * 100 + index),
        );
        if (random() < 0.1) await new Promise((resolve) => setTimeout(resolve, random() * 10));
      }
      mirror.cut();
    }
    await rig.equal(mirror);
  });

  it('shows a lag while it is behind and none when it is not', async () => {
    const rig = await Rig.create(testScope());
    const mirror = await rig.mirrored();
    // A second mirror seals an epoch that the first one need not care for.
    const other = await rig.mirror();
    await rig.addMirror(other);
    await rig.inStep(other);
    await rig.inStep(mirror);
    expect(rig.status(mirror).lag_seconds).toBe(0);
    expect(rig.status(mirror).position).toEqual(rig.device.position());
    mirror.leave();
    await rig.until('the loss to be seen', ({ state }) => state === 'delta', mirror);
    await rig.write(0, stamped(4096, 1));
    await rig.until('a lag', ({ lag_seconds }) => lag_seconds > 0 && lag_seconds < 30, mirror);
    mirror.comeBack();
    await rig.equal(mirror);
    await rig.equal(other);
  });
});
