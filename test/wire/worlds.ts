/** The servers that recorded conversations are held with. Everything in them is fixed. */
import { FakeWorld } from '../nbd/support/fake-world.ts';
import { MapContext } from '../nbd/support/memory-device.ts';

/**
 * `vol0`, "a disk", of 128 MiB, of which the first 64 KiB are there: the first KiB counts 00 01 .. fa
 * again and again, the rest is zero.
 */
export const disk = async (): Promise<FakeWorld> => {
  const world = await FakeWorld.create(64 * 1024);
  const { device } = world;
  for (let at = 0; at < 1024; at++) device.content[at] = at % 251;
  device.sizeBytes = 128 * 1024 * 1024;
  device.description = 'a disk';
  return world;
};

/**
 * The same with holes: 4 KiB of data, a hole up to 32 KiB, zeroes with their space up to 36 KiB, then a hole;
 * and a context of its own, `x-test:half`, 7 in the second half.
 */
export const sparseDisk = async (): Promise<FakeWorld> => {
  const world = await disk();
  world.device.allocation.map = (offset) => {
    if (offset < 4096) return { end: 4096, flags: 0 };
    if (offset < 32768) return { end: 32768, flags: 3 };
    return offset < 36864 ? { end: 36864, flags: 2 } : { end: Infinity, flags: 3 };
  };
  const half = 64 * 1024 * 1024;
  world.device.otherContexts.push(
    new MapContext('x-test:half', (offset) =>
      offset < half ? { end: half, flags: 0 } : { end: Infinity, flags: 7 },
    ),
  );
  return world;
};

/** The same, read-only. */
export const readOnlyDisk = async (): Promise<FakeWorld> => {
  const world = await disk();
  world.device.readOnly = true;
  return world;
};

/** The same, and what the device answers instead of doing anything. */
export const failingDisk = (errno: number) => async (): Promise<FakeWorld> => {
  const world = await disk();
  for (const operation of ['read', 'write', 'zero', 'trim', 'flush'] as const) {
    world.device.failures.set(operation, errno);
  }
  return world;
};

/** The same under TLS: connections in memory play the handshake of TLS when they are told to. */
export const tlsDisk = (mode: 'allowed' | 'required') => async (): Promise<FakeWorld> => {
  const world = await disk();
  world.server.setTls({ mode, context: { kind: 'tls-server-context' } });
  return world;
};
