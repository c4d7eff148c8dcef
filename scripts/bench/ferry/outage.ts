/** What an outage costs the host: how long it waits when the link goes, and what a write costs while only marks are kept. */
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { waitUntil } from '../../../test/support/wait.ts';
import type { Contender } from '../contenders.ts';
import { load, write } from '../layers/calls.ts';
import type { Comparison } from '../layers/comparison.ts';
import { measure, median } from '../measure.ts';
import type { Workload } from '../workloads.ts';
import type { Bench, Part } from './part.ts';

const LARGE_BYTES = 64 * 2 ** 30;
const LOSSES_A_ROUND = 4;
const STALL_LIMIT_MS = 50;
/** The rate in delta is to be that of a small volume, of a young outage. */
const SAME = 0.9;

const LOSS = 'ferry: longest wait of a write after the link was cut, async';
const SIZES = 'ferry: 4k random write, depth 32, in delta, 64 GiB volume against small';
const LENGTHS = 'ferry: 4k random write, depth 32, in delta, all marked against none';

/** Milliseconds that the slowest write took which ended between these times; the whole time when none did. */
function longestWait(log: string, from: number, to: number): number {
  const waits = readFileSync(log, 'latin1')
    .split('\n')
    .map((line) => line.split(',').map(Number))
    .filter(([at = 0]) => at >= from && at <= to)
    .map(([, ns = 0]) => ns / 1e6);
  return waits.length === 0 ? to - from : waits.reduce((most, wait) => Math.max(most, wait));
}

/** Cuts the link in the midst of a round of fio, until its end. */
async function lose(bench: Bench): Promise<number> {
  const { pair, options, dir } = bench;
  const link = await pair.link();
  const prefix = join(dir, 'loss');
  const log = `${prefix}_lat.1.log`;
  const words = ['rw=randwrite', `size=${options.sizeBytes}`, `write_lat_log=${prefix}`];
  const only = ['disable_clat=1', 'disable_slat=1', 'log_unix_epoch=1'];
  const running = load(pair.alpha.uri('far'), options.roundMs, [...words, ...only]);
  try {
    await waitUntil('fio', async () => (await pair.alpha.volume('far')).connections > 0, {
      everyMs: 5,
    });
    await sleep(options.roundMs / 2);
    const cutAt = Date.now();
    await link.cut();
    await running;
    const wait = longestWait(log, cutAt, Date.now());
    rmSync(log, { force: true });
    return wait;
  } finally {
    await running.catch(() => undefined);
    await link.restore();
  }
}

async function losses(bench: Bench): Promise<Comparison[]> {
  const { pair, options } = bench;
  const { rounds, sizeBytes } = options;
  await pair.volume('far', { sizeBytes, mode: 'async', far: true });
  const waits: number[] = [];
  for (let loss = 0; loss < rounds * LOSSES_A_ROUND; loss++) {
    options.progress(`${LOSS}: loss ${loss + 1} of ${rounds * LOSSES_A_ROUND}`);
    waits.push(await lose(bench));
    await pair.inSync('far');
  }
  const aim = { kind: 'p99', below: STALL_LIMIT_MS } as const;
  return [{ name: LOSS, unit: 'ms', samples: waits, against: null, aim, remarks: [] }];
}

const YOUNG = 'young outage';
const OLD = 'all marked';
const LARGE = '64 GiB';

/** The mirror has everything, and then goes: each round begins with an outage. */
function young({ pair }: Bench, name: string, volume: string): Contender {
  return {
    ...pair.unmirrored(name, volume),
    async before() {
      await pair.resume(volume);
      await pair.inSync(volume);
      await pair.pause(volume);
    },
  };
}

async function marks(bench: Bench): Promise<Comparison[]> {
  const { pair, options } = bench;
  const { sizeBytes } = options;
  options.progress('ferry: preparing volumes for outages');
  const common = { mode: 'async', filledBytes: sizeBytes } as const;
  await pair.volume('young', { ...common, sizeBytes });
  await pair.volume('old', { ...common, sizeBytes });
  await pair.volume('large', { ...common, sizeBytes: LARGE_BYTES });
  for (const volume of ['young', 'old', 'large']) await pair.pause(volume);
  await write(pair.alpha.uri('old'), 0, sizeBytes);
  const contenders = [
    young(bench, YOUNG, 'young'),
    young(bench, LARGE, 'large'),
    pair.unmirrored(OLD, 'old'),
  ];
  const row: Workload = {
    name: 'ferry: 4k random write, depth 32, in delta',
    direction: 'write',
    options: ['rw=randwrite', 'bs=4k', 'iodepth=32'],
    unit: 'iops',
  };
  const { series } = await measure(contenders, row, options);
  const samples = (name: string): readonly number[] =>
    series.find(({ contender }) => contender === name)?.samples ?? [];
  const against = { name: YOUNG, samples: samples(YOUNG) };
  const shared = { unit: 'iops', against, aim: { kind: 'ratio', atLeast: SAME } } as const;
  const perWrite = (name: string): string => `${name}: ${(1e6 / median(samples(name))).toFixed(1)}`;
  const remarks = [`microseconds a write: ${[YOUNG, LARGE, OLD].map(perWrite).join(', ')}`];
  return [
    { ...shared, name: SIZES, samples: samples(LARGE), remarks },
    { ...shared, name: LENGTHS, samples: samples(OLD), remarks: [] },
  ];
}

export const OUTAGE: readonly Part[] = [
  { names: [LOSS], measure: losses },
  { names: [SIZES, LENGTHS], measure: marks },
];
