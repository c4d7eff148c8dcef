/*
 * What a volume and its snapshots say of their blocks: a snapshot's map is the volume's at its time and stays it,
 * whatever is written, trimmed or zeroed later; the volume's map is one map, from whatever layers; a restored volume
 * has the snapshot's. The list shows the snapshots with their own sizes, read-only. Judges: nbdinfo --map and --list,
 * qemu-img map.
 */
import { expect, it } from 'vitest';
import { nbdinfoMap, qemuMap, type Run } from '../support/maps.ts';
import { listed, sizeOf } from '../support/nbdinfo.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import {
  deleteSnapshot,
  restoreSnapshot,
  snapshotUri,
  takeSnapshot,
} from '../support/snapshots.ts';
import { requireTools, testScope } from '../support/tools.ts';

const MIB = 1024 * 1024;
const BLOCK = 4096;
const SIZE = 64 * MIB;
const DATA = 0;
const HOLE = 3;

/** From where each state begins, to where the next does; the last one ends with the export. */
function runs(
  size: number,
  ...states: readonly (readonly [start: number, flags: number])[]
): Run[] {
  return states.map(([start, flags], i) => {
    return { start, length: (states[i + 1]?.[0] ?? size) - start, flags };
  });
}

async function expectMap(uri: string, expected: readonly Run[]): Promise<void> {
  expect(await nbdinfoMap(uri)).toEqual(expected);
  expect(await qemuMap(uri)).toEqual(expected);
}

const server = (node: TestNode): string => `nbd+unix://?socket=${node.nbdSocket}`;

it('maps what was written when the snapshot was taken, and what is there now', async (context) => {
  requireTools(context, 'nbdinfo', 'qemu-io', 'qemu-img');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', String(SIZE));
  const disk = node.uri('disk');
  const uri = (name: string): string => snapshotUri(node, 'disk', name);
  const [empty, first, second] = [uri('empty'), uri('first'), uri('second')];

  await takeSnapshot(node, 'disk', 'empty');
  await qemuIo(disk, ['write 8M 4M', 'write 20M 1k']);
  const atFirst = runs(
    SIZE,
    [0, HOLE],
    [8 * MIB, DATA],
    [12 * MIB, HOLE],
    [20 * MIB, DATA],
    [20 * MIB + BLOCK, HOLE],
  );
  await expectMap(disk, atFirst);
  await takeSnapshot(node, 'disk', 'first');
  await expectMap(disk, atFirst); // all of it from the layer below

  // Over data, next to data, over nothing; parts of a block leave the rest of it as it was.
  await qemuIo(disk, [
    'discard 9M 1M',
    'write -z -u 11M 2M',
    'write 16M 8k',
    `write -P 0x66 ${10 * MIB + 512} 512`,
    'write -P 0x77 30M 512',
    'discard 40M 4M',
  ]);
  const atSecond = runs(
    SIZE,
    [0, HOLE],
    [8 * MIB, DATA],
    [9 * MIB, HOLE],
    [10 * MIB, DATA],
    [11 * MIB, HOLE],
    [16 * MIB, DATA],
    [16 * MIB + 2 * BLOCK, HOLE],
    [20 * MIB, DATA],
    [20 * MIB + BLOCK, HOLE],
    [30 * MIB, DATA],
    [30 * MIB + BLOCK, HOLE],
  );
  await expectMap(disk, atSecond);
  await takeSnapshot(node, 'disk', 'second');
  await qemuIo(disk, ['write 9M 64k', 'discard 8M 512k', 'write -z -u 0 64M', 'write 63M 1M']);
  const now = runs(SIZE, [0, HOLE], [63 * MIB, DATA]);

  const all = async (): Promise<void> => {
    await expectMap(empty, runs(SIZE, [0, HOLE]));
    await expectMap(first, atFirst);
    await expectMap(second, atSecond);
    await expectMap(disk, now);
    await qemuIo(disk, ['read -P 0 0 63M', 'read 63M 1M']);
    // qemu-io's own pattern is 0xcd.
    const edges = ['read -P 0xcd 10M 512', `read -P 0x66 ${10 * MIB + 512} 512`];
    const reads = [...edges, `read -P 0xcd ${10 * MIB + 1024} 1047552`, 'read -P 0 9M 1M'];
    const alone = ['read -P 0x77 30M 512', `read -P 0 ${30 * MIB + 512} 3584`];
    await qemuIo(second, [...reads, ...alone], ['-r']);
  };
  await all();
  await node.kill();
  await node.start();
  await all();

  await restoreSnapshot(node, 'disk', 'first');
  await expectMap(disk, atFirst);
  await expectMap(second, atSecond);
  await deleteSnapshot(node, 'disk', 'second');
  await restoreSnapshot(node, 'disk', 'empty');
  await expectMap(disk, runs(SIZE, [0, HOLE]));
  await expectMap(first, atFirst);
});

it('lists the snapshots, read-only, each with the size of its time', async (context) => {
  requireTools(context, 'nbdinfo');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  await node.createVolume('other', '8M');
  await takeSnapshot(node, 'disk', 'small');
  await node.cli(['volume', 'resize', 'disk', '96M']);
  await takeSnapshot(node, 'disk', 'large');
  const names = ['disk', 'disk@large', 'disk@small', 'other'];
  expect((await listed(server(node))).toSorted()).toEqual(names);

  const sizes = await Promise.all(names.map(async (name) => await sizeOf(node.uri(name))));
  expect(sizes).toEqual([96 * MIB, 96 * MIB, 64 * MIB, 8 * MIB]);
  const { stdout } = await run('nbdinfo', ['--list', '--json', server(node)]);
  const { exports } = JSON.parse(stdout) as {
    exports: { 'export-name': string; is_read_only: boolean; contexts: string[] }[];
  };
  for (const { 'export-name': name, is_read_only: readOnly, contexts } of exports) {
    expect([name, readOnly]).toEqual([name, name.includes('@')]);
    expect(contexts).toContain('base:allocation');
  }

  await deleteSnapshot(node, 'disk', 'small');
  expect((await listed(server(node))).toSorted()).toEqual(['disk', 'disk@large', 'other']);
  expect(await sizeOf(node.uri('disk@small'))).toBeNull();
  expect(await sizeOf(node.uri('disk@'))).toBeNull();
  expect(await sizeOf(node.uri('nothing@large'))).toBeNull();
});
