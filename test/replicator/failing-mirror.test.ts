/**
 * A mirror that answers with errors: full disk and space again, reads that fail, flushes that fail, at any
 * step. The host never notices, the mirror is not hammered with attempts, and it converges when it can.
 */
import { describe, expect, it } from 'vitest';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { seeded, stamped } from './support/host.ts';
import { ManualClock } from './support/life.ts';
import type { MirrorServer } from './support/mirror-server.ts';
import { MIB, Rig } from './support/rig.ts';

const ENOSPC = 28;
const EIO = 5;

/** As a thin disk that is full: what has no space yet gets none. */
function fill(mirror: MirrorServer): void {
  const had = new Set(mirror.device.image.usedPages());
  mirror.device.fault = ({ operation, offset, length }) => {
    if (operation !== 'write') return 0;
    for (let at = offset; at < offset + length; at += 4096) if (!had.has(at / 4096)) return ENOSPC;
    return 0;
  };
}

describe('a mirror with a full disk', () => {
  it('converges when it has space again', async () => {
    const rig = await Rig.create(testScope());
    for (let at = 0; at < 8 * MIB; at += MIB) await rig.write(at, stamped(MIB, at / MIB));
    const mirror = await rig.mirrored();
    fill(mirror);
    const random = seeded(1);
    for (let index = 0; index < 300; index += 1) {
      await rig.write(Math.floor(random() * 4096) * 4096, stamped(4096, 100 + index));
      if (index % 30 === 0) await new Promise(setImmediate);
    }
    await rig.until('the error', ({ last_error: error }) => error?.includes('ENOSPC') === true);
    expect(rig.status().state).not.toBe('streaming');
    expect(await rig.differencesHere()).toEqual([]);
    mirror.device.fault = null;
    await rig.equal(mirror);
    expect(rig.status().last_error).toBeNull();
  });

  it('is tried again ever more rarely', async () => {
    const clock = new ManualClock();
    const rig = await Rig.create(testScope(), { clock });
    const mirror = await rig.mirror();
    await rig.write(0, stamped(4096, 1));
    mirror.device.fault = ({ operation }) => (operation === 'write' ? ENOSPC : 0);
    const before = mirror.attempts;
    await rig.addMirror(mirror);
    await clock.advance(60_000, 25);
    // 0.1 + 0.2 + ... + 3.2 s, then every 5 s or so.
    expect(mirror.attempts - before).toBeGreaterThan(10);
    expect(mirror.attempts - before).toBeLessThan(25);
    mirror.device.fault = null;
    await clock.advance(10_000);
    await rig.equal(mirror);
  });

  it('is tried again ever more rarely also when it takes everything but what is streamed', async () => {
    const clock = new ManualClock();
    const rig = await Rig.create(testScope(), { clock });
    const mirror = await rig.mirror();
    await rig.addMirror(mirror);
    await clock.advance(1000);
    await rig.write(0, stamped(4096, 1));
    mirror.device.fault = ({ operation }) => (operation === 'write' ? EIO : 0);
    const before = mirror.attempts;
    for (let second = 0; second < 30; second += 1) {
      await rig.write(second * 8192, stamped(4096, second));
      await clock.advance(1000);
    }
    expect(mirror.attempts - before).toBeLessThan(20);
    mirror.device.fault = null;
    await clock.advance(10_000);
    await rig.equal(mirror);
  });
});

describe('a mirror that fails now and then', () => {
  it.each(['write', 'zero', 'flush', 'read'] as const)(
    'converges after failing a %s',
    async (kind) => {
      const rig = await Rig.create(testScope());
      const mirror = await rig.mirrored();
      const random = seeded(kind.length);
      let seen = 0;
      let failures = 0;
      mirror.device.fault = ({ operation }) => {
        if (operation !== kind) return 0;
        seen += 1;
        if (seen % 4 !== 0) return 0;
        failures += 1;
        return EIO;
      };
      for (let index = 0; index < 150; index += 1) {
        const offset = Math.floor(random() * 16_000) * 4096;
        if (random() < 0.3) await rig.zero(offset, 8192);
        else await rig.write(offset, stamped(8192, index));
        if (index % 25 === 24) {
          await rig.flush();
          await new Promise((resolve) => {
            setTimeout(resolve, 60);
          });
        }
        if (index === 100) await rig.device.resyncMirror(mirror.uri);
      }
      await waitUntil('a failure', () => failures > 0);
      mirror.device.fault = null;
      await rig.equal(mirror);
    },
  );

  it('comes back when the flush fails that it was left with', async () => {
    // Outrun while an epoch is being flushed; then that flush fails, and the link stays.
    const rig = await Rig.create(testScope(), { stagingBytes: 2 * MIB });
    const mirror = await rig.mirrored();
    const { device } = mirror;
    device.onAsked = ({ operation }) => operation === 'flush' && device.stall();
    await rig.write(0, stamped(4096, 1));
    await waitUntil('a flush under way', () => device.heldCount === 1);
    for (let at = 0; at < 4 * MIB; at += 65_536) await rig.write(at, stamped(65_536, at));
    await rig.until('the mirror to be outrun', ({ state }) => state === 'delta');
    const connections = mirror.attempts;
    device.onAsked = null;
    device.fault = ({ operation }) => (operation === 'flush' ? EIO : 0);
    device.resume();
    device.fault = null;
    await rig.equal(mirror);
    expect(mirror.attempts).toBe(connections);
  });

  it('is left alone by a primary that cannot read what it should send', async () => {
    const rig = await Rig.create(testScope());
    await rig.write(0, stamped(MIB, 1));
    const mirror = await rig.mirror();
    const real = rig.volume.readAt.bind(rig.volume);
    rig.volume.readAt = (buffer, start, length, offset, callback) =>
      real(buffer, start, length, offset, () => callback(EIO));
    await rig.addMirror(mirror);
    await rig.until(
      'the error',
      ({ last_error: error }) => error?.includes('volume cannot be') === true,
    );
    expect(mirror.device.count('write')).toBe(0);
    rig.volume.readAt = real;
    await rig.equal(mirror);
  });
});
