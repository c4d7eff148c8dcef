/**
 * A volume whose snapshots are deleted while the layers of others merge: what becomes garbage in the middle of a merge
 * goes when the merge lets go of it, and nothing else is touched.
 * Method: a whole volume on a memory disk, whose pool stands still while a merge has a piece on its way.
 */
import { describe, expect, test } from 'vitest';
import { newVolume, reopen, turn } from './support/store.ts';
import { answered, flush, read, requestOf, write } from './support/request.ts';

const MIB = 2 ** 20;

describe('a volume whose layers merge', () => {
  test('gives up a branch that loses its last snapshot in the middle of a merge', async () => {
    const { disk, volume, store } = await newVolume(16 * MIB);
    const { snapshots } = volume;
    await write(volume, 0, Buffer.alloc(MIB, 1));
    await snapshots.create('fork');
    for (const [index, name] of ['one', 'two', 'three'].entries()) {
      // The last one is the smallest: it merges first, and what lies below it has to wait.
      await write(volume, index * 3 * MIB, Buffer.alloc((3 - index) * MIB, 2 + index));
      await snapshots.create(name);
    }
    await snapshots.restore('fork');
    const before = await read(volume, 0, 16 * MIB);
    await flush(volume);
    snapshots.pauseMerge();
    await snapshots.delete('one');
    await snapshots.delete('two');
    // Lets merging begin, and stops it with a piece on its way.
    let work: (() => void)[] | null = [];
    const later = disk.later.bind(disk);
    disk.later = (kind, path, position, run): void => {
      if (work !== null && kind === 'write' && path.endsWith('.data')) work.push(run);
      else later(kind, path, position, run);
    };
    snapshots.resumeMerge();
    while (work.length === 0) await turn();
    const deleted = snapshots.delete('three');
    for (let count = 0; count < 50; count += 1) await turn();
    const held: (() => void)[] = work;
    work = null;
    for (const run of held) run();
    await deleted;
    while (snapshots.merge.state !== 'idle' || volume.metadata.state.layers.size > 2) await turn();
    expect([...volume.metadata.state.snapshots.values()].map(({ name }) => name)).toEqual(['fork']);
    expect((await read(volume, 0, 16 * MIB)).equals(before)).toBe(true);
    const path = `/data/volumes/${volume.id}`;
    await store.close();
    expect(disk.list(path).filter((name) => name.endsWith('.data'))).toHaveLength(2);
    const next = reopen(disk.kill());
    expect((await read(next.volume, 0, 16 * MIB)).equals(before)).toBe(true);
  });

  test('writes nothing over the layer of a snapshot whose end is not durable', async () => {
    const { disk, volume } = await newVolume(16 * MIB);
    const { snapshots } = volume;
    await write(volume, 0, Buffer.alloc(4 * MIB, 1));
    await snapshots.create('lower');
    await write(volume, 0, Buffer.alloc(MIB, 2));
    await snapshots.create('upper');
    // A look for what may merge is due: the record of what follows is on its way by then.
    disk.holding = true;
    const deleted = snapshots.delete('lower');
    for (let count = 0; count < 50; count += 1) await turn();
    const touched = disk.held.filter(({ path }) => path.endsWith('.data'));
    expect(touched.map(({ kind, path }) => `${kind} ${path}`)).toEqual([]);
    // It never gets there.
    const next = reopen(disk.crash(() => false));
    const device = next.volume.snapshots.device('lower');
    const request = requestOf({ offset: 0, length: MIB });
    expect(await answered(request, (each) => device?.read(each) ?? 1)).toBe(0);
    expect(request.bytes.equals(Buffer.alloc(MIB, 1))).toBe(true);
    void deleted;
  });
});
