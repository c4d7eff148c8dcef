/** How long a snapshot and a restore of a huge thin volume take while fio keeps it busy, and how long fio then waits. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { FioResult } from '../../../test/support/fio.ts';
import type { TestNode } from '../../../test/support/node.ts';
import { waitUntil } from '../../../test/support/wait.ts';
import type { RoundOptions } from '../measure.ts';
import { load, restore, snapshot, timed, write } from './calls.ts';
import type { Comparison } from './comparison.ts';

export const PAUSES = 'layers: snapshot and restore of 1 TiB under load';

const VOLUME = 'thin';
const THIN_BYTES = 2 ** 40;
/** Times the size of the other disks: 10 GiB when these have 1. */
const WRITTEN_SIZES = 10;
const LIMIT_MS = 20;

interface Samples {
  readonly quietMs: number[];
  readonly busyMs: number[];
  readonly snapshotMs: number[];
  readonly restoreMs: number[];
  readonly remarks: string[];
}

const longestMs = ({ read, write: written }: FioResult): number =>
  Math.max(read.lat_ns.max, written.lat_ns.max) / 1e6;

async function disturbed(
  node: TestNode,
  running: Promise<FioResult>,
  roundMs: number,
  round: number,
  samples: Samples,
): Promise<void> {
  let ended = false;
  const end = (): void => {
    ended = true;
  };
  running.then(end, end);
  await waitUntil('fio', async () => ended || (await node.volume(VOLUME)).connections > 0);
  await sleep(roundMs * 0.4);
  samples.snapshotMs.push(await timed(async () => await snapshot(node, VOLUME, `at-${round}`)));
  await sleep(roundMs * 0.2);
  samples.restoreMs.push(await timed(async () => await restore(node, VOLUME, `at-${round}`)));
  if (ended) samples.remarks.push(`round ${round + 1}: fio had ended before the restore did`);
  samples.busyMs.push(longestMs(await running));
}

/** Snapshots stay: each round begins on a chain that is one longer. */
export async function measurePauses(node: TestNode, options: RoundOptions): Promise<Comparison[]> {
  const { rounds, roundMs, sizeBytes, progress } = options;
  const written = Math.min(WRITTEN_SIZES * sizeBytes, THIN_BYTES);
  progress(`${PAUSES}: writing ${written / 2 ** 20} MiB`);
  await node.createVolume(VOLUME, String(THIN_BYTES));
  const uri = node.uri(VOLUME);
  await write(uri, 0, written);
  const words = ['rw=randrw', `size=${written}`];
  const samples: Samples = {
    quietMs: [],
    busyMs: [],
    snapshotMs: [],
    restoreMs: [],
    remarks: [],
  };
  for (let round = 0; round < rounds; round++) {
    progress(`${PAUSES}: round ${round + 1} of ${rounds}`);
    samples.quietMs.push(longestMs(await load(uri, roundMs, words)));
    const running = load(uri, roundMs, words);
    await disturbed(node, running, roundMs, round, samples);
  }
  const title = `${written / 2 ** 20} MiB written`;
  const bound = { unit: 'ms', aim: { kind: 'value', below: LIMIT_MS }, against: null } as const;
  return [
    {
      ...bound,
      name: `layers: snapshot of 1 TiB, ${title}`,
      samples: samples.snapshotMs,
      remarks: [],
    },
    {
      ...bound,
      name: `layers: restore of 1 TiB, ${title}`,
      samples: samples.restoreMs,
      remarks: [],
    },
    {
      name: 'layers: longest wait of fio, snapshot and restore beside it',
      unit: 'ms',
      samples: samples.busyMs,
      against: { name: 'neither', samples: samples.quietMs },
      aim: { kind: 'excess', below: LIMIT_MS },
      remarks: samples.remarks,
    },
  ];
}
