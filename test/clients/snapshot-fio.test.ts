/*
 * Three generations of a volume, each written over a part of the one before, with two snapshots between
 * them: every generation reads back as it was written, from the volume and from the snapshots, while the next one
 * is written over it, after a restart, and on the volume after restores there and back. What a restored generation
 * had not written reads as zeroes. Judge: fio's own NBD client; each block is full of its generation and its place.
 */
import { expect, it } from 'vitest';
import { fio, type FioResult } from '../support/fio.ts';
import { startNode } from '../support/node.ts';
import { qemuIo } from '../support/qemu-io.ts';
import { restoreSnapshot, snapshotUri, takeSnapshot } from '../support/snapshots.ts';
import { requireTools, testScope } from '../support/tools.ts';

interface Generation {
  readonly seed: number;
  readonly words: readonly string[];
}

/** Sizes below a block too, so that edges of first writes are copied up. */
const SPLIT = 'bssplit=1k/20:4k/40:12k/20:64k/15:512k/5';

/** The next two write into the middle: the first one's ends stay, and are taken from the layer below. */
const FIRST: Generation = { seed: 11, words: ['size=24m', SPLIT] };
const SECOND: Generation = { seed: 22, words: ['offset=8m', 'size=24m', SPLIT] };
const THIRD: Generation = { seed: 33, words: ['offset=4m', 'size=12m', SPLIT] };

async function job(
  uri: string,
  generation: Generation,
  more: readonly string[],
): Promise<FioResult> {
  const { seed, words } = generation;
  const common = ['rw=randwrite', 'iodepth=32', 'verify=pattern', 'verify_fatal=1'];
  const own = [`randseed=${seed}`, `verify_pattern="generation ${seed}"%o`];
  const options = [...common, ...own, ...words, ...more];
  return await fio({ uri, name: `generation-${seed}`, options, timeoutMs: 60_000 });
}

const write = async (uri: string, generation: Generation): Promise<FioResult> =>
  await job(uri, generation, ['do_verify=0', 'fsync=64']);

/** Throws when a block is not what that generation wrote. */
async function verify(uri: string, generation: Generation): Promise<void> {
  const { read } = await job(uri, generation, ['verify_only=1']);
  expect(read.total_ios).toBeGreaterThan(100);
}

it('reads each generation back as it was written, through restores', async (context) => {
  requireTools(context, 'fio', 'qemu-io');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '40M');
  const disk = node.uri('disk');
  const [one, two] = [snapshotUri(node, 'disk', 'one'), snapshotUri(node, 'disk', 'two')];

  await write(disk, FIRST);
  await takeSnapshot(node, 'disk', 'one');
  await Promise.all([write(disk, SECOND), verify(one, FIRST)]);
  await verify(disk, SECOND);
  await expect(verify(disk, FIRST)).rejects.toThrow(/verify/i); // the judge tells them apart
  await takeSnapshot(node, 'disk', 'two');
  await Promise.all([write(disk, THIRD), verify(one, FIRST), verify(two, SECOND)]);
  await verify(disk, THIRD);

  const kept = async (): Promise<void> => {
    await Promise.all([verify(one, FIRST), verify(two, SECOND)]);
    await qemuIo(one, ['read -P 0 24M 16M'], ['-r']);
    await qemuIo(two, ['read -P 0 32M 8M'], ['-r']);
  };
  await kept();
  await node.stop();
  await node.start();
  await kept();
  await verify(disk, THIRD);

  await restoreSnapshot(node, 'disk', 'one');
  await verify(disk, FIRST);
  await qemuIo(disk, ['read -P 0 24M 16M']);
  await restoreSnapshot(node, 'disk', 'two'); // of a younger generation than the volume's
  await verify(disk, SECOND);
  await restoreSnapshot(node, 'disk', 'one');
  await write(disk, THIRD); // what is written after a restore leaves both snapshots alone
  await verify(disk, THIRD);
  await kept();
  await node.kill();
  await node.start();
  await verify(disk, THIRD);
  await kept();
}, 120_000);
