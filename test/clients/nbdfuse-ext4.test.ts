/*
 * A file system of this machine's own kernel lives on a mirrored volume: made, filled, synced, removed
 * in part, unmounted. The mirror then checks clean and holds the same files. Judges: ext4, e2fsck,
 * nbdcopy and cmp; the way there is nbdfuse and a loop device.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { expectEqualExports, readExport } from '../support/compare.ts';
import { LoopDisk } from '../support/loop-mount.ts';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';

it('ends up whole on the mirror', async (context) => {
  requireTools(context, 'nbdfuse', 'fusermount3', 'losetup', 'mkfs.ext4', 'e2fsck', 'nbdcopy');
  requireRoot(context, 'mount');
  const scope = testScope();
  const beta = await startNode(scope, { name: 'beta' });
  const alpha = await startNode(scope, { name: 'alpha' });
  await beta.createVolume('disk', '128M');
  await alpha.createVolume('disk', '128M');
  await alpha.addMirror('disk', beta.uri('disk'));

  const disk = await LoopDisk.attach(scope, alpha.uri('disk'));
  await run('mkfs.ext4', ['-q', disk.device]);
  const dir = await disk.mount(scope);
  const kept = randomBytes(5_000_000);
  for (let i = 0; i < 20; i++) {
    mkdirSync(join(dir, `d${i}`));
    writeFileSync(join(dir, `d${i}`, 'file'), kept.subarray(0, 10_000 * (i + 1)));
  }
  execFileSync('sync', ['-f', dir]);
  for (let i = 0; i < 20; i += 2) rmSync(join(dir, `d${i}`), { recursive: true });
  writeFileSync(join(dir, 'kept'), kept);
  await disk.detach();

  await alpha.waitInSync('disk');
  await expectEqualExports(scope, alpha.uri('disk'), beta.uri('disk'));
  const copy = join(scope.tempDir(), 'mirror.img');
  await readExport(beta.uri('disk'), copy);
  await run('e2fsck', ['-fn', copy]);

  const taken = await LoopDisk.attach(scope, beta.uri('disk'));
  const found = await taken.mount(scope, '-o', 'ro');
  expect(readFileSync(join(found, 'kept')).equals(kept)).toBe(true);
  expect(readFileSync(join(found, 'd19', 'file')).length).toBe(200_000);
  await taken.detach();
}, 120_000);
