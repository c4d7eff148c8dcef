/**
 * A repair mends what is proven, and nothing else. Method: a volume is damaged, repaired and checked again: the second
 * check finds nothing, a second repair does nothing, the volume opens with the content that it had; also when the
 * power goes at any write of the repair. What is not proven stays as it is, byte for byte.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import { Metadata } from '../../src/volume/log/metadata.ts';
import { VolumeStore } from '../../src/volume/store.ts';
import {
  DIRECTORY,
  LOG,
  SIZE,
  World,
  codesOf,
  findingsOf,
  layerFile,
} from './support/check-world.ts';
import { read } from './support/request.ts';

const OTHER = '22'.repeat(16);

let world: World;
beforeEach(async () => {
  world = await World.layered();
});

/** The first byte of some blocks, as a node that opens the volume serves them. */
async function content(): Promise<number[]> {
  const store = VolumeStore.open({ ...world.tools, path: '/data' });
  try {
    expect(store.damaged).toEqual([]);
    const volume = store.find('layered')!;
    const values: number[] = [];
    for (const block of [0, 3, 4, 11, 12, 20, 21, 40, 42, 43, 63]) {
      values.push((await read(volume, block * BLOCK_BYTES, 1))[0]!);
    }
    return values;
  } finally {
    await store.close();
  }
}

const CONTENT = [1, 1, 2, 2, 0, 0, 1, 3, 3, 0, 0];

/** Repairs, and shows that this was all there was to do. Says what was done. */
async function repaired(): Promise<string[]> {
  const { repairs, ...rest } = await world.check({ repair: true });
  expect(repairs.map(({ error }) => error).filter(Boolean)).toEqual([]);
  expect(findingsOf({ ...rest, repairs: [] })).toEqual([]);
  const image = world.image();
  const again = await world.check({ repair: true });
  expect(again.repairs).toEqual([]);
  expect(findingsOf(again)).toEqual([]);
  expect(world.image()).toEqual(image);
  return repairs.map(({ finding }) => finding.code);
}

function flip(path: string, offset: number): void {
  const bytes = world.bytes(path);
  bytes[offset]! ^= 0x10;
  world.put(path, bytes);
}

/** Repairs until the power goes at the `cut`th step that changes the disk. True: the repair ended before. */
async function cutAt(cut: number): Promise<boolean> {
  const { disk } = world;
  let steps = 0;
  const step = (): void => {
    steps += 1;
    if (steps > cut) throw new Error('the power is gone');
  };
  for (const name of ['remove', 'rename', 'replaceFile', 'syncDirectory'] as const) {
    const real = disk[name].bind(disk) as (...args: unknown[]) => void;
    Object.assign(disk, {
      [name]: (...args: unknown[]) => {
        step();
        real(...args);
      },
    });
  }
  disk.failSync = () => {
    steps += 1;
    return steps > cut ? 5 : 0;
  };
  const { repairs } = await world.check({ repair: true }).catch(() => ({ repairs: [] }));
  const whole = steps <= cut && repairs.every(({ error }) => error === null);
  let coin = cut;
  world.disk = disk.crash(() => (coin = (coin * 7 + 3) % 11) % 2 === 0);
  return whole;
}

const cutLast = (): void => {
  world.put(LOG, world.bytes(LOG).subarray(0, -3));
};

const MENDABLE: readonly (readonly [string, string[], () => Promise<void> | void])[] = [
  ['a missing format', ['format-missing'], () => world.disk.remove('/data/format')],
  [
    'leftovers of creating and deleting',
    ['volume-leftover', 'volume-leftover'],
    () => {
      world.disk.makeDirectory(`/data/volumes/creating-${OTHER}`);
      world.disk.makeDirectory(`/data/volumes/deleting-${OTHER}`);
      world.put(`/data/volumes/deleting-${OTHER}/metadata.log`, Buffer.alloc(7));
    },
  ],
  [
    'a compaction that did not end',
    ['log-leftover'],
    () => world.put(`${DIRECTORY}/metadata.log.new`, Buffer.alloc(50)),
  ],
  [
    'a torn tail',
    ['log-torn'],
    async () => world.put(LOG, Buffer.concat([world.bytes(LOG), Buffer.alloc(99, 0xbf)])),
  ],
  [
    'a torn tail, a leftover and a stray file together',
    ['log-torn', 'layer-file-orphan', 'log-leftover'],
    () => {
      world.put(LOG, Buffer.concat([world.bytes(LOG), Buffer.alloc(1)]));
      world.put(`${DIRECTORY}/metadata.log.new`, Buffer.alloc(50));
      world.put(layerFile(4), Buffer.alloc(SIZE, 9));
    },
  ],
  ['a file that is longer', ['layer-file-long'], () => world.resize(layerFile(3), SIZE * 2)],
  [
    'a base file that is short of a hole',
    ['layer-file-short'],
    () => world.resize(layerFile(1), 30 * BLOCK_BYTES),
  ],
  [
    'a file above it that is short of a hole',
    ['layer-file-end-missing'],
    () => world.resize(layerFile(2), 13 * BLOCK_BYTES),
  ],
  [
    'layers that nothing looks through',
    ['layer-unreachable', 'layer-unreachable'],
    async () => {
      // They lie on the second snapshot: two restores, one above the other's.
      await world.append([
        [{ kind: 'layer-created', layer: 4, parent: 2 }],
        [{ kind: 'layer-created', layer: 5, parent: 4 }],
        [
          { kind: 'layer-sealed', layer: 3 },
          { kind: 'layer-sealed', layer: 4 },
          { kind: 'layer-sealed', layer: 5 },
          { kind: 'layer-created', layer: 6, parent: 3 },
        ],
      ]);
      for (const layer of [4, 5, 6]) {
        world.disk.open(layerFile(layer), { create: true }).truncateNow(SIZE);
      }
    },
  ],
];

