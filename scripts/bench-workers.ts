/**
 * Does the worker pool pay for itself? Measures, for each question that is asked of a batch of 1 MiB,
 * what it costs the main thread and how much gets done, on the main thread and through the pool.
 *
 * Rounds of all variants are interleaved, and the medians are printed: `main` is processor time of the
 * main thread per batch (the rest of it serves hosts), `wall` the time per batch. `lone` waits for each
 * batch before the next, `8 deep` keeps eight messages of one batch under way, `8 a message` two messages of
 * eight.
 *
 *     npm run build && node dist/scripts/bench-workers.js [rounds]
 */
import { randomFillSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';

import { Piscina } from 'piscina';

import {
  BLOCK_BYTES,
  DELTA_BATCHES_IN_FLIGHT_MAX,
  DELTA_BATCH_BYTES,
  EXAMINER_GROUP_MAX,
} from '../src/io/limits.ts';
import { KERNELS, type BenchTask, type KernelName } from './bench-workers-task.ts';

const BATCHES = 64;
/** Messages under way and batches in each; none: no pool. */
const VARIANTS = {
  'main thread': null,
  'pool, lone': { messages: 1, batches: 1 },
  'pool, 8 deep': { messages: DELTA_BATCHES_IN_FLIGHT_MAX, batches: 1 },
  'pool, 8 a message': { messages: 2, batches: EXAMINER_GROUP_MAX },
} as const;
type Variant = keyof typeof VARIANTS;
const VARIANT_NAMES = Object.keys(VARIANTS) as Variant[];

interface Sample {
  readonly mainUs: number;
  readonly wallUs: number;
}

interface Pair {
  readonly local: Buffer;
  readonly remote: Buffer;
}

const pool = new Piscina<BenchTask[], Uint8Array[]>({
  filename: fileURLToPath(new URL('./bench-workers-task.js', import.meta.url)),
  minThreads: 0,
  maxThreads: Math.max(availableParallelism() - 1, 1),
  idleTimeout: 60_000,
  recordTiming: false,
});

/** Processor time of this thread so far, in microseconds. */
function mainThreadUs(): number {
  const [ns] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'latin1').split(' ');
  return Number(ns) / 1000;
}

/** More memory than a cache holds, so that bytes come from where they would in a delta run. */
function pairsFor(kernel: KernelName): Pair[] {
  return Array.from({ length: BATCHES }, () => {
    const local = Buffer.from(new SharedArrayBuffer(DELTA_BATCH_BYTES));
    const remote = Buffer.from(new SharedArrayBuffer(DELTA_BATCH_BYTES));
    if (kernel !== 'zero scan, zeroes') randomFillSync(local);
    local.copy(remote);
    if (kernel === 'compare, half differ') {
      for (let at = 0; at < remote.length; at += 2 * BLOCK_BYTES) remote.writeUInt8(1, at + 4000);
    }
    return { local, remote };
  });
}

async function measure(kernel: KernelName, pairs: Pair[], variant: Variant): Promise<Sample> {
  const mainBefore = mainThreadUs();
  const wallBefore = performance.now();
  const shape = VARIANTS[variant];
  if (shape === null) {
    for (const { local, remote } of pairs) KERNELS[kernel](local, remote);
  } else {
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < pairs.length) {
        const group = pairs.slice(next, next + shape.batches);
        next += shape.batches;
        await pool.run(group.map((pair) => ({ kernel, ...pair })));
      }
    };
    await Promise.all(Array.from({ length: shape.messages }, lane));
  }
  const wallUs = ((performance.now() - wallBefore) * 1000) / pairs.length;
  return { mainUs: (mainThreadUs() - mainBefore) / pairs.length, wallUs };
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}

async function main(): Promise<void> {
  const rounds = Number(process.argv[2] ?? 9);
  console.log(
    `${availableParallelism()} cores, Node ${process.version}, microseconds per MiB batch`,
  );
  console.log(['kernel'.padEnd(22), ...VARIANT_NAMES.map((each) => each.padStart(22))].join(''));
  console.log([''.padEnd(22), ...VARIANT_NAMES.map(() => 'main    wall'.padStart(22))].join(''));
  for (const kernel of Object.keys(KERNELS) as KernelName[]) {
    const pairs = pairsFor(kernel);
    const samples = new Map<Variant, Sample[]>(VARIANT_NAMES.map((variant) => [variant, []]));
    for (let round = 0; round <= rounds; round += 1) {
      for (const variant of VARIANT_NAMES) {
        const sample = await measure(kernel, pairs, variant);
        // The first round starts threads and compiles code.
        if (round > 0) samples.get(variant)?.push(sample);
      }
    }
    const cells = VARIANT_NAMES.map((variant) => {
      const taken = samples.get(variant) ?? [];
      const mainUs = median(taken.map((sample) => sample.mainUs)).toFixed(0);
      const wallUs = median(taken.map((sample) => sample.wallUs)).toFixed(0);
      return `${mainUs.padStart(14)}${wallUs.padStart(8)}`;
    });
    console.log([kernel.padEnd(22), ...cells].join(''));
  }
  await pool.close();
}

await main();
