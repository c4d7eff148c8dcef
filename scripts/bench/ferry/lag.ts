/**
 * How old a mirror is under a steady load of half of what the pair can take: sampled while fio runs, from both sides.
 * On the primary it is the age of the oldest write that the mirror has not durably; on the mirror it is the age of what
 * its readers see, by the one clock that both nodes share here.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { waitUntil } from '../../../test/support/wait.ts';
import type { Comparison } from '../layers/comparison.ts';
import { load } from '../layers/calls.ts';
import type { Bench, Part } from './part.ts';
import type { Pair } from './pair.ts';

const VOLUME = 'async';
const SAMPLE_MS = 10;
/** From the first connection of fio until its rate is steady. */
const SETTLE_MS = 300;
const LIMIT_MS = 100;

const DURABLE = 'ferry: lag at half of the greatest rate, of what the mirror has durably';
const READABLE = 'ferry: age of what the mirror shows then';

interface Samples {
  readonly durable: number[];
  readonly readable: number[];
}

async function sample(pair: Pair, into: Samples): Promise<void> {
  const [mirror, volume] = await Promise.all([pair.alpha.mirror(VOLUME), pair.beta.volume(VOLUME)]);
  const seen = volume.source?.consistent_at ?? null;
  if (seen === null) throw new Error('the mirror holds nothing');
  into.durable.push(mirror.lag_seconds * 1000);
  into.readable.push(Math.max(0, Date.now() - Date.parse(seen)));
}

/** Samples from the time that fio runs steadily until it ends. */
async function watch(pair: Pair, running: Promise<unknown>, into: Samples): Promise<void> {
  const state = { ended: false };
  const end = (): void => {
    state.ended = true;
  };
  running.then(end, end);
  const busy = async (): Promise<boolean> =>
    !state.ended && (await pair.alpha.volume(VOLUME)).connections > 0;
  await waitUntil('fio', async () => state.ended || (await busy()), { everyMs: SAMPLE_MS });
  await sleep(SETTLE_MS);
  for (;;) {
    const taken: Samples = { durable: [], readable: [] };
    await sample(pair, taken);
    // What was asked around the end of fio tells nothing of a load.
    if (!(await busy())) break;
    into.durable.push(...taken.durable);
    into.readable.push(...taken.readable);
    await sleep(SAMPLE_MS);
  }
  await running;
}

async function measure({ pair, options }: Bench): Promise<Comparison[]> {
  const { roundMs, sizeBytes } = options;
  await pair.volume(VOLUME, { sizeBytes, mode: 'async' });
  const uri = pair.alpha.uri(VOLUME);
  const words = ['rw=randwrite', `size=${sizeBytes}`];
  const samples: Samples = { durable: [], readable: [] };
  const remarks: string[] = [];
  for (let round = 0; round < options.rounds; round++) {
    options.progress(`${DURABLE}: round ${round + 1} of ${options.rounds}`);
    const { iops } = (await load(uri, roundMs, words)).write;
    await pair.inSync(VOLUME);
    const half = Math.floor(iops / 2);
    const running = load(uri, roundMs + SETTLE_MS, [...words, `rate_iops=${half}`]);
    await watch(pair, running, samples);
    const reached = (await running).write.iops;
    remarks.push(`round ${round + 1}: ${reached.toFixed(0)} of ${iops.toFixed(0)} writes a second`);
    await pair.inSync(VOLUME);
  }
  const aim = { kind: 'p99', below: LIMIT_MS } as const;
  const common = { unit: 'ms', against: null, aim } as const;
  return [
    { ...common, name: DURABLE, samples: samples.durable, remarks },
    { ...common, name: READABLE, samples: samples.readable, remarks: [] },
  ];
}

export const LAG: readonly Part[] = [{ names: [DURABLE, READABLE], measure }];
