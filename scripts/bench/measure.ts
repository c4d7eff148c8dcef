/** Interleaved rounds: every contender runs a workload in turn, and another one begins each round. */
import { performance } from 'node:perf_hooks';
import { fio, type FioResult } from '../../test/support/fio.ts';
import { run } from '../../test/support/process.ts';
import { waitUntil } from '../../test/support/wait.ts';
import type { Contender } from './contenders.ts';
import { peakBytes, resetPeak } from './memory.ts';
import type { Workload } from './workloads.ts';

const CATCH_UP_MS_MAX = 120_000;
const FIO_MARGIN_MS = 60_000;

export interface RoundOptions {
  readonly rounds: number;
  readonly roundMs: number;
  readonly sizeBytes: number;
  /** Tells how far it is; throws when the run is to end. */
  readonly progress: (line: string) => void;
}

export interface Series {
  readonly contender: string;
  /** One value a round, in the unit of the workload, per second. */
  readonly samples: number[];
  /** Greatest resident size in each round, bytes; empty for peers. */
  readonly peakBytes: number[];
  /** Seconds after each round until the mirror held everything; empty without a mirror. */
  readonly catchUpSeconds: number[];
  readonly remarks: string[];
}

export interface Measured {
  readonly workload: Workload;
  readonly series: readonly Series[];
}

interface Entrant {
  readonly contender: Contender;
  readonly uri: string;
  readonly series: Series;
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

function rate(result: FioResult, { direction, unit }: Workload): number {
  const sides = direction === 'both' ? [result.read, result.write] : [result[direction]];
  return sides.reduce((sum, side) => sum + (unit === 'iops' ? side.iops : side.bw_bytes), 0);
}

async function catchUp(entrant: Entrant, behind: () => Promise<number>): Promise<void> {
  const ended = performance.now();
  await waitUntil(
    `the mirror of ${entrant.contender.name} to catch up`,
    async () => ((await behind()) === 0 ? 'equal' : null),
    { timeoutMs: CATCH_UP_MS_MAX, everyMs: 10 },
  );
  entrant.series.catchUpSeconds.push((performance.now() - ended) / 1000);
  const remark = await entrant.contender.remark?.();
  if (remark) entrant.series.remarks.push(remark);
}

async function oneRound(
  entrant: Entrant,
  workload: Workload,
  options: RoundOptions,
): Promise<void> {
  const { contender, uri, series } = entrant;
  await contender.before?.();
  if (workload.cold === true) await cool(contender.dir);
  if (contender.pid !== undefined) resetPeak(contender.pid);
  const result = await fio({
    uri,
    name: 'bench',
    options: [
      ...workload.options,
      `size=${options.sizeBytes}`,
      'time_based=1',
      `runtime=${options.roundMs}ms`,
      'randrepeat=0',
      'norandommap=1',
    ],
    timeoutMs: options.roundMs + FIO_MARGIN_MS,
  });
  series.samples.push(rate(result, workload));
  if (contender.pid !== undefined) series.peakBytes.push(peakBytes(contender.pid));
  if (contender.behind !== undefined) await catchUp(entrant, contender.behind);
}

/** Contenders that do not serve the transport of the workload stay out of it. */
export async function measure(
  contenders: readonly Contender[],
  workload: Workload,
  options: RoundOptions,
): Promise<Measured> {
  const entrants: Entrant[] = [];
  for (const contender of contenders) {
    const uri = contender.uri(workload.transport ?? 'unix');
    if (uri === null) continue;
    const empty = { samples: [], peakBytes: [], catchUpSeconds: [], remarks: [] };
    entrants.push({ contender, uri, series: { contender: contender.name, ...empty } });
  }
  for (let round = 0; round < options.rounds; round++) {
    options.progress(`${workload.name}: round ${round + 1} of ${options.rounds}`);
    const shift = round % entrants.length;
    for (const entrant of [...entrants.slice(shift), ...entrants.slice(0, shift)]) {
      await oneRound(entrant, workload, options);
    }
  }
  return { workload, series: entrants.map((entrant) => entrant.series) };
}
