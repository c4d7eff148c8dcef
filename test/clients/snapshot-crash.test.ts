/*
 * A node is killed with kill -9 under load, with five snapshots taken meanwhile, a delete that still merges and one more
 * snapshot on its way. Afterwards the snapshots are byte for byte what nbdcopy read of them before, every snapshot
 * holds what was answered before it was asked for and nothing that was sent after it was there, and the volume holds all
 * that was answered. Judges: nbdcopy and cmp; a log of requests and answers, and libnbd, that know nothing of layers.
 */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { libnbd } from '../support/libnbd.ts';
import { listed } from '../support/nbdinfo.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import {
  copyOut,
  deleteSnapshot,
  snapshotUri,
  startLibnbd,
  takeSnapshot,
} from '../support/snapshots.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep, waitUntil } from '../support/wait.ts';

/** How far the log of requests was before a snapshot was asked for, and when it was there. */
interface Moment {
  readonly before: number;
  readonly after: number;
}

const NAMES = ['s1', 's2', 's3', 's4', 's5'] as const;

async function check(uri: string, { before, after }: Moment, log: string): Promise<number> {
  const held = await libnbd('slots.py', ['check', uri, String(before), String(after), log]);
  return Number(held);
}

it('keeps every snapshot and every answered write through kill -9', async (context) => {
  requireTools(context, 'python3-libnbd', 'nbdcopy');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '48M');
  const dir = scope.tempDir();
  const log = join(dir, 'requests');
  const length = (): number => (existsSync(log) ? statSync(log).size : 0);
  const grown = async (bytes: number): Promise<void> => {
    const target = length() + bytes;
    await waitUntil('the load to go on', () => length() >= target, { everyMs: 10 });
  };
  const writer = startLibnbd(scope, 'slots.py', ['write', node.uri('disk'), log, '4711']);
  await grown(20_000);

  const moments = new Map<string, Moment>();
  const take = async (name: string): Promise<void> => {
    const before = length();
    await takeSnapshot(node, 'disk', name);
    moments.set(name, { before, after: length() });
  };
  for (const name of NAMES.slice(0, -1)) {
    await take(name);
    await grown(10_000);
  }
  const [gone, ...kept] = NAMES;
  const copies = new Map<string, string>();
  for (const name of kept.slice(0, -1)) copies.set(name, await copyOut(node, 'disk', name, dir));
  // The youngest snapshot is so young that most blocks of the volume lie below its top layer.
  await take('s5');
  await deleteSnapshot(node, 'disk', gone);
  const started = length();
  const late = node.cli(['snapshot', 'create', 'disk', 'late'], { allowFailure: true });
  await sleep(150); // about when the command has started and its request is on its way
  await node.kill();
  const [{ code: lateCode }] = await Promise.all([late, writer.waitForExit(10_000)]);
  const end = length();

  await node.start();
  const again = join(dir, 'again');
  for (const name of kept) {
    const copy = copies.get(name);
    if (copy !== undefined) {
      await run('nbdcopy', [snapshotUri(node, 'disk', name), again]);
      await run('cmp', [copy, again]);
    }
    const moment = moments.get(name) ?? { before: 0, after: 0 };
    expect(await check(snapshotUri(node, 'disk', name), moment, log)).toBeGreaterThan(100);
  }
  expect(await check(node.uri('disk'), { before: end, after: end }, log)).toBeGreaterThan(100);
  const names = await snapshotsOf(node);
  const withoutLate = names.filter((name) => name !== 'late');
  expect(withoutLate).toEqual([...kept]);
  if (lateCode === 0) expect(names).toContain('late');
  if (names.includes('late')) {
    await check(snapshotUri(node, 'disk', 'late'), { before: started, after: end }, log);
  }
  // The judge sees what is wrong: the volume does not hold what an early snapshot held.
  const [early] = kept;
  const wrong = check(node.uri('disk'), moments.get(early) ?? { before: 0, after: 0 }, log);
  await expect(wrong).rejects.toThrow(/holds/);
}, 120_000);

async function snapshotsOf(node: TestNode): Promise<string[]> {
  const names = await listed(`nbd+unix://?socket=${node.nbdSocket}`);
  return names
    .filter((name) => name.startsWith('disk@'))
    .map((name) => name.slice(5))
    .toSorted();
}
