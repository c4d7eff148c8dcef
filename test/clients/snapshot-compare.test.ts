/*
 * While the volume stands still nbdcopy makes a plain file of it, then a snapshot is taken. From then on, while fio
 * writes and trims all over the volume, the snapshot's export and that file are the same, as they are when all
 * is over, with other snapshots deleted between them and after kill -9. Judges: qemu-img compare, nbdcopy.
 */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readExport } from '../support/compare.ts';
import { fio, type FioResult } from '../support/fio.ts';
import { startNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { deleteSnapshot, snapshotUri, takeSnapshot } from '../support/snapshots.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const NAMES = ['s0', 's1', 's2', 's3'] as const;
const WRITES = ['rw=randwrite', 'bssplit=2k/10:4k/50:64k/30:1m/10', 'iodepth=16'];
const TRIMS = ['rw=randtrim', 'bs=16k', 'rate_iops=300'];

/** Writes and trims for a time. Rounds overlap in part: each layer has blocks that no other one has. */
async function load(uri: string, round: number, seconds: number): Promise<FioResult> {
  const area = [`offset=${(round % 4) * 8}m`, 'size=24m', `randseed=${round + 1}`];
  const time = ['time_based=1', `runtime=${seconds * 1000}ms`];
  const job = async (words: readonly string[]): Promise<FioResult> =>
    await fio({ uri, name: 'load', options: [...words, ...area, ...time], timeoutMs: 60_000 });
  const [writes] = await Promise.all([job(WRITES), job(TRIMS)]);
  return writes;
}

/** qemu-img's exit code: 0 the same, 1 not. */
async function compare(file: string, uri: string): Promise<number | null> {
  const words = ['compare', '-f', 'raw', '-F', 'raw', file, uri];
  const { code, stderr } = await run('qemu-img', words, { allowFailure: true });
  if (code !== 0 && code !== 1) throw new Error(`qemu-img compare: ${stderr}`);
  return code;
}

it('equals the copy that was made at its time, while writes go on', async (context) => {
  requireTools(context, 'qemu-img', 'nbdcopy', 'fio');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', '48M');
  const disk = node.uri('disk');
  const dir = scope.tempDir();
  const fileOf = (name: string): string => join(dir, `${name}.img`);

  for (const [round, name] of NAMES.entries()) {
    await load(disk, round, 0.5);
    await readExport(disk, fileOf(name));
    await takeSnapshot(node, 'disk', name);
    const writing = load(disk, round + 1, 1.2);
    for (const earlier of NAMES.slice(0, round + 1)) {
      expect([earlier, await compare(fileOf(earlier), snapshotUri(node, 'disk', earlier))]).toEqual(
        [earlier, 0],
      );
    }
    expect((await writing).write.total_ios).toBeGreaterThan(100);
    expect(await compare(fileOf(name), disk)).toBe(1); // so the load did change the volume
  }

  const writing = load(disk, 8, 1.2);
  await deleteSnapshot(node, 'disk', 's0');
  await deleteSnapshot(node, 'disk', 's2');
  const left = async (): Promise<void> => {
    for (const name of ['s1', 's3']) {
      expect([name, await compare(fileOf(name), snapshotUri(node, 'disk', name))]).toEqual([
        name,
        0,
      ]);
    }
  };
  await left();
  await writing;
  const idle = async (): Promise<boolean> => (await node.volume('disk')).merge.state === 'idle';
  await waitUntil('the merges', idle);
  await left();
  await node.kill();
  await node.start();
  await left();
  for (const name of ['s0', 's2']) {
    await expect(compare(fileOf(name), snapshotUri(node, 'disk', name))).rejects.toThrow();
  }
}, 120_000);
