/**
 * A check names what is wrong with the files of a data directory: names that belong to nothing, files that are gone, too
 * short, too long or in another's place, and data that no map knows. Method: a volume of which every block is known is
 * damaged in one way each time. Nothing may be written by a check.
 */
import { beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import {
  BLOCKS,
  DIRECTORY,
  LAYERED,
  LOG,
  SIZE,
  VOLUME,
  World,
  codesOf,
  findingsOf,
  layerFile,
} from './support/check-world.ts';

const OTHER = '22'.repeat(16);

let world: World;
beforeEach(async () => {
  world = await World.layered();
});

/** Codes of what a check finds, after it was seen to write nothing. */
async function codes(): Promise<string[]> {
  const before = world.image();
  const found = await world.found();
  expect(world.image()).toEqual(before);
  return codesOf(found);
}

describe('the check of a directory', () => {
  test('finds nothing in a sound one', async () => {
    expect(await codes()).toEqual([]);
    const { volumes } = await world.check();
    expect(volumes.map(({ id, name }) => [id, name])).toEqual([[VOLUME, 'layered']]);
  });

  test.each([
    ['is gone', null, 'format-missing', 'warning'],
    ['cannot be read', 'something else\n', 'format-unreadable', 'fault'],
    ['is newer', 'blockferry 2\n', 'format-newer', 'fault'],
  ])('says when the format %s', async (_, text, code, severity) => {
    if (text === null) world.disk.remove('/data/format');
    else world.disk.replaceFile('/data/format', Buffer.from(text));
    const { findings, volumes } = await world.check();
    expect(findings.map((found) => [found.code, found.severity])).toEqual([[code, severity]]);
    // What another format means by the rest is not known.
    expect(volumes.length).toBe(severity === 'fault' ? 0 : 1);
    expect(findings[0]?.place.file).toBe('/data/format');
  });

  test('names leftovers, and what is no volume', async () => {
    world.disk.makeDirectory(`/data/volumes/creating-${OTHER}`);
    world.disk.makeDirectory(`/data/volumes/deleting-${OTHER}`);
    world.disk.makeDirectory('/data/volumes/notes');
    const found = await world.found();
    expect(found.map(({ code, place }) => [code, place.file])).toEqual([
      ['volume-leftover', `/data/volumes/creating-${OTHER}`],
      ['volume-leftover', `/data/volumes/deleting-${OTHER}`],
      ['foreign-entry', '/data/volumes/notes'],
    ]);
    expect(found.map(({ repair }) => repair?.kind)).toEqual(['remove', 'remove', undefined]);
    // They are not the business of one volume.
    expect(findingsOf(await world.check({ volume: 'layered' }))).toEqual([]);
  });

  test('names two volumes of one name, a bad directory name, and a volume without a log', async () => {
    const [birth = [], ...rest] = LAYERED;
    const other = birth.map((record) =>
      record.kind === 'volume-created' ? { ...record, id: OTHER } : record,
    );
    await world.add(OTHER, [other, ...rest], { 1: [[0, 8]], 2: [], 3: [] });
    const twice = (await world.found()).filter(({ code }) => code === 'volume-name-twice');
    expect(twice.map(({ place }) => place.file).toSorted()).toEqual([
      LOG,
      `/data/volumes/${OTHER}/metadata.log`,
    ]);
    world.disk.rename(`/data/volumes/${OTHER}`, `/data/volumes/${'33'.repeat(16)}`);
    expect(await codes()).toContain('volume-misplaced');
    world.disk.remove(`/data/volumes/${'33'.repeat(16)}/metadata.log`);
    expect(await codes()).toEqual(['log-missing']);
  });

  test('finds a volume by its name, or by its id when the log has lost the name', async () => {
    expect((await world.check({ volume: 'layered' })).volumes.length).toBe(1);
    expect((await world.check({ volume: VOLUME })).volumes.length).toBe(1);
    await expect(world.check({ volume: 'other' })).rejects.toMatchObject({
      code: 'VOLUME_NOT_FOUND',
    });
    const log = world.bytes(LOG);
    log[100]! ^= 1;
    world.put(LOG, log);
    await expect(world.check({ volume: 'layered' })).rejects.toThrow(/of 1 volumes the log/);
    const { volumes } = await world.check({ volume: VOLUME });
    expect(volumes[0]?.name).toBeNull();
    expect(codesOf(volumes[0]?.findings ?? [])).toEqual(['log-corrupt']);
  });

  test('is not begun while a node has the directory, nor in one without volumes', async () => {
    const lock = world.disk.lock('/data');
    await expect(world.check()).rejects.toMatchObject({ code: 'DATA_DIR_IN_USE' });
    lock?.release();
    expect(await codes()).toEqual([]);
    world.disk.rename('/data', '/elsewhere');
    await expect(world.check()).rejects.toMatchObject({ code: 'DATA_DIR_UNUSABLE' });
    expect(world.disk.exists('/data')).toBe(false);
  });
});

describe('the check of the files of layers', () => {
  test('names a compaction that did not end, a stray layer and strange files', async () => {
    world.put(`${DIRECTORY}/metadata.log.new`, Buffer.alloc(10));
    world.put(layerFile(9), Buffer.alloc(10));
    world.put(`${DIRECTORY}/layer-3.data`, Buffer.alloc(10));
    const found = await world.found();
    expect(found.map(({ code, place }) => [code, place.file.split('/').at(-1)])).toEqual([
      ['layer-file-orphan', 'layer-00000009.data'],
      ['foreign-file', 'layer-3.data'],
      ['log-leftover', 'metadata.log.new'],
    ]);
  });

  test.each([1, 2, 3])('names the file of layer %i when it is gone', async (layer) => {
    world.disk.remove(layerFile(layer));
    const [found, ...others] = await world.found();
    expect(others).toEqual([]);
    expect([found?.code, found?.place.file]).toEqual(['layer-file-missing', layerFile(layer)]);
  });

  test('names a file that is short by the bytes that are not there, and says whether data was', async () => {
    world.resize(layerFile(1), 5 * BLOCK_BYTES);
    world.resize(layerFile(2), 15 * BLOCK_BYTES);
    world.resize(layerFile(3), 42 * BLOCK_BYTES + 100);
    const found = (await world.found()).filter(({ code }) => code !== 'data-missing');
    expect(found.map(({ code, place }) => [code, place.bytes?.offset])).toEqual([
      ['layer-file-short', 5 * BLOCK_BYTES],
      ['layer-file-end-missing', 15 * BLOCK_BYTES],
      ['layer-file-short', 42 * BLOCK_BYTES + 100],
    ]);
    expect(found[0]?.what).toContain('block 5, past its end, was data');
    expect(found[2]?.what).toContain('block 42, past its end');
    expect(found.every(({ repair }) => repair === null)).toBe(true);
  });

  test('names a base layer that is short of a hole only, which may be given back', async () => {
    world.resize(layerFile(1), 30 * BLOCK_BYTES);
    const found = await world.found();
    expect(codesOf(found)).toEqual(['layer-file-short']);
    expect(found[0]?.severity).toBe('fault');
    expect(found[0]?.repair).toMatchObject({ kind: 'set-length', sizeBytes: SIZE });
  });

  test('says that a file is longer, which is harmless', async () => {
    world.resize(layerFile(2), SIZE + 1);
    const [found] = await world.found();
    expect([found?.code, found?.severity]).toEqual(['layer-file-long', 'info']);
    expect(found?.place.bytes).toEqual({ offset: SIZE, length: 1 });
  });

  test.each([
    [1, 2],
    [1, 3],
    [2, 3],
  ])('notices that the files of layers %i and %i changed places', async (one, other) => {
    world.swap(layerFile(one), layerFile(other));
    const found = await world.found(true);
    const faults = found.filter(({ severity }) => severity === 'fault');
    const files = new Set(faults.map(({ place }) => place.file));
    expect([...files].toSorted()).toEqual([layerFile(one), layerFile(other)]);
    expect(faults.map(({ code }) => code)).toContain('layer-file-wrong');
  });

  test('names data outside the map of a base layer that takes writes, by its blocks', async () => {
    const base = await World.plain();
    base.fill(layerFile(1), 10, 2, 7);
    base.fill(layerFile(1), 50, 1, 7);
    base.fill(layerFile(1), 55, 3, 0);
    const found = await base.found();
    expect(found.map(({ code, place }) => [code, place.blocks])).toEqual([
      ['data-outside-map', { first: 10, count: 2 }],
      ['data-outside-map', { first: 50, count: 1 }],
    ]);
    await base.append([[{ kind: 'opened' }]]);
    expect(codesOf(await base.found())).toEqual([
      'data-to-adopt',
      'data-to-adopt',
      'data-to-adopt',
    ]);
  });

  test('does not call zeroes data, nor what a merge or a power cut left', async () => {
    world.fill(layerFile(3), 10, 2, 0);
    world.fill(layerFile(1), 50, 1, 7);
    const found = await world.found();
    expect(found.map(({ code, severity }) => [code, severity])).toEqual([['unused-data', 'info']]);
    expect(found[0]?.place).toMatchObject({ file: layerFile(1), blocks: { first: 50, count: 1 } });
  });

  test('says of a volume that was not closed what its next open takes up', async () => {
    await world.append([[{ kind: 'opened' }]]);
    world.fill(layerFile(3), 10, 2, 7);
    // The system was restarted since, as far as can be known: the map of a layer above others counts.
    expect(await codes()).toEqual(['unused-data']);
    Object.assign(world.disk, { bootId: 'ab'.repeat(16) });
    await world.append([[{ kind: 'booted', id: 'ab'.repeat(16) }]]);
    const [found] = await world.found();
    expect([found?.code, found?.place.blocks]).toEqual(['data-to-adopt', { first: 10, count: 2 }]);
  });

  test('warns of data that became a hole, with its first block', async () => {
    await world.punch(layerFile(2), 6, 3);
    const [found, ...others] = await world.found();
    expect(others).toEqual([]);
    expect([found?.code, found?.severity]).toEqual(['data-missing', 'warning']);
    expect(found?.place).toMatchObject({ file: layerFile(2), blocks: { first: 6, count: 3 } });
    expect(found?.what).toContain(`${3 * BLOCK_BYTES} bytes`);
  });

  test('counts the places that it does not name', async () => {
    for (let block = 0; block < BLOCKS; block += 2) {
      if (block < 40 || block > 42) world.fill(layerFile(3), block, 1, 7);
    }
    const found = await world.found();
    expect(found.length).toBe(16);
    expect(found.at(-1)?.what).toContain('and 14 places more (14 blocks)');
  });

  test('says when the system does not tell holes from data', async () => {
    world.disk.knowsExtents = false;
    world.fill(layerFile(3), 10, 2, 7);
    expect(await codes()).toEqual(['extents-unknown', 'extents-unknown', 'extents-unknown']);
  });

  test('goes on after a file that cannot be read', async () => {
    const open = world.disk.open.bind(world.disk);
    world.disk.open = (path, options) => {
      if (path === layerFile(1)) throw new Error('EIO: of this test');
      const file = open(path, options);
      if (path !== layerFile(3)) return file;
      file.read = (_buffer, _start, _length, _position, callback) =>
        void setImmediate(() => callback(-5));
      return file;
    };
    world.fill(layerFile(3), 10, 2, 7);
    const found = await world.found();
    expect(codesOf(found)).toEqual(['unreadable', 'unreadable']);
    expect(found[1]?.place.blocks).toEqual({ first: 10, count: 2 });
    expect(found[1]?.what).toContain('errno 5');
  });
});
