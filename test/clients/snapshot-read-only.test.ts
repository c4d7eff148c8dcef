/*
 * The export of a snapshot takes no change: every kind of it is refused, to clients that look first and to one
 * that does not, and neither the snapshot nor the volume is different afterwards; reads are served as from the volume.
 * Judges: libnbd with its own checks off, qemu-io, nbdcopy.
 */
import { expect, it } from 'vitest';
import { expectEqualExports } from '../support/compare.ts';
import { libnbd } from '../support/libnbd.ts';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import { snapshotUri, takeSnapshot } from '../support/snapshots.ts';
import { requireTools, testScope } from '../support/tools.ts';

it('refuses every change of a snapshot', async (context) => {
  requireTools(context, 'python3-libnbd', 'qemu-io', 'nbdcopy');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '16M');
  const [disk, kept] = [node.uri('disk'), snapshotUri(node, 'disk', 'kept')];
  await qemuIo(disk, ['write -P 0x11 0 8M']);
  await takeSnapshot(node, 'disk', 'kept');

  expect(await libnbd('read_only.py', [kept])).toBe('passed\n');
  for (const command of ['write -P 0x22 0 64k', 'write -z 0 64k', 'discard 0 64k']) {
    await expect(qemuIo(kept, [command])).rejects.toThrow(/permission|read.only|not permitted/i);
  }
  const copying = await run('nbdcopy', [disk, kept], { allowFailure: true });
  expect(copying.code).not.toBe(0);
  expect(copying.stderr).toMatch(/read.only|write/i);
  await expectEqualExports(scope, disk, kept);

  await qemuIo(disk, ['write -P 0x33 0 8M']);
  await qemuIo(kept, ['read -P 0x11 0 8M', 'read -P 0 8M 8M'], ['-r']);
});
