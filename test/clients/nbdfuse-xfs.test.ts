/*
 * XFS lives on a volume whose node is killed under it. What was synced before is there after the log was
 * replayed, the file system checks clean, and space that it trimmed is given back. Judges: XFS of this
 * machine's kernel, xfs_repair, fstrim; the way there is nbdfuse and a loop device.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { LoopDisk } from '../support/loop-mount.ts';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';

const MIB = 1024 * 1024;

it('survives kill -9 of the server with all that was synced', async (context) => {
  requireTools(context, 'nbdfuse', 'fusermount3', 'losetup', 'mkfs.xfs', 'xfs_repair', 'fstrim');
  requireRoot(context, 'mount');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '1G'); // XFS wants 300 MiB at least
  const disk = await LoopDisk.attach(scope, node.uri('disk'));
  await run('mkfs.xfs', ['-q', disk.device]);
  const dir = await disk.mount(scope);

  writeFileSync(join(dir, 'large'), randomBytes(64 * MIB));
  execFileSync('sync', ['-f', dir]);
  const full = (await node.volume('disk')).allocated_bytes;
  rmSync(join(dir, 'large'));
  execFileSync('sync', ['-f', dir]);
  await run('fstrim', [dir]);
  const { allocated_bytes: left } = await node.volume('disk');
  expect(full - left).toBeGreaterThan(60 * MIB);

  const kept = randomBytes(8 * MIB);
  for (let i = 0; i < 50; i++) writeFileSync(join(dir, `f${i}`), kept.subarray(i * 1000, i * 9000));
  writeFileSync(join(dir, 'kept'), kept);
  execFileSync('sync', ['-f', dir]);
  writeFileSync(join(dir, 'not-synced'), kept);
  await node.kill();
  await disk.detach();

  await node.start();
  const again = await LoopDisk.attach(scope, node.uri('disk'));
  const found = await again.mount(scope); // replays the log
  expect(readFileSync(join(found, 'kept')).equals(kept)).toBe(true);
  for (let i = 0; i < 50; i++) {
    const file = readFileSync(join(found, `f${i}`));
    expect(file.equals(kept.subarray(i * 1000, i * 9000))).toBe(true);
  }
  await again.unmount();
  await run('xfs_repair', ['-n', again.device]);
  await again.detach();
  await node.stop();
}, 120_000);
