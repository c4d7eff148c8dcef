/**
 * A disk runs full. On the primary: the client is told ENOSPC, what was acknowledged stays readable and
 * intact, and the mirror ends equal; with space again, writes succeed again. On the mirror: its error is
 * told in the status, the primary's clients notice nothing, and with space again both sides become equal
 * without a command. The disk is a tmpfs of a few MiB.
 */
import { expect, test, type TestContext } from 'vitest';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireRoot, requireTools, testScope } from '../support/tools.ts';
import { CRASH_TEST, MIB, Rig, VOLUME } from './rig.ts';

const SIZE = 64 * MIB;
const SMALL = 24 * MIB;

async function smallDisk(scope: Scope): Promise<string> {
  const path = scope.tempDir('bf-full-');
  await run('mount', ['-t', 'tmpfs', '-o', `size=${SMALL}`, 'tmpfs', path]);
  scope.defer(`unmount ${path}`, async () => {
    await run('umount', ['--lazy', path]);
  });
  return path;
}

async function enlarge(path: string): Promise<void> {
  await run('mount', ['-o', `remount,size=${4 * SIZE}`, path]);
}

function needs(context: TestContext): void {
  requireRoot(context, 'mount -t tmpfs');
  requireTools(context, 'fio', 'nbdcopy', 'python3-libnbd');
}

/** Writes random blocks all over the volume, and prints each error that is met, by its name. */
const WRITER = `
import nbd, os, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
errors = set()
for offset in range(0, int(sys.argv[2]), 65536):
    try:
        h.pwrite(os.urandom(65536), offset)
    except nbd.Error as error:
        errors.add(error.errno)
try:
    h.flush()
except nbd.Error as error:
    errors.add('flush ' + str(error.errno))
print(' '.join(sorted(map(str, errors))))
`;

async function writeEverywhere(rig: Rig): Promise<string> {
  const args = ['-c', WRITER, rig.uri, String(SIZE)];
  return (await run('/usr/bin/python3', args)).stdout.trim();
}

test('the disk of the primary is full', CRASH_TEST, async (context) => {
  needs(context);
  const scope = testScope();
  const disk = await smallDisk(scope);
  const rig = await Rig.create(scope, { sizeBytes: SIZE, alphaData: disk });
  expect(await writeEverywhere(rig)).toBe('ENOSPC');
  await rig.settle();
  await rig.expectEqual();
  await rig.expectNothingLost();

  await enlarge(disk);
  expect(await writeEverywhere(rig)).toBe('');
  await rig.settle();
  await rig.expectEqual();
  await rig.expectNothingLost();
});

test(
  'a primary whose disk was full when it was killed starts again with everything',
  CRASH_TEST,
  async (context) => {
    needs(context);
    const scope = testScope();
    const disk = await smallDisk(scope);
    const rig = await Rig.create(scope, { sizeBytes: SIZE, alphaData: disk });
    expect(await writeEverywhere(rig)).toBe('ENOSPC');
    await rig.alpha.kill();
    await enlarge(disk);
    await rig.alpha.start();
    await rig.settle();
    await rig.expectEqual();
    await rig.expectNothingLost();
  },
);

test('the disk of the mirror is full', CRASH_TEST, async (context) => {
  needs(context);
  const scope = testScope();
  const disk = await smallDisk(scope);
  const rig = await Rig.create(scope, { sizeBytes: SIZE, betaData: disk });
  expect(await writeEverywhere(rig)).toBe('');
  const full = await rig.waitMirror('the error to be told', (mirror) => mirror.last_error !== null);
  expect(full.last_error).toMatch(/ENOSPC|no space/i);
  // The primary goes on as if nothing were wrong.
  expect(await writeEverywhere(rig)).toBe('');
  expect((await rig.alpha.mirror(VOLUME)).state).not.toBe('streaming');

  await enlarge(disk);
  await rig.settle();
  await rig.expectEqual();
});
