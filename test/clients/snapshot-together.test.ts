/*
 * One writer puts each number first on one volume, after its answer on a second, after that on a third. Snapshots of the three
 * at one instant, taken meanwhile, never show a later volume ahead of an earlier one, nor more than one number behind;
 * snapshots taken one after another do, so the writer would be caught. When one of the volumes refuses, none has the
 * snapshot. Judge: libnbd, which writes and reads the numbers.
 */
import { expect, it } from 'vitest';
import { libnbd } from '../support/libnbd.ts';
import { listed } from '../support/nbdinfo.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { snapshotUri, startLibnbd, takeSnapshot } from '../support/snapshots.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const VOLUMES = ['first', 'second', 'third'] as const;
const SNAPSHOTS = 12;

async function read(uris: readonly string[]): Promise<number[]> {
  const output = await libnbd('counters.py', ['read', ...uris]);
  return output.trim().split(' ').map(Number);
}

async function threeVolumes(): Promise<{ scope: ReturnType<typeof testScope>; node: TestNode }> {
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  for (const name of VOLUMES) await node.createVolume(name, '8M');
  return { scope, node };
}

it('takes several volumes at one instant', async (context) => {
  requireTools(context, 'python3-libnbd', 'nbdinfo');
  const { scope, node } = await threeVolumes();
  const live = VOLUMES.map((name) => node.uri(name));
  const writer = startLibnbd(scope, 'counters.py', ['write', ...live]);
  await waitUntil('the first numbers', async () => Math.min(...(await read(live))) > 0);

  // Named in the order in which each one late would show.
  const order = VOLUMES.toReversed();
  for (let i = 0; i < SNAPSHOTS; i++) await takeSnapshot(node, order, `at${i}`);
  for (const name of order.toReversed()) await takeSnapshot(node, name, 'alone');
  expect(writer.running).toBe(true);
  await writer.kill();
  await node.kill();
  await node.start();

  const seen: number[] = [];
  for (let i = 0; i < SNAPSHOTS; i++) {
    const numbers = await read(VOLUMES.map((name) => snapshotUri(node, name, `at${i}`)));
    const [first = 0, second = 0, third = 0] = numbers;
    expect(numbers).toEqual(numbers.toSorted((a, b) => b - a));
    expect([first - second, second - third, first - third]).toEqual([
      expect.toBeOneOf([0, 1]),
      expect.toBeOneOf([0, 1]),
      expect.toBeOneOf([0, 1]),
    ]);
    seen.push(first);
  }
  expect(new Set(seen).size).toBe(SNAPSHOTS); // the writer went on between them
  expect(seen).toEqual(seen.toSorted((a, b) => a - b));
  const alone = await read(VOLUMES.map((name) => snapshotUri(node, name, 'alone')));
  expect(Math.max(...alone)).toBeGreaterThan((alone[0] ?? 0) + 1);
});

it('takes none where one volume refuses', async (context) => {
  requireTools(context, 'nbdinfo');
  const { node } = await threeVolumes();
  await takeSnapshot(node, 'second', 'taken');
  await expect(takeSnapshot(node, VOLUMES, 'taken')).rejects.toThrow(/second/);
  await expect(takeSnapshot(node, ['first', 'nothing'], 'other')).rejects.toThrow(/nothing/);
  const names = await listed(`nbd+unix://?socket=${node.nbdSocket}`);
  expect(names.toSorted()).toEqual([...VOLUMES, 'second@taken'].toSorted());
  await takeSnapshot(node, VOLUMES, 'later');
  expect((await listed(`nbd+unix://?socket=${node.nbdSocket}`)).length).toBe(7);
});
