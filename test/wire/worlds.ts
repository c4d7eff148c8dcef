/** The servers that recorded conversations are held with. Everything in them is fixed. */
import { FakeWorld } from '../nbd/support/fake-world.ts';

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
