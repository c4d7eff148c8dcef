/** What a mirror on another node costs the host: fio against the pair, QEMU's mirror, nbdkit, and the pair without a mirror. */
import { nbdkit, type Contender, type Ground, type Maker } from '../contenders.ts';
import { median, measure, type Measured } from '../measure.ts';
import type { Aim, Comparison } from '../layers/comparison.ts';
import { qemuMirrored } from '../mirrored.ts';
import type { Workload } from '../workloads.ts';
import type { Bench, Part } from './part.ts';

const OURS = 'ferry';
const DELAY_MS = 5;

const background: Maker = async (ground: Ground) => await qemuMirrored(ground);
const blocking: Maker = async (ground: Ground) => await qemuMirrored(ground, 'write-blocking');

function workload(name: string, size: '4k' | '256k', depth: number, words: string[]): Workload {
  const rw = size === '4k' ? 'randwrite' : 'write';
  return {
    name,
    direction: 'write',
    options: [`rw=${rw}`, `bs=${size}`, `iodepth=${depth}`, ...words],
    unit: size === '4k' ? 'iops' : 'bytes',
  };
}

function samplesOf({ series }: Measured, name: string): readonly number[] {
  const found = series.find(({ contender }) => contender === name);
  if (found === undefined) throw new Error(`${name} ran nothing`);
  return found.samples;
}

/** Ours against another contender of the same rounds. */
function held(measured: Measured, name: string, against: string, aim: Aim): Comparison {
  const { workload: row, series } = measured;
  const seconds = series.find(({ contender }) => contender === OURS)?.catchUpSeconds ?? [];
  const remarks = series.flatMap(({ contender, remarks: said }) =>
    said.map((remark) => `${contender}: ${remark}`),
  );
  if (seconds.length > 0) {
    remarks.push(`the mirror was equal ${median(seconds).toFixed(2)} s after a round (median)`);
  }
  return {
    name,
    unit: row.unit,
    samples: samplesOf(measured, OURS),
    against: { name: against, samples: samplesOf(measured, against) },
    aim,
    remarks,
  };
}

const ASYNC_SMALL = [
  'ferry: async, 4k random write, depth 32, against QEMU background',
  'ferry: async, 4k random write, depth 32, against unmirrored nbdkit',
] as const;
const ASYNC_LARGE = 'ferry: async, 256k write, depth 8, against QEMU background';
const SYNC_SMALL = 'ferry: sync, 4k random write, depth 32, against QEMU write-blocking';
const SYNC_LATENCY = 'ferry: sync, 4k random write, depth 1, latency against unmirrored';
const SYNC_FLUSH = 'ferry: sync, 4k random write, FLUSH every 32, against QEMU write-blocking';
const DELAYED = `ferry: async, 4k random write, depth 32, ${DELAY_MS} ms each way against none`;

async function ours(bench: Bench, mode: 'async' | 'sync'): Promise<Contender> {
  const { pair, options } = bench;
  await pair.volume(mode, { sizeBytes: options.sizeBytes, mode });
  return pair.mirrored(OURS, mode);
}

const atLeast = (least: number): Aim => ({ kind: 'ratio', atLeast: least });

async function asyncSmall(bench: Bench): Promise<Comparison[]> {
  const contenders = [
    await ours(bench, 'async'),
    await bench.peer(background),
    await bench.peer(nbdkit),
  ];
  const small = workload('ferry: async, 4k random write, depth 32', '4k', 32, []);
  const measured = await measure(contenders, small, bench.options);
  const against = held(measured, ASYNC_SMALL[1], 'nbdkit', atLeast(0.5));
  return [held(measured, ASYNC_SMALL[0], 'qemu mirror', atLeast(4)), { ...against, remarks: [] }];
}

/** A row with one peer. */
function duel(
  name: string,
  mode: 'async' | 'sync',
  peer: { readonly name: string; readonly make: Maker; readonly least: number },
  words: { readonly size: '4k' | '256k'; readonly depth: number; readonly more?: string[] },
): Part {
  return {
    names: [name],
    async measure(bench) {
      const contenders = [await ours(bench, mode), await bench.peer(peer.make)];
      const asked = workload(name, words.size, words.depth, words.more ?? []);
      const measured = await measure(contenders, asked, bench.options);
      return [held(measured, name, peer.name, atLeast(peer.least))];
    },
  };
}

/** Milliseconds of one request at depth 1, from a rate. */
const latencies = (rates: readonly number[]): number[] => rates.map((rate) => 1000 / rate);

async function syncLatency(bench: Bench): Promise<Comparison[]> {
  const { pair, options } = bench;
  const plain = 'no mirror';
  await pair.volume('plain', { sizeBytes: options.sizeBytes, mode: null });
  const contenders = [await ours(bench, 'sync'), pair.unmirrored(plain, 'plain')];
  const measured = await measure(contenders, workload(SYNC_LATENCY, '4k', 1, []), options);
  const compared = held(measured, SYNC_LATENCY, plain, { kind: 'ratio-most', atMost: 2.5 });
  return [
    {
      ...compared,
      unit: 'ms',
      samples: latencies(compared.samples),
      against: { name: plain, samples: latencies(samplesOf(measured, plain)) },
    },
  ];
}

/** Both go through the same proxy, one of them without delay. */
async function delayed({ pair, options }: Bench): Promise<Comparison[]> {
  const link = await pair.link();
  await pair.volume('far', { sizeBytes: options.sizeBytes, mode: 'async', far: true });
  const none = 'no delay';
  const contenders = [
    pair.mirrored(OURS, 'far', async () => await link.delay(DELAY_MS)),
    pair.mirrored(none, 'far', async () => await link.delay(0)),
  ];
  const measured = await measure(contenders, workload(DELAYED, '4k', 32, []), options);
  await link.delay(0);
  return [held(measured, DELAYED, none, atLeast(0.9))];
}

const qemuBackground = { name: 'qemu mirror', make: background };
const qemuBlocking = { name: 'qemu write-blocking', make: blocking };

export const STREAMS: readonly Part[] = [
  { names: ASYNC_SMALL, measure: asyncSmall },
  duel(ASYNC_LARGE, 'async', { ...qemuBackground, least: 1.3 }, { size: '256k', depth: 8 }),
  duel(SYNC_SMALL, 'sync', { ...qemuBlocking, least: 2 }, { size: '4k', depth: 32 }),
  { names: [SYNC_LATENCY], measure: syncLatency },
  duel(
    SYNC_FLUSH,
    'sync',
    { ...qemuBlocking, least: 1.5 },
    { size: '4k', depth: 32, more: ['fsync=32'] },
  ),
  { names: [DELAYED], measure: delayed },
];
