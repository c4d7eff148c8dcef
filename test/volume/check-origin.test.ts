/**
 * A clone whose origin is gone is named, on both sides, and keeps the origin from being repaired. Method: a clone's log over
 * a snapshot of the volume of LAYERED; then the snapshot, or the volume, is taken away.
 */
import { expect, test } from 'vitest';
import type { MetadataRecord } from '../../src/volume/log/records.ts';
import { DIRECTORY, LOG, SIZE, VOLUME, World, layerFile } from './support/check-world.ts';

const CLONE = '44'.repeat(16);
const CLONE_LOG = `/data/volumes/${CLONE}/metadata.log`;

function clone(snapshot: string): MetadataRecord[] {
  return [
    {
      kind: 'volume-created',
      id: CLONE,
      name: 'clone',
      sizeBytes: SIZE,
      createdAt: 1,
      nextMirrorId: 1,
    },
    { kind: 'cloned', volume: VOLUME, snapshot },
    { kind: 'layer-created', layer: 1, parent: 0 },
  ];
}

test('a clone whose snapshot is there is sound', async () => {
  const world = await World.layered();
  await world.add(CLONE, [clone('b0'.repeat(16))], { 1: [] });
  expect(await world.found()).toEqual([]);
});

test('a clone of a snapshot that is gone is named on both sides, and nothing is repaired there', async () => {
  const world = await World.layered();
  await world.add(CLONE, [clone('c0'.repeat(16))], { 1: [] });
  world.put(layerFile(9), Buffer.alloc(SIZE, 9));
  const { volumes, repairs } = await world.check({ repair: true });
  expect(repairs).toEqual([]);
  const found = volumes.flatMap(({ findings }) => findings);
  const origins = found.filter(({ code }) => code === 'clone-origin-missing');
  expect(origins.map(({ place }) => place.file)).toEqual([CLONE_LOG, LOG]);
  expect(origins[0]?.what).toContain('has no such snapshot');
});

test('a clone of a volume that is gone is named', async () => {
  const world = await World.layered();
  await world.add(CLONE, [clone('b0'.repeat(16))], { 1: [] });
  world.disk.remove(DIRECTORY);
  const found = await world.found();
  expect(found.map(({ code, place }) => [code, place.file])).toEqual([
    ['clone-origin-missing', CLONE_LOG],
  ]);
  const { volumes } = await world.check({ volume: 'clone' });
  expect(volumes[0]?.findings.length).toBe(1);
});
