/**
 * A mirror that is added gets what the volume holds, and nothing for what it does not hold: bytes sent are
 * the allocated bytes, holes and zeroes travel as commands. What was on the mirror before is overwritten.
 * Real store, real sockets; the mirror's disk says what it was asked.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { seeded, stamped } from './support/host.ts';
import { MirrorDevice } from './support/mirror-device.ts';
import { MirrorServer } from './support/mirror-server.ts';
import { MIB, Rig } from './support/rig.ts';

const SIZE = 256 * MIB;

describe('the initial copy', () => {
  it('sends what is allocated and no hole', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    const random = seeded(1);
    for (let index = 0; index < 200; index += 1) {
      const offset = Math.floor(random() * (SIZE / 4096 - 64)) * 4096;
      await rig.write(offset, stamped((1 + Math.floor(random() * 40)) * 4096, index));
    }
    const mirror = await rig.mirrored();
    await rig.equal(mirror);
    expect(rig.status().delta_bytes_sent).toBe(rig.volume.allocatedBytes);
    expect(mirror.device.bytesAsked('write')).toBe(rig.volume.allocatedBytes);
    expect(rig.status()).toMatchObject({ consistent: true, state: 'streaming', last_error: null });
  });

  it('sends an empty volume as a few commands', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: 1024 * MIB });
    const mirror = await rig.mirrored();
    expect(mirror.device.bytesAsked('write')).toBe(0);
    expect(mirror.device.bytesAsked('zero')).toBe(1024 * MIB);
    expect(mirror.device.count('zero')).toBeLessThanOrEqual(16);
  });

  it('sends zeroes that are written as a command', async () => {
    const rig = await Rig.create(testScope());
    await rig.write(0, Buffer.alloc(MIB));
    await rig.write(MIB, stamped(4096, 1));
    const mirror = await rig.mirrored();
    await rig.equal(mirror);
    expect(rig.status().delta_bytes_sent).toBe(4096);
  });

  it('overwrites what the mirror held before', async () => {
    const scope = testScope();
    const rig = await Rig.create(scope);
    await rig.write(5 * MIB, stamped(MIB, 1));
    const device = new MirrorDevice(rig.volume.sizeBytes + MIB);
    for (let at = 0; at < device.sizeBytes; at += MIB) device.image.write(at, stamped(4096, 99));
    const mirror = await MirrorServer.start(scope, device);
    await rig.addMirror(mirror);
    await rig.inStep();
    // Past the end of the volume the mirror keeps what it had.
    expect(Math.max(...device.image.usedPages())).toBe(rig.volume.sizeBytes / 4096);
    device.image.cut(rig.volume.sizeBytes);
    await rig.equal(mirror);
  });

  it('goes on while the host writes everywhere', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
    for (let at = 0; at < SIZE; at += 4 * MIB) await rig.write(at, stamped(MIB, at / MIB));
    const mirror = await rig.mirror();
    mirror.device.shuffleAnswers(seeded(3));
    await rig.addMirror(mirror);
    const random = seeded(2);
    let stamp = 1000;
    while (rig.status().state !== 'streaming') {
      const offset = Math.floor(random() * (SIZE / 4096 - 8)) * 4096;
      await rig.write(offset, stamped((1 + Math.floor(random() * 8)) * 4096, (stamp += 1)));
      // Not faster than the mirror: that is another story (outrun.test.ts).
      if (stamp % 4 === 0) {
        await new Promise((resolve) => {
          setTimeout(resolve, 3);
        });
      }
    }
    await rig.equal(mirror);
    expect(stamp).toBeGreaterThan(1010);
  });
});
