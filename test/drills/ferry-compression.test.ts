/**
 * What goes over a link that is slower than the compressor is compressed when it shrinks: by what is measured, and not on a
 * fast link, nor where it does not help. Method: two real nodes with a throttled proxy between them; the proxy counts the
 * bytes, and both exports are compared in the end.
 */
import { describe, expect, test } from 'vitest';
import { run } from '../support/process.ts';
import { testScope } from '../support/tools.ts';
import { endLoad, FERRY_TEST, FerryRig, MIB, VOLUME } from './ferry-rig.ts';

const SIZE = 64 * MIB;
const FILLED = 40 * MIB;

/** Fills part of alpha's volume; of each block so many percent shrink to nothing. */
async function fill(rig: FerryRig, percent: number): Promise<void> {
  const words =
    '--name=fill --ioengine=nbd --thread --rw=write --bs=256k --iodepth=8 --refill_buffers --end_fsync=1';
  const shrinks = [`--buffer_compress_percentage=${percent}`, '--buffer_compress_chunk=4096'];
  const where = [`--uri=${rig.alpha.uri(VOLUME)}`, `--size=${FILLED}`];
  await run('fio', [...words.split(' '), ...(percent === 0 ? [] : shrinks), ...where]);
}

describe('a delta run', () => {
  test('of what shrinks takes less than its bytes on a slow link', FERRY_TEST, async () => {
    const rig = await FerryRig.create(testScope(), { sizeBytes: SIZE });
    await fill(rig, 80);
    rig.link.throttle(6 * MIB);
    await rig.addMirrors();
    const seen = await rig.waitMirror('it to compress', ({ compression }) => compression.active);
    expect(seen.compression.mode).toBe('auto');
    expect(seen.compression.ratio).toBeLessThan(0.5);
    const { compression } = await rig.settle();
    expect(compression.bytes_out / compression.bytes_in).toBeLessThan(0.4);
    expect(rig.link.bytesToTarget).toBeLessThan(FILLED * 0.8);
    await rig.expectEqual();
  });

  test('of what does not shrink is sent as it is', FERRY_TEST, async () => {
    const rig = await FerryRig.create(testScope(), { sizeBytes: SIZE });
    await fill(rig, 0);
    rig.link.throttle(10 * MIB);
    await rig.addMirrors();
    const { compression } = await rig.settle();
    expect(compression).toMatchObject({ active: false, bytes_in: 0 });
    expect(rig.link.bytesToTarget).toBeGreaterThan(FILLED);
    await rig.expectEqual();
  });

  test('over a fast link is sent as it is', FERRY_TEST, async () => {
    const rig = await FerryRig.create(testScope(), { sizeBytes: SIZE });
    await fill(rig, 80);
    await rig.addMirrors();
    const { compression } = await rig.settle();
    expect(compression).toMatchObject({ active: false, bytes_in: 0 });
    await rig.expectEqual();
  });
});

test(
  'is compressed while the host writes, over two lanes, and not when it stopped',
  FERRY_TEST,
  async () => {
    const rig = await FerryRig.inStep(testScope(), { sizeBytes: SIZE, lanes: 2 });
    rig.link.throttle(4 * MIB);
    const shrinks = ['--buffer_compress_percentage=80', '--buffer_compress_chunk=4096'];
    const load = rig.load(['--bs=256k', '--rate_iops=80', '--fsync=0', ...shrinks]);
    const seen = await rig.waitMirror('it to compress', ({ compression }) => compression.active);
    expect(seen.compression.ratio).toBeLessThan(0.5);
    await endLoad(load);
    rig.link.throttle(null);
    const { compression } = await rig.settle();
    expect(compression.bytes_out / compression.bytes_in).toBeLessThan(0.5);
    await rig.expectEqual();
    await rig.waitMirror('it to be calm', (mirror) => !mirror.compression.active);
  },
);
