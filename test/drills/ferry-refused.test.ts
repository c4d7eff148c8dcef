/**
 * What cannot be a mirror is refused with exit code 1 and one line that ends with the code, and changes nothing: a node of
 * another name, another size, a second primary, a volume that is none. nbdkit is used as a plain mirror.
 */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { DrilledNode } from '../../scripts/drill/node.ts';
import { nbdUri } from '../../scripts/drill/sockets.ts';
import { start } from '../support/process.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { FERRY_TEST, FerryRig, MIB, VOLUME } from './ferry-rig.ts';

const SIZE = 16 * MIB;

/** What is wrong in one line, and its code; nothing on stdout. */
async function refusal(node: DrilledNode, ...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await node.attempt(args);
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toMatch(/^blockferry: [^\n]+ \[[A-Z_]+\]\n$/);
  return stderr;
}

test('refusals of the command line', FERRY_TEST, async (context) => {
  requireTools(context, 'nbdcopy');
  const scope = testScope();
  const rig = await FerryRig.create(scope, { sizeBytes: SIZE });
  const gamma = new DrilledNode({ name: 'gamma', directory: rig.directory });
  scope.defer('kill gamma', () => gamma.kill());
  await gamma.start();
  await gamma.command('volume', 'create', VOLUME, String(SIZE));
  await rig.alpha.command('volume', 'create', 'small', String(SIZE / 2));
  await rig.alpha.command('volume', 'create', 'other', String(SIZE));
  const uri = rig.mirrorUri(VOLUME);

  // The same words as for a volume that is not there.
  const stranger = await refusal(gamma, 'mirror', 'add', VOLUME, uri);
  expect(stranger).toContain('expects no such mirror of this node');
  expect(stranger).toContain('[MIRROR_REFUSED]');
  expect(stranger).not.toContain('alpha');
  const nowhere = rig.mirrorUri('nothing');
  const absent = stranger.replaceAll(uri, nowhere);
  expect(await refusal(gamma, 'mirror', 'add', VOLUME, nowhere)).toBe(absent);
  expect(await refusal(rig.alpha, 'mirror', 'add', VOLUME, nowhere)).toBe(absent);
  expect(await refusal(rig.alpha, 'mirror', 'add', 'small', uri)).toMatch(
    /8388608.*16777216|16777216.*8388608/,
  );

  await rig.addMirrors();
  await rig.settle();
  expect(await refusal(rig.alpha, 'mirror', 'add', VOLUME, uri)).toContain('[MIRROR_EXISTS]');
  expect(await refusal(rig.alpha, 'mirror', 'add', 'other', uri)).toMatch(
    /\[(PEER_REFUSED|MIRROR_UNRELATED)\]/,
  );
  expect(await refusal(gamma, 'mirror', 'add', VOLUME, uri)).toBe(stranger);
  expect((await rig.alpha.volume('other')).mirrors).toEqual([]);
  expect((await gamma.volume(VOLUME)).mirrors).toEqual([]);
  await rig.settle();
  await rig.expectEqual();
});

test('a node of the same name with another volume is refused', FERRY_TEST, async (context) => {
  requireTools(context, 'nbdcopy');
  const scope = testScope();
  const rig = await FerryRig.inStep(scope, { sizeBytes: SIZE });
  await rig.fill(0, SIZE);
  await rig.settle();
  const directory = scope.tempDir('bf-ferry-');
  const impostor = new DrilledNode({ name: 'alpha', directory });
  scope.defer('kill the other alpha', () => impostor.kill());
  await impostor.start();
  await impostor.command('volume', 'create', VOLUME, String(SIZE));
  const uri = rig.mirrorUri(VOLUME);
  expect(await refusal(impostor, 'mirror', 'add', VOLUME, uri)).toContain('[PEER_REFUSED]');
  await rig.alpha.kill();
  expect(await refusal(impostor, 'mirror', 'add', VOLUME, uri)).toMatch(
    /\[(PEER_REFUSED|MIRROR_UNRELATED)\]/,
  );
  await rig.alpha.start();
  await rig.settle();
  await rig.expectEqual();
});

test('nbdkit is a plain mirror', FERRY_TEST, async (context) => {
  requireTools(context, 'nbdkit', 'nbdcopy', 'fio');
  const scope = testScope();
  const rig = await FerryRig.create(scope, { sizeBytes: SIZE });
  const socket = join(rig.directory, 'nbdkit');
  start(scope, 'nbdkit', ['--foreground', '--unix', socket, 'memory', String(SIZE)]);
  await rig.fill(0, SIZE);
  const uri = nbdUri(`unix:${socket}`, '');
  await expect
    .poll(async () => (await rig.alpha.attempt(['mirror', 'add', VOLUME, uri])).code)
    .toBe(0);
  const mirror = await rig.settle();
  expect(mirror).toMatchObject({ kind: 'nbd', consistent: true });
});
