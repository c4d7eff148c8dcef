/**
 * The disk of the mirror runs full under the stream. Writers notice nothing, the primary goes on in delta and says why, the
 * mirror says it too and shows what it had; when there is space again both sides become equal without a command. The disk is
 * a small ext4 with ballast on it.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { awaitRounds, FERRY_TEST, FerryRig, MIB } from './ferry-rig.ts';

const SIZE = 64 * MIB;
const DISK = 320 * MIB;
const BALLAST = 260 * MIB;
const AREA = { blocks: 25, spread: 4096 };

async function smallExt4(scope: Scope): Promise<string> {
  const image = join(scope.tempDir('bf-full-image-'), 'ext4');
  const dir = scope.tempDir('bf-full-');
  writeFileSync(image, '');
  await run('truncate', ['--size', String(DISK), image]);
  await run('mkfs.ext4', ['-q', '-m', '0', image]);
  await run('mount', ['-o', 'loop', image, dir]);
  scope.defer(`unmount ${dir}`, async () => {
    await run('umount', ['--lazy', dir]);
  });
  return dir;
}

test('the disk of the mirror is full', FERRY_TEST, async (context) => {
  requireRoot(context, 'mount -o loop');
  requireTools(context, 'mkfs.ext4', 'losetup', 'fio', 'nbdcopy', 'python3-libnbd');
  const scope = testScope();
  const disk = await smallExt4(scope);
  const ballast = join(disk, 'ballast');
  await run('fallocate', ['--length', String(BALLAST), ballast]);
  const rig = await FerryRig.inStep(scope, { sizeBytes: SIZE, betaData: join(disk, 'data') });
  const rounds = rig.rounds(AREA, 1);
  await awaitRounds(rounds, 5);
  await rig.fill(MIB, SIZE);

  const full = await rig.waitMirror(
    'the full disk to be told',
    ({ state, last_error }) => state !== 'streaming' && /full|space/.test(last_error ?? ''),
  );
  expect(full.dirty_bytes).toBeGreaterThan(0);
  const told = await waitUntil('beta to say it', async () => {
    const { state, last_error } = await rig.source();
    return /full|space/.test(last_error ?? '') ? state : null;
  });
  expect(['failed', 'waiting']).toContain(told);
  await awaitRounds(rounds, 5);
  rig.link.cut();
  expect(await rig.writesShown(AREA)).toBeGreaterThan(0);
  rig.link.restore();
  await awaitRounds(rounds, 5);

  rmSync(ballast);
  await rig.waitMirror('streaming again', ({ state }) => state === 'streaming');
  await rounds.kill();
  const mirror = await rig.settle();
  await rig.expectEqual();
  expect(mirror.last_error).toBe(null);
  expect((await rig.source()).state).toBe('streaming');
});
