/**
 * How long a snapshot and a restore of a huge thin volume take while fio keeps the node busy, and how long fio then waits.
 * fio works on the volume that a snapshot is taken of. A restore wants a volume that no client has: fio is on another one.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { FioResult } from '../../../test/support/fio.ts';
import type { TestNode } from '../../../test/support/node.ts';
import { waitUntil } from '../../../test/support/wait.ts';
import type { RoundOptions } from '../measure.ts';
import { load, restore, snapshot, timed, write } from './calls.ts';
import type { Comparison } from './comparison.ts';

export const PAUSES = 'layers: snapshot and restore of 1 TiB under load';

const THIN = 'thin';
const NEIGHBOUR = 'neighbour';
const THIN_BYTES = 2 ** 40;
/** Times the size of the other disks: 10 GiB when these have 1. */
const WRITTEN_SIZES = 10;
const LIMIT_MS = 20;

/** What fio runs on, and what is done meanwhile. */
interface Trial {
  readonly what: 'snapshot' | 'restore';
  readonly volume: string;
  readonly writtenBytes: number;
  readonly act: (round: number) => Promise<void>;
}

const longestMs = ({ read, write: written }: FioResult): number =>
  Math.max(read.lat_ns.max, written.lat_ns.max) / 1e6;

/** Milliseconds that the act took, begun in the midst of fio's round, and that fio waited at most. */
async function disturbed(
  node: TestNode,
  trial: Trial,
  round: number,
  ms: number,
): Promise<{ actMs: number; longest: number; outlasted: boolean }> {
  const running = load(node.uri(trial.volume), ms, words(trial));
  let ended = false;
  const end = (): void => {
    ended = true;
  };
  running.then(end, end);
  const begun = async (): Promise<boolean> =>
    ended || (await node.volume(trial.volume)).connections > 0;
  await waitUntil('fio', begun, { everyMs: 5 });
  await sleep(ms / 2);
  const actMs = await timed(async () => await trial.act(round));
  const outlasted = !ended;
  return { actMs, longest: longestMs(await running), outlasted };
}

const words = ({ writtenBytes }: Trial): string[] => ['rw=randrw', `size=${writtenBytes}`];

async function measureTrial(
  node: TestNode,
  trial: Trial,
  options: RoundOptions,
): Promise<Comparison[]> {
  const { rounds, roundMs, progress } = options;
  const [quiet, busy, acts]: [number[], number[], number[]] = [[], [], []];
  const remarks: string[] = [];
  for (let round = 0; round < rounds; round++) {
    progress(`${PAUSES}: ${trial.what}, round ${round + 1} of ${rounds}`);
    quiet.push(longestMs(await load(node.uri(trial.volume), roundMs, words(trial))));
    const { actMs, longest, outlasted } = await disturbed(node, trial, round, roundMs);
    acts.push(actMs);
    busy.push(longest);
    if (!outlasted) remarks.push(`round ${round + 1}: fio had ended before the ${trial.what} did`);
  }
  const common = { unit: 'ms', remarks } as const;
  return [
    {
      ...common,
      name: `layers: ${trial.what} of 1 TiB, depth 32 on ${trial.volume === THIN ? 'it' : 'another'}`,
      samples: acts,
      against: null,
      aim: { kind: 'value', below: LIMIT_MS },
    },
    {
      ...common,
      name: `layers: longest wait of fio beside that ${trial.what}`,
      samples: busy,
      against: { name: 'without', samples: quiet },
      aim: { kind: 'excess', below: LIMIT_MS },
      remarks: [],
    },
  ];
}

/** Snapshots stay: each round begins on a chain that is one longer. */
export async function measurePauses(node: TestNode, options: RoundOptions): Promise<Comparison[]> {
  const writtenBytes = Math.min(WRITTEN_SIZES * options.sizeBytes, THIN_BYTES);
  options.progress(`${PAUSES}: writing ${writtenBytes / 2 ** 20} MiB`);
  await node.createVolume(THIN, String(THIN_BYTES));
  await write(node.uri(THIN), 0, writtenBytes);
  const taken = await measureTrial(
    node,
    {
      what: 'snapshot',
      volume: THIN,
      writtenBytes,
      act: async (round) => await snapshot(node, THIN, `at-${round}`),
    },
    options,
  );
  await node.createVolume(NEIGHBOUR, String(options.sizeBytes));
  await write(node.uri(NEIGHBOUR), 0, options.sizeBytes);
  const restored = await measureTrial(
    node,
    {
      what: 'restore',
      volume: NEIGHBOUR,
      writtenBytes: options.sizeBytes,
      act: async (round) => await restore(node, THIN, `at-${round}`),
    },
    options,
  );
  return [...taken, ...restored];
}
