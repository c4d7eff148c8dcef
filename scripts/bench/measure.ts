/** Interleaved rounds: every contender runs a workload in turn, and another one begins each round. */
import { performance } from 'node:perf_hooks';
import { fio } from '../../test/support/fio.ts';
import { run } from '../../test/support/process.ts';
import { waitUntil } from '../../test/support/wait.ts';
import type { Contender } from './contenders.ts';
import type { Workload } from './workloads.ts';

const CATCH_UP_MS_MAX = 120_000;

export interface RoundOptions {
  readonly rounds: number;
  readonly roundMs: number;
  readonly sizeBytes: number;
  readonly progress: (line: string) => void;
}

export interface Series {
  readonly contender: string;
  /** One value a round, in the unit of the workload, per second. */
  readonly samples: number[];
  /** Seconds after each round until the mirror held everything; empty without a mirror. */
  readonly catchUpSeconds: number[];
  readonly remarks: string[];
}

export interface Measured {
  readonly workload: Workload;
  readonly series: readonly Series[];
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** Drops the clean pages of everything that a contender stores. */
async function cool(dir: string): Promise<void> {
  const drop = 'find "$1" -type f -size +1M -exec dd if={} iflag=nocache count=0 status=none \\;';
  await run('sync', ['-f', dir]);
  await run('sh', ['-c', drop, 'sh', dir]);
}

async function oneRound(
  contender: Contender,
  workload: Workload,
  series: Series,
  options: RoundOptions,
): Promise<void> {
  if (workload.cold === true) await cool(contender.dir);
  const result = await fio({
    uri: contender.uri,
    name: 'bench',
    options: [
      ...workload.options,
      `size=${options.sizeBytes}`,
      'time_based=1',
      `runtime=${options.roundMs}ms`,
      'randrepeat=0',
      'norandommap=1',
    ],
    timeoutMs: options.roundMs + 60_000,
  });
  const { iops, bw_bytes: bytes } = result[workload.direction];
  series.samples.push(workload.unit === 'iops' ? iops : bytes);
  const { behind } = contender;
  if (behind === undefined) return;
  const ended = performance.now();
  await waitUntil(
    `the mirror of ${contender.name} to catch up`,
    async () => ((await behind()) === 0 ? 'equal' : null),
    { timeoutMs: CATCH_UP_MS_MAX, everyMs: 10 },
  );
  series.catchUpSeconds.push((performance.now() - ended) / 1000);
  const remark = await contender.remark?.();
  if (remark) series.remarks.push(remark);
}

export async function measure(
  contenders: readonly Contender[],
  workload: Workload,
  options: RoundOptions,
): Promise<Measured> {
  const pairs = contenders.map((contender) => ({
    contender,
    series: { contender: contender.name, samples: [], catchUpSeconds: [], remarks: [] } as Series,
  }));
  for (let round = 0; round < options.rounds; round++) {
    options.progress(`${workload.name}: round ${round + 1} of ${options.rounds}`);
    const shift = round % pairs.length;
    for (const { contender, series } of [...pairs.slice(shift), ...pairs.slice(0, shift)]) {
      await oneRound(contender, workload, series, options);
    }
  }
  return { workload, series: pairs.map((pair) => pair.series) };
}
