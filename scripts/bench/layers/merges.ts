/** What becomes of a deleted snapshot: how fast its blocks are merged, and what that costs the host meanwhile. */
import { join } from 'node:path';
import { rmSync } from 'node:fs';
import type { FioResult } from '../../../test/support/fio.ts';
import type { TestNode } from '../../../test/support/node.ts';
import { run } from '../../../test/support/process.ts';
import type { RoundOptions } from '../measure.ts';
import { isMerging, load, merged, remove, snapshot, timed, write } from './calls.ts';
import type { Comparison } from './comparison.ts';

export const MERGE = 'layers: merge';
export const BESIDE = 'layers: 4k random mixed 50/50, depth 32, beside a merge';

const COPY_MS_MAX = 300_000;
/** Layers of the volume that a merge runs beside: enough for it to outlast a round. */
const LAYERS = 4;

/** A volume of so many layers, each with blocks of its own: to merge two is to copy one, in either direction. */
async function layered(
  node: TestNode,
  volume: string,
  count: number,
  bytes: number,
): Promise<void> {
  await node.createVolume(volume, String(count * bytes));
  for (let i = 0; i < count; i++) {
    await write(node.uri(volume), i * bytes, bytes);
    await snapshot(node, volume, `layer-${i}`);
  }
  await run('sync', ['-f', node.dir], { timeoutMs: COPY_MS_MAX });
}

async function drop(node: TestNode, volume: string): Promise<void> {
  await node.cli(['volume', 'delete', volume, '--force']);
}

/** Bytes a second from the delete until the layers are one, on the disk too. */
async function mergeRate(node: TestNode, bytes: number, round: number): Promise<number> {
  const volume = `merge${round}`;
  await layered(node, volume, 2, bytes);
  const ms = await timed(async () => {
    await remove(node, volume, 'layer-0');
    await merged(node, volume);
  });
  await drop(node, volume);
  return (bytes / ms) * 1000;
}

/** Bytes a second of cp, and of cp until the copy is on the disk. */
async function copyRates(image: string, copy: string, bytes: number): Promise<[number, number]> {
  await run('sync', ['-f', image], { timeoutMs: COPY_MS_MAX });
  const options = { timeoutMs: COPY_MS_MAX };
  const copied = await timed(
    async () => await run('cp', ['--reflink=never', '--sparse=never', image, copy], options),
  );
  const synced = await timed(async () => await run('sync', [copy], options));
  rmSync(copy);
  return [(bytes / copied) * 1000, (bytes / (copied + synced)) * 1000];
}

/** `sizeBytes` are merged and copied. */
export async function measureMerge(node: TestNode, options: RoundOptions): Promise<Comparison[]> {
  const { rounds, sizeBytes, progress } = options;
  const mib = sizeBytes / 2 ** 20;
  const [image, copy] = [join(node.dir, 'image'), join(node.dir, 'copy')];
  await run('dd', ['if=/dev/urandom', `of=${image}`, 'bs=1M', `count=${mib}`], {
    timeoutMs: COPY_MS_MAX,
  });
  const merges: number[] = [];
  const plain: number[] = [];
  const durable: number[] = [];
  for (let round = 0; round < rounds; round++) {
    progress(`${MERGE}: round ${round + 1} of ${rounds}`);
    merges.push(await mergeRate(node, sizeBytes, round));
    const [copied, synced] = await copyRates(image, copy, sizeBytes);
    plain.push(copied);
    durable.push(synced);
  }
  rmSync(image);
  const row = { unit: 'bytes', samples: merges, remarks: [] } as const;
  return [
    {
      ...row,
      name: `${MERGE} of ${mib} MiB`,
      against: { name: 'cp', samples: plain },
      aim: { kind: 'ratio', atLeast: 0.5 },
    },
    {
      ...row,
      name: `${MERGE} of ${mib} MiB, durable as it is`,
      against: { name: 'cp and sync', samples: durable },
      aim: null,
    },
  ];
}

const rateOf = ({ read, write: written }: FioResult): number => read.iops + written.iops;

/** The rate beside a merge at the default limit, and the mean of the rates before and after. */
async function besideMerge(
  node: TestNode,
  options: RoundOptions,
  round: number,
): Promise<{ busy: number; quiet: number; outlasted: boolean }> {
  const { roundMs, sizeBytes } = options;
  const volume = `beside${round}`;
  await layered(node, volume, LAYERS, sizeBytes);
  const once = async (): Promise<number> =>
    rateOf(await load(node.uri(volume), roundMs, ['rw=randrw', `size=${LAYERS * sizeBytes}`]));
  const before = await once();
  for (let i = 0; i + 1 < LAYERS; i++) await remove(node, volume, `layer-${i}`);
  const busy = await once();
  const outlasted = await isMerging(node, volume);
  await merged(node, volume);
  const after = await once();
  await drop(node, volume);
  return { busy, quiet: (before + after) / 2, outlasted };
}

export async function measureBeside(node: TestNode, options: RoundOptions): Promise<Comparison[]> {
  const busy: number[] = [];
  const quiet: number[] = [];
  const remarks: string[] = [];
  for (let round = 0; round < options.rounds; round++) {
    options.progress(`${BESIDE}: round ${round + 1} of ${options.rounds}`);
    const rates = await besideMerge(node, options, round);
    busy.push(rates.busy);
    quiet.push(rates.quiet);
    if (!rates.outlasted) remarks.push(`round ${round + 1}: the merge ended before fio did`);
  }
  const against = { name: 'no merge', samples: quiet };
  const aim = { kind: 'ratio', atLeast: 0.75 } as const;
  return [{ name: BESIDE, unit: 'iops', samples: busy, against, aim, remarks }];
}
