/** The kernels that `bench-workers.ts` measures, as they run on either side of a thread boundary. */
import { createHash } from 'node:crypto';

import { BLOCK_BYTES, COMPARE_GROUP_BYTES } from '../src/io/limits.ts';
import { asBuffer } from '../src/workers/examine-task.ts';
import { differingBlocks, digestUnits, zeroBlocks } from '../src/workers/kernels.ts';

export const KERNELS = {
  'zero scan, data': (local: Buffer) => zeroBlocks(local, local.length),
  'zero scan, zeroes': (local: Buffer) => zeroBlocks(local, local.length),
  'compare, alike': (local: Buffer, remote: Buffer) => differingBlocks(local, remote, local.length),
  'compare, half differ': (local: Buffer, remote: Buffer) =>
    differingBlocks(local, remote, local.length),
  'digest xxh64, blocks': (local: Buffer) => digestUnits(local, local.length, BLOCK_BYTES),
  'digest xxh64, groups': (local: Buffer) => digestUnits(local, local.length, COMPARE_GROUP_BYTES),
  'digest sha256': (local: Buffer) => sha256Blocks(local),
} as const;

export type KernelName = keyof typeof KERNELS;

export interface BenchTask {
  readonly kernel: KernelName;
  readonly local: Uint8Array;
  readonly remote: Uint8Array;
}

/** As the real task file: several batches share a message. */
export default function runBenchTasks(tasks: readonly BenchTask[]): Uint8Array[] {
  return tasks.map(({ kernel, local, remote }) =>
    KERNELS[kernel](asBuffer(local), asBuffer(remote)),
  );
}

function sha256Blocks(local: Buffer): Buffer {
  const digests: Buffer[] = [];
  for (let start = 0; start < local.length; start += BLOCK_BYTES) {
    const hash = createHash('sha256');
    digests.push(hash.update(local.subarray(start, start + BLOCK_BYTES)).digest());
  }
  return Buffer.concat(digests);
}
