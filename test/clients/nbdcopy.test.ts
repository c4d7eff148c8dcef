/*
 * An image copied into a volume comes out the same, over several connections, once more after the node
 * was killed and started again, and from volume to volume between two nodes. Holes stay holes: a volume
 * takes no space for the zeroes of an image, a copy takes none for what the volume calls a hole, and
 * zeroes land on old content. Judges: nbdcopy (which flushes at the end), cmp and du.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';

const MIB = 1024 * 1024;
const SIZE = 64 * MIB;
const DATA = 4 * MIB;
/** Blocks and clusters at the edges of the data. */
const EDGES = MIB;

/** An image with data, holes, and a last sector that is not a whole block of a file system. */
function makeImage(file: string): void {
  const handle = openSync(file, 'w');
  ftruncateSync(handle, SIZE);
  for (const offset of [0, 1_000_000, 20 * MIB + 512, SIZE - MIB]) {
    writeSync(handle, randomBytes(MIB), 0, MIB, offset);
  }
  closeSync(handle);
}

async function spaceOf(file: string): Promise<number> {
  const { stdout } = await run('du', ['--block-size=1', file]);
  return Number.parseInt(stdout, 10);
}

it('keeps a copied image, also through kill -9', async (context) => {
  requireTools(context, 'nbdcopy');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', String(SIZE));
  const dir = scope.tempDir();
  const [image, back, again] = ['image', 'back', 'again'].map((name) => join(dir, name)) as [
    string,
    string,
    string,
  ];
  makeImage(image);

  await run('nbdcopy', ['--connections=4', '--threads=4', '--flush', image, node.uri('disk')]);
  await run('nbdcopy', ['--connections=4', node.uri('disk'), back]);
  await run('cmp', [image, back]);

  await node.kill();
  await node.start();
  await run('nbdcopy', [node.uri('disk'), again]);
  await run('cmp', [image, again]);
});

it.for([1, 4])(
  'keeps holes in, out and between nodes over %i connection(s)',
  async (connections, context) => {
    requireTools(context, 'nbdcopy');
    const scope = testScope();
    const [alpha, beta] = await Promise.all([
      startNode(scope, { name: 'alpha' }),
      startNode(scope, { name: 'beta' }),
    ]);
    const dir = scope.tempDir();
    const [image, back, full] = [join(dir, 'image'), join(dir, 'back'), join(dir, 'full')];
    makeImage(image);
    await alpha.createVolume('disk', String(SIZE));
    await beta.createVolume('disk', String(SIZE));
    const copy = [
      '--flush',
      `--connections=${connections}`,
      `--threads=${connections}`,
      '--requests=16',
    ];

    await run('nbdcopy', [...copy, image, alpha.uri('disk')]);
    expect((await alpha.volume('disk')).allocated_bytes).toBeLessThan(DATA + EDGES);

    // Whatever was there before is overwritten with zeroes, and its space given back.
    const handle = openSync(full, 'w');
    for (let i = 0; i < SIZE / MIB; i++) writeSync(handle, Buffer.alloc(MIB, i + 1));
    closeSync(handle);
    await run('nbdcopy', [...copy, full, beta.uri('disk')]);
    expect((await beta.volume('disk')).allocated_bytes).toBeGreaterThanOrEqual(SIZE);
    await run('nbdcopy', [...copy, alpha.uri('disk'), beta.uri('disk')]);
    expect((await beta.volume('disk')).allocated_bytes).toBeLessThan(DATA + EDGES);

    // Without looking for zeroes in the bytes, holes come from block status alone.
    await run('nbdcopy', [...copy, '--sparse=0', beta.uri('disk'), back]);
    await run('cmp', [image, back]);
    expect(await spaceOf(back)).toBeLessThan(DATA + EDGES);
    expect(await spaceOf(back)).toBeGreaterThan(DATA - EDGES);
    // Zeroes written for zeroes and no block status at all: the same bytes.
    const plain = ['--no-extents', '--allocated', '--synchronous'];
    await run('nbdcopy', [...plain, beta.uri('disk'), alpha.uri('disk')]);
    await run('nbdcopy', [...plain, alpha.uri('disk'), back]);
    await run('cmp', [image, back]);
  },
);
