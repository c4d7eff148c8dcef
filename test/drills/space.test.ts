/**
 * A small disk runs full under a volume with snapshots. The client is told ENOSPC, the operator by event and status; what
 * was acknowledged, and both snapshots, stay as they were, through a kill and a stop too, and a start when the last byte of
 * the disk is taken; a deleted snapshot gives its space back, and
 * then everything goes on without a command. The disk is an ext4 of 64 MiB with blocks of 1 KiB: a write may fail in the
 * middle of a block of the volume. Judges: libnbd, which keeps its own image of the volume, and cmp.
 */
import { join } from 'node:path';
import { rmSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { BlockferryEvent } from '../../src/replicator/status.ts';
import { libnbd } from '../support/libnbd.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { fillUp, smallExt4 } from '../support/small-disk.ts';
import { copyOut, deleteSnapshot, takeSnapshot } from '../support/snapshots.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const MIB = 2 ** 20;
const WRITTEN = 24 * MIB;
/** What that takes: chunks of 64 KiB from byte 512 on, and the blocks at their edges. */
const TAKEN = WRITTEN - 65_536 + 4096;
const VOLUME = 'thin';

async function same(one: string, other: string): Promise<void> {
  await run('cmp', [one, other]);
}

async function kinds(node: TestNode): Promise<string[]> {
  const { stdout } = await node.cli(['events', '--json']);
  const lines = stdout.trim().split('\n');
  return lines.map((line) => (JSON.parse(line) as BlockferryEvent).kind);
}

test(
  'a full disk under snapshots is told, breaks nothing, and goes on',
  { timeout: 120_000 },
  async (context) => {
    requireRoot(context, 'mount -o loop');
    requireTools(context, 'mkfs.ext4', 'losetup', 'nbdcopy', 'python3-libnbd');
    const scope = testScope();
    const files = scope.tempDir('bf-space-files-');
    const node = await startNode(scope, { name: 'space', dir: await smallExt4(scope, 64 * MIB) });
    await node.createVolume(VOLUME, '100M');
    const image = join(files, 'image');
    await run('truncate', ['--size', String(100 * MIB), image]);
    /** Writes everywhere in the first WRITTEN bytes; how often that was refused. */
    const writeAll = async (): Promise<number> =>
      Number(await libnbd('fill.py', [node.uri(VOLUME), String(WRITTEN), image]));
    const keep = async (name: string): Promise<string> => {
      await takeSnapshot(node, VOLUME, name);
      const file = join(files, name);
      await run('cp', ['--sparse=always', image, file]);
      return file;
    };
    const compareAll = async (snapshots: Readonly<Record<string, string>>): Promise<void> => {
      const copied = join(files, 'copied');
      await run('nbdcopy', ['--', node.uri(VOLUME), copied]);
      await same(copied, image);
      for (const [name, file] of Object.entries(snapshots)) {
        await same(await copyOut(node, VOLUME, name, files), file);
      }
    };

    expect(await writeAll()).toBe(0);
    const one = await keep('one');
    expect(await writeAll()).toBe(0);
    const two = await keep('two');
    const before = (await node.status()).space;
    expect(before).toMatchObject({ size_bytes: 100 * MIB, allocated_bytes: 2 * TAKEN });

    expect(await writeAll()).toBeGreaterThan(0);
    await waitUntil('the event', async () => (await kinds(node)).includes('disk-full'));
    const { space } = await node.status();
    expect(space.level).toBe('full');
    expect(space.free_bytes).toBeLessThan(MIB);
    expect((await node.cli(['status'])).stdout).toMatch(
      /^disk full {2}.* over-provisioning 1\.\d\d$/m,
    );
    await compareAll({ one, two });

    for (const end of ['kill', 'stop'] as const) {
      await node[end]();
      const filler = await fillUp(node.dir, 'filler');
      await node.start();
      await compareAll({ one, two });
      rmSync(filler);
    }

    await deleteSnapshot(node, VOLUME, 'one');
    await waitUntil('space', async () => (await node.status()).space.free_bytes! > 16 * MIB, {
      timeoutMs: 60_000,
      onTimeout: () => node.log,
    });
    expect(await kinds(node)).toContain('disk-ok');
    expect(await writeAll()).toBe(0);
    await compareAll({ two });
    expect((await node.status()).space.level).toBe('ok');
    await node.stop();
  },
);
