/**
 * A volume whose snapshots are deleted while the layers of others merge: what becomes garbage in the middle of a merge
 * goes when the merge lets go of it, and nothing else is touched.
 * Method: a whole volume on a memory disk, whose pool stands still while a merge has a piece on its way.
 */
import { describe, expect, test } from 'vitest';
import { newVolume, reopen, turn } from './support/store.ts';
import { flush, read, write } from './support/request.ts';

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
});
