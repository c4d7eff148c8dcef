/**
 * What a chain of snapshots costs the host: volumes of equal size under one node, without snapshots and with chains
 * of them. Between two snapshots a share of the blocks, scattered all over the volume, was overwritten.
 */
import { fio } from '../../../test/support/fio.ts';
import type { TestNode } from '../../../test/support/node.ts';
import type { Contender } from '../contenders.ts';
import { measure, type Measured, type RoundOptions } from '../measure.ts';
import type { Workload } from '../workloads.ts';
import { snapshot, write } from './calls.ts';
import type { Comparison } from './comparison.ts';

const CHAINS = [10, 100];
/** Of all blocks, overwritten after each snapshot: a chain of 100 leaves little to the first layer. */
const SHARE = 0.02;
const OVERWRITE_MS_MAX = 120_000;

const deep = (rw: 'randread' | 'randwrite'): string[] => [`rw=${rw}`, 'bs=4k', 'iodepth=32'];

export const CHAIN_READ: Workload = {
  name: 'layers: 4k random read, depth 32',
  direction: 'read',
  options: deep('randread'),
  unit: 'iops',
  target: 0.95,
};

export const CHAIN_OVERWRITE: Workload = {
  name: 'layers: 4k random overwrite, depth 32, right after a snapshot',
  direction: 'write',
  options: deep('randwrite'),
  unit: 'iops',
  target: 0.8,
};

async function chain(node: TestNode, volume: string, count: number, size: number): Promise<void> {
  await node.createVolume(volume, String(size));
  const uri = node.uri(volume);
  await write(uri, 0, size);
  const bytes = Math.max(4096, Math.floor((size * SHARE) / 4096) * 4096);
  for (let i = 0; i < count; i++) {
    await snapshot(node, volume, `chain-${i}`);
    await fio({
      uri,
      name: 'overwrite',
      options: [...deep('randwrite'), `size=${size}`, `io_size=${bytes}`, `randseed=${i + 1}`],
      timeoutMs: OVERWRITE_MS_MAX,
    });
  }
}

const titleOf = (count: number): string => (count === 0 ? 'no snapshots' : `${count} snapshots`);

function contender(node: TestNode, volume: string, name: string): Contender {
  return { name, uri: () => node.uri(volume), dir: node.dir };
}

/** Each contender but the first one held against that. */
function compared({ workload, series }: Measured, against: string): Comparison[] {
  const [reference, ...others] = series;
  if (reference === undefined) throw new Error(`nobody ran ${workload.name}`);
  return others.map(({ contender: name, samples }) => ({
    name: `${workload.name}, ${name}`,
    unit: workload.unit,
    samples,
    against: { name: against, samples: reference.samples },
    aim: { kind: 'ratio', atLeast: workload.target ?? 0 },
    remarks: [],
  }));
}

export async function measureChains(
  node: TestNode,
  options: RoundOptions,
  wanted: (row: string) => boolean,
): Promise<Comparison[]> {
  const reading = wanted(CHAIN_READ.name);
  const writing = wanted(CHAIN_OVERWRITE.name);
  if (!reading && !writing) return [];
  const counts = [0, ...CHAINS];
  for (const count of counts) {
    options.progress(`layers: preparing a volume with ${titleOf(count)}`);
    await chain(node, `chain${count}`, count, options.sizeBytes);
  }
  const results: Comparison[] = [];
  if (reading) {
    const readers = counts.map((count) => contender(node, `chain${count}`, titleOf(count)));
    const measured = await measure(readers, CHAIN_READ, options);
    results.push(...compared(measured, titleOf(0)));
  }
  if (writing) results.push(...(await overwrites(node, options)));
  return results;
}

/** Each round's snapshot lengthens the chain by one. The steady state is that of a volume that never had one. */
async function overwrites(node: TestNode, options: RoundOptions): Promise<Comparison[]> {
  options.progress('layers: preparing a volume with its first snapshot');
  await chain(node, 'chain1', 0, options.sizeBytes);
  let taken = 0;
  const writers = [1, ...CHAINS].map((count) => ({
    ...contender(node, `chain${count}`, count === 1 ? '1 snapshot' : titleOf(count)),
    async before() {
      await snapshot(node, `chain${count}`, `fresh-${taken++}`);
    },
  }));
  const steady = contender(node, 'chain0', 'steady state');
  const measured = await measure([steady, ...writers], CHAIN_OVERWRITE, options);
  return compared(measured, steady.name);
}
