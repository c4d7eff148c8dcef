/** What a node takes beside speed: memory of idle connections and of a huge volume, time to start. */
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { fio } from '../../test/support/fio.ts';
import type { TestNode } from '../../test/support/node.ts';
import type { Scope } from '../../test/support/scope.ts';
import { waitUntil } from '../../test/support/wait.ts';
import { blockferryNode, VOLUME } from './contenders.ts';
import { connectIdle } from './idle-client.ts';
import { median, type Measured, type RoundOptions } from './measure.ts';
import { peakBytes, resetPeak, residentBytes, settledBytes } from './memory.ts';
import type { Runtime } from './runtimes.ts';

const HUGE_BYTES = 4 * 2 ** 40;
const IDLE_CONNECTIONS = 1000;
/** Handshakes at a time, far below what a server takes. */
const IDLE_LANES = 16;
const START_MS_MAX = 15_000;
const MIB = 2 ** 20;
/** 32,768 requests all over the volume, 3 writes to 7 reads. */
const REQUESTS = [
  'rw=randrw',
  'rwmixread=70',
  'bs=4k',
  'iodepth=32',
  'io_size=128m',
  'randrepeat=0',
  'norandommap=1',
];

export const FOOTPRINT = {
  heaviest: { name: 'memory: greatest RSS in any row', unit: 'MiB', below: 200 },
  idle: { name: 'memory: RSS of 1,000 idle connections', unit: 'MiB', below: 64 },
  huge: { name: 'memory: greatest RSS, 4 TiB volume', unit: 'MiB', below: 120 },
  start: { name: 'start: 4 TiB volume, spawn to GO', unit: 's', below: 0.5 },
} as const;

export type Bound = (typeof FOOTPRINT)[keyof typeof FOOTPRINT];

export interface FootprintValue {
  readonly bound: Bound;
  readonly contender: string;
  /** In the unit of the bound. */
  readonly value: number;
  /** What else there is to know, or empty. */
  readonly note: string;
}

export interface Place {
  readonly servers: Scope;
  /** Data and sockets of every node go here. */
  readonly dir: string;
}

/** The greatest memory of each blockferry process over all rows, and the row. */
export function heaviestRows(results: readonly Measured[]): FootprintValue[] {
  const greatest = new Map<string, FootprintValue>();
  for (const { workload, series } of results) {
    for (const { contender, peakBytes: peaks } of series) {
      const value = Math.max(...peaks) / MIB;
      if (peaks.length === 0 || value <= (greatest.get(contender)?.value ?? 0)) continue;
      const note = workload.name;
      greatest.set(contender, { bound: FOOTPRINT.heaviest, contender, value, note });
    }
  }
  return [...greatest.values()];
}

/** Seconds from the spawn of the process until a client has got through GO. */
async function timedStart(node: TestNode): Promise<number> {
  const began = performance.now();
  const started = node.start(); // spawns before it first waits
  const answered = waitUntil(
    'the first GO',
    async () => {
      if (!node.process.running) return Number.NaN; // then the start fails, and says why
      const socket = await connectIdle(node.nbdSocket, VOLUME);
      const seconds = (performance.now() - began) / 1000;
      socket.destroy();
      return seconds;
    },
    { timeoutMs: START_MS_MAX, everyMs: 2 },
  );
  const [seconds] = await Promise.all([answered, started]);
  return seconds;
}

async function someRequests(node: TestNode): Promise<void> {
  await fio({
    uri: node.uri(VOLUME),
    name: 'huge',
    options: [...REQUESTS, `size=${HUGE_BYTES}`],
    timeoutMs: 120_000,
  });
}

/** Bytes that so many connections add while they say nothing. */
async function idleConnections(node: TestNode, count: number): Promise<number> {
  const before = await settledBytes(node.pid);
  const sockets: Socket[] = [];
  let begun = 0;
  const lane = async (): Promise<void> => {
    while (begun++ < count) sockets.push(await connectIdle(node.nbdSocket, VOLUME));
  };
  try {
    await Promise.all(Array.from({ length: IDLE_LANES }, lane));
    const after = await settledBytes(node.pid);
    const open = (await node.volume(VOLUME)).connections;
    if (open < count) throw new Error(`${count} idle connections, and the node has ${open}`);
    return after - before;
  } finally {
    for (const socket of sockets) socket.destroy();
  }
}

/** One node with an empty volume of 4 TiB, which is sparse: it takes next to nothing of the disk. */
async function ofRuntime(
  runtime: Runtime,
  place: Place,
  options: RoundOptions,
): Promise<FootprintValue[]> {
  const node = await blockferryNode(place.servers, runtime, join(place.dir, runtime.version));
  await node.createVolume(VOLUME, String(HUGE_BYTES));
  const starts: number[] = [];
  for (let round = 0; round < options.rounds; round++) {
    options.progress(`${FOOTPRINT.start.name}, ${runtime.name}: round ${round + 1}`);
    await node.stop();
    starts.push(await timedStart(node));
  }
  options.progress(`${FOOTPRINT.huge.name}, ${runtime.name}`);
  const bare = residentBytes(node.pid);
  resetPeak(node.pid);
  await someRequests(node);
  const huge = peakBytes(node.pid);
  options.progress(`${FOOTPRINT.idle.name}, ${runtime.name}`);
  const added = await idleConnections(node, IDLE_CONNECTIONS);
  await node.stop();
  const of = (bound: Bound, value: number, note = ''): FootprintValue => {
    return { bound, contender: runtime.name, value, note };
  };
  return [
    of(FOOTPRINT.idle, added / MIB),
    of(FOOTPRINT.huge, huge / MIB, `${(bare / MIB).toFixed(0)} before the first request`),
    of(
      FOOTPRINT.start,
      median(starts),
      `${Math.min(...starts).toFixed(3)} - ${Math.max(...starts).toFixed(3)}`,
    ),
  ];
}

export async function measureFootprint(
  runtimes: readonly Runtime[],
  place: Place,
  options: RoundOptions,
): Promise<FootprintValue[]> {
  const values: FootprintValue[] = [];
  for (const runtime of runtimes) values.push(...(await ofRuntime(runtime, place, options)));
  return values;
}
