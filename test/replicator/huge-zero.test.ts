/**
 * Zeroes and trims over gigabytes of a mirrored, fragmented volume hold up nothing else, keep their place among
 * overlapping writes, and reach the mirror. The volume's file holds no bytes, so that what is measured is the work of
 * the volume and the replicator; where order and content count, the volume is a real one.
 */
import { describe, expect, it } from 'vitest';
import { DeviceRequest } from '../../src/io/device.ts';
import { HOT_REGIONS_MAX, REGION_BYTES, ZERO_PART_BYTES } from '../../src/io/limits.ts';
import { longestGap } from '../support/loop-gap.ts';
import { testScope } from '../support/tools.ts';
import { BlankDisk } from '../volume/support/blank-disk.ts';
import { answered } from '../volume/support/request.ts';
import { seeded, stamped } from './support/host.ts';
import { MIB, Rig } from './support/rig.ts';

const GIB = 1024 * MIB;
/** Far above what is aimed at (some milliseconds), for a busy machine; far below what the whole would take. */
const GAP_MS_MAX = 100;

class BareRequest extends DeviceRequest {
  override retain(): void {
    // It has no bytes.
  }
}

function bare(offset: number, length: number, options: Partial<BareRequest> = {}): BareRequest {
  return Object.assign(new BareRequest(), { offset, length, ...options });
}

function trim(rig: Rig, request: BareRequest): Promise<number> {
  return answered(request as never, (asked) => rig.device.trim(asked));
}

function zero(rig: Rig, request: BareRequest): Promise<number> {
  return answered(request as never, (asked) => rig.device.zero(asked));
}

/** Every other block is data that reads as zeroes: the same as on a mirror that has nothing. */
function fragment(rig: Rig, bytes: number): void {
  for (let offset = 0; offset < bytes; offset += 8192) {
    rig.volume.layer.markData(offset, offset + 4096);
  }
}

describe('zeroes over gigabytes of a mirrored volume', () => {
  it.each([
    { what: 'in stream', pause: false },
    { what: 'with its mirror paused', pause: true },
  ])('let others have their turns, $what', async ({ pause }) => {
    const rig = await Rig.create(testScope(), { disk: new BlankDisk(), sizeBytes: 8 * GIB });
    const mirror = await rig.mirrored();
    if (pause) await rig.device.pauseMirror(mirror.uri);
    fragment(rig, 5 * GIB);
    const request = bare(4096 + 100, 6 * GIB, { fua: true });
    let status = -1;
    const gapMs = await longestGap(async () => {
      status = await zero(rig, request);
    });
    expect(status).toBe(0);
    expect([request.offset, request.length, request.fua]).toEqual([4196, 6 * GIB, true]);
    expect(gapMs).toBeLessThan(GAP_MS_MAX);
    if (pause) {
      expect(rig.status().dirty_bytes).toBeGreaterThan(4.9 * GIB);
      await rig.device.resumeMirror(mirror.uri);
    }
    await rig.inStep();
  });

  it('of a large volume that is empty are answered at once and change nothing', async () => {
    const rig = await Rig.create(testScope(), { disk: new BlankDisk(), sizeBytes: 2 ** 40 });
    await rig.mirrored();
    const { epoch } = rig.device.position();
    const gapMs = await longestGap(async () => {
      expect(await trim(rig, bare(0, 2 ** 40))).toBe(0);
      expect(await zero(rig, bare(0, 2 ** 40, { fua: true }))).toBe(0);
    });
    expect(gapMs).toBeLessThan(GAP_MS_MAX);
    expect(rig.device.position().epoch).toBe(epoch);
    expect(rig.volume.metadata.state.hot.size).toBeLessThan(HOT_REGIONS_MAX);
  });

  it('need no more hot regions than there may be', async () => {
    const rig = await Rig.create(testScope(), { disk: new BlankDisk(), sizeBytes: 16 * GIB });
    await rig.mirrored();
    rig.volume.layer.markData(0, 12 * GIB);
    let most = 0;
    const done = trim(rig, bare(0, 16 * GIB));
    const look = setInterval(() => {
      most = Math.max(most, rig.volume.metadata.state.hot.size);
    }, 1);
    expect(await done).toBe(0);
    clearInterval(look);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(HOT_REGIONS_MAX + ZERO_PART_BYTES / REGION_BYTES);
    expect(rig.volume.allocatedBytes).toBe(0);
    await rig.inStep();
  });
});

describe('a zeroing in parts', () => {
  it('comes before the writes that came later, and after those that came before', async () => {
    const rig = await Rig.create(testScope(), { sizeBytes: GIB });
    const mirror = await rig.mirrored();
    const random = seeded(5);
    for (let round = 0; round < 8; round += 1) {
      const pending: Promise<unknown>[] = [];
      const writeSome = (count: number): void => {
        for (let index = 0; index < count; index += 1) {
          const at = Math.floor(random() * (GIB / 4096 - 20)) * 4096 + (random() < 0.3 ? 700 : 0);
          pending.push(rig.write(at, stamped(4096 + Math.floor(random() * 9000), round)));
        }
      };
      writeSome(12);
      rig.expected.zero(1000, GIB - 3000);
      pending.push(zero(rig, bare(1000, GIB - 3000, { noHole: false })));
      writeSome(12);
      await Promise.all(pending);
    }
    await rig.equal(mirror);
  });

  it('that fails ends once, with the error, and lets go of its range', async () => {
    const disk = new BlankDisk();
    const rig = await Rig.create(testScope(), { disk, sizeBytes: 2 * GIB });
    await rig.mirrored();
    rig.volume.layer.markData(0, 2 * GIB);
    disk.pieceStatus = (position) => (position >= GIB ? -5 : 0);
    const failing = zero(rig, bare(0, 2 * GIB));
    const behind = rig.host.write(1.5 * GIB, stamped(4096, 1));
    expect(await failing).toBe(5);
    expect(await behind).toBe(0);
    disk.pieceStatus = () => 0;
    expect(await trim(rig, bare(0, 2 * GIB))).toBe(0);
    expect(rig.volume.allocatedBytes).toBe(0);
    await rig.inStep();
  });

  it('that must be fast is refused before its first part changed anything', async () => {
    const disk = new BlankDisk();
    const rig = await Rig.create(testScope(), { disk, sizeBytes: 2 * GIB });
    await rig.mirrored();
    rig.volume.layer.markData(GIB, 2 * GIB);
    disk.pieceStatus = () => -95;
    const { epoch } = rig.device.position();
    for (const _ of [1, 2]) {
      expect(await zero(rig, bare(0, 2 * GIB, { fastZero: true }))).toBe(95);
    }
    expect(rig.volume.allocatedBytes).toBe(GIB);
    expect(rig.device.position().epoch).toBe(epoch);
  });
});