describe('a repair', () => {
  test('does nothing where nothing is wrong', async () => {
    const before = world.image();
    expect(await repaired()).toEqual([]);
    expect(world.image()).toEqual(before);
    expect(await content()).toEqual(CONTENT);
  });

  test.each(MENDABLE)('mends %s', async (_, codes, damage) => {
    await damage();
    expect(await repaired()).toEqual(codes);
    expect(await content()).toEqual(CONTENT);
  });

  test.each(MENDABLE)(
    'is mended after a power cut in the middle of mending %s',
    async (_, codes, damage) => {
      for (let cut = 0; ; cut += 1) {
        world = await World.layered();
        await damage();
        await world.sync();
        const done = await cutAt(cut);
        // What the cut left is found and mended like the damage itself.
        const mended = await repaired();
        expect(await content()).toEqual(CONTENT);
        if (!done) continue;
        expect(mended).toEqual([]);
        expect(cut).toBeGreaterThan(0);
        expect(codes.length).toBeGreaterThan(0);
        return;
      }
    },
  );

  test('takes back a commit that was cut short, and no more', async () => {
    cutLast();
    const { repairs, volumes } = await world.check({ repair: true });
    expect(repairs.map(({ finding, error }) => [finding.code, error])).toEqual([
      ['log-torn', null],
    ]);
    // What the lost commit told of is in the file of a layer above others: it was never promised.
    expect(codesOf(volumes[0]?.findings ?? [])).toEqual(['unused-data']);
    const { state } = Metadata.open({ ...world.tools, directory: DIRECTORY });
    // The last commit held the data of the top layer and the clean mark.
    expect(state.clean).toBe(false);
    expect(state.snapshots.size).toBe(2);
    expect(state.layers.get(3)?.map.data.count).toBe(0);
  });
});

describe('what is not proven', () => {
  test.each<[string, string, () => void]>([
    ['a corrupt middle', 'log-corrupt', () => flip(LOG, 200)],
    ['a bad header', 'log-header-bad', () => flip(LOG, 20)],
    ['a log that is gone', 'log-missing', () => world.disk.remove(LOG)],
    ['a layer file that is gone', 'layer-file-missing', () => world.disk.remove(layerFile(2))],
    ['a layer file that lost data', 'layer-file-short', () => world.resize(layerFile(1), 4096)],
    [
      'two files that changed places',
      'layer-file-wrong',
      () => world.swap(layerFile(1), layerFile(3)),
    ],
  ])('stays as it is, and so does all else of the volume: %s', async (_, code, damage) => {
    damage();
    // Each of these alone would be mended. One may be what is missing.
    world.put(layerFile(9), Buffer.alloc(SIZE, 2));
    world.put(`${DIRECTORY}/metadata.log.new`, Buffer.alloc(50));
    const before = world.image();
    const report = await world.check({ repair: true });
    expect(codesOf(findingsOf(report))).toContain(code);
    expect(findingsOf(report).every(({ repair }) => repair === null)).toBe(true);
    expect(report.repairs).toEqual([]);
    expect(world.image()).toEqual(before);
  });

  test('does not keep another volume from being mended', async () => {
    world.disk.remove(layerFile(2));
    const sound = await World.layered();
    const log = sound.bytes(LOG);
    world.disk.makeDirectory(`/data/volumes/creating-${OTHER}`);
    world.put(LOG, log);
    const { repairs } = await world.check({ repair: true });
    expect(repairs.map(({ finding }) => finding.code)).toEqual(['volume-leftover']);
  });

  test('is told when a step fails, and the others are done', async () => {
    world.put(layerFile(9), Buffer.alloc(10));
    world.resize(layerFile(3), SIZE * 2);
    world.disk.failTruncate = true;
    const { repairs } = await world.check({ repair: true });
    expect(repairs.map(({ finding, error }) => [finding.code, error !== null])).toEqual([
      ['layer-file-orphan', false],
      ['layer-file-long', true],
    ]);
    expect(repairs[1]?.error).toContain('EIO');
  });
});
