/**
 * A device that was closed while its volume stays open, as when the volume becomes a mirror of another one: whatever its clients had
 * asked for is over, and changes nothing behind the close. Method: changes that wait for a mirror's answer, for a record of the log and
 * for their turn, a large one in the middle; then the maps and the content are looked at again.
 */
import { expect, test } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import { DeviceRequest } from '../../src/io/device.ts';
import { testScope } from '../support/tools.ts';
import { BlankDisk } from '../volume/support/blank-disk.ts';
import { answered, read } from '../volume/support/request.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';

const GIB = 1024 * MIB;
const ESHUTDOWN = 108;
const BLOCK = 4096;

class BareRequest extends DeviceRequest {
  override retain(): void {
    // It has no bytes.
  }
}

/** Lets whatever is under way come to its end. */
async function aWhile(): Promise<void> {
  for (let turns = 0; turns < 50; turns += 1) {
    await new Promise<void>((resolve) => systemClock.soon(resolve));
  }
}

test('changes that wait until a mirror was asked are answered, and not applied', async () => {
  const rig = await Rig.create(testScope());
  const { metadata } = rig.volume;
  metadata.append({ kind: 'fenced', reason: 'beta went on' });
  expect(await rig.volume.commit()).toBe(0);
  const { device, volume, host } = await rig.restart();
  const written = host.write(0, Buffer.alloc(BLOCK, 1));
  const flushed = host.flush();
  await device.close();
  expect(await Promise.all([written, flushed])).toEqual([ESHUTDOWN, ESHUTDOWN]);
  expect(await host.write(BLOCK, Buffer.alloc(BLOCK, 2))).toBe(ESHUTDOWN);
  expect(await read(volume, 0, 2 * BLOCK)).toEqual(Buffer.alloc(2 * BLOCK));
});

test('changes whose regions are being recorded are answered, and not applied later', async () => {
  const rig = await Rig.create(testScope());
  await rig.mirrored();
  const { device, volume, host } = rig;
  const { metadata } = volume;
  const commit = metadata.commit.bind(metadata);
  const recorded = new Promise<() => void>((resolve) => {
    metadata.commit = (callback) => {
      metadata.commit = commit;
      commit((status) => resolve(() => callback(status)));
    };
  });
  const written = host.write(0, Buffer.alloc(BLOCK, 7));
  await device.close();
  (await recorded)();
  expect(await written).toBe(ESHUTDOWN);
  expect(await read(volume, 0, BLOCK)).toEqual(Buffer.alloc(BLOCK));
});

test('a large zeroing ends with the part that is under way', async () => {
  const rig = await Rig.create(testScope(), { disk: new BlankDisk(), sizeBytes: 8 * GIB });
  await rig.mirrored();
  const { device, volume } = rig;
  volume.layer.markData(0, 8 * GIB);
  const request = Object.assign(new BareRequest(), { offset: 0, length: 8 * GIB });
  const zeroed = answered(request as never, (asked) => device.zero(asked));
  await device.close();
  const data = volume.allocatedBytes;
  expect(data).toBeGreaterThan(0);
  await aWhile();
  expect(volume.allocatedBytes).toBe(data);
  expect(await zeroed).toBe(ESHUTDOWN);
});

test('what a comparison found while it was closed is neither recorded nor sent', async () => {
  const scope = testScope();
  const rig = await Rig.create(scope, { sizeBytes: 16 * MIB });
  const mirror = await PeerMirror.start(scope, { sizeBytes: 16 * MIB });
  await rig.addPeer(mirror);
  await rig.inStep();
  await rig.write(0, Buffer.alloc(BLOCK, 3));
  await rig.inStep();
  const { device, volume } = rig;
  mirror.secondary.volume.layer.markHole(0, BLOCK);
  // All answers are there, and the repair comes behind the close.
  const closing = { begun: null as Promise<void> | null };
  const discard = volume.snapshots.discard.bind(volume.snapshots);
  volume.snapshots.discard = (name, records) => {
    if (name.startsWith('.verify-')) closing.begun = device.close();
    return discard(name, records);
  };
  await expect(device.verifyMirror(mirror.uri, { repair: true })).rejects.toMatchObject({
    code: 'SHUTTING_DOWN',
  });
  await closing.begun;
  expect(volume.metadata.state.mirrors.get(1)?.dirty.count).toBe(0);
  const seen = mirror.events.length;
  await aWhile();
  expect(mirror.events.length).toBe(seen);
});
