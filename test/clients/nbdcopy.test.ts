/*
 * An image copied into a volume comes out the same, over several connections, and once more after the
 * node was killed and started again. Judges: nbdcopy (which flushes at the end) and cmp.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'vitest';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';

const SIZE = 64 * 1024 * 1024;

/** An image with data, holes, and a last sector that is not a whole block of a file system. */
function makeImage(file: string): void {
  const handle = openSync(file, 'w');
  ftruncateSync(handle, SIZE);
  for (const offset of [0, 1_000_000, 20 * 1024 * 1024 + 512, SIZE - 1024 * 1024]) {
    writeSync(handle, randomBytes(1024 * 1024), 0, 1024 * 1024, offset);
  }
  closeSync(handle);
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

  await run('nbdcopy', ['--connections=4', '--flush', image, node.uri('disk')]);
  await run('nbdcopy', ['--connections=4', node.uri('disk'), back]);
  await run('cmp', [image, back]);

  await node.kill();
  await node.start();
  await run('nbdcopy', [node.uri('disk'), again]);
  await run('cmp', [image, again]);
});
