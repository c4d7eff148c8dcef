/**
 * `npm run simulate`: random histories of volumes on a simulated disk, with kills, power cuts and faults, held against
 * a model; with `--ferry` of a primary and its mirrors, with all that can happen to the lines between them. A failure prints
 * the seed that plays it again, and the few steps that are enough for it.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import * as ferry from '../test/sim/ferry/run.ts';
import { reportOf, tryHistory } from '../test/sim/run.ts';

const USAGE = `usage: npm run simulate -- [--ferry] [--histories N] [--seed S] [--minutes M] [--failures F] [--jobs J]
  --ferry         of a primary with its mirrors, and not of volumes alone
  --histories N   how many (default 1000)
  --seed S        of the first one; the others follow (default: chosen, and printed)
  --minutes M     no longer than this
  --failures F    stop after so many (default 1)
  --jobs J        threads that play side by side (default 1)`;

const JOBS_MAX = 64;
const HISTORIES_PER_LINE = 1000;

function wholeNumber(text: string | undefined, name: string, otherwise: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`${name} is a whole number`);
  return value;
}

/** What is wrong with the history of a seed, or null. */
async function playVolumes(seed: number): Promise<string | null> {
  const found = await tryHistory(seed);
  return found === null ? null : reportOf(found);
}

async function playFerry(seed: number): Promise<string | null> {
  const found = await ferry.tryFerry(seed);
  return found === null ? null : ferry.reportOf(found);
}

interface Plan {
  readonly ferry: boolean;
  readonly first: number;
  /** From one seed to the next. */
  readonly stride: number;
  /** Behind the last seed. */
  readonly end: number;
  /** As `Date.now` tells the time. */
  readonly deadline: number;
}

/** Tells `hear` of each history what is wrong with it, or null; goes on until that says false. */
async function playAll(plan: Plan, hear: (report: string | null) => boolean): Promise<void> {
  const play = plan.ferry ? playFerry : playVolumes;
  for (let seed = plan.first; seed < plan.end; seed += plan.stride) {
    if (Date.now() > plan.deadline || !hear(await play(seed))) return;
  }
}

/** Each job has a thread, and every so manieth seed. */
async function playInThreads(
  plan: Plan,
  jobs: number,
  hear: (report: string | null) => boolean,
): Promise<void> {
  const threads: Worker[] = [];
  const over: Promise<void>[] = [];
  for (let job = 0; job < jobs; job += 1) {
    const part: Plan = { ...plan, first: plan.first + job, stride: jobs };
    const thread = new Worker(new URL(import.meta.url), { workerData: part });
    threads.push(thread);
    thread.on('message', (report: string | null) => {
      if (!hear(report)) for (const each of threads) void each.terminate();
    });
    over.push(
      new Promise((resolve, reject) => {
        thread.once('error', reject);
        thread.once('exit', () => resolve());
      }),
    );
  }
  await Promise.all(over);
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      ferry: { type: 'boolean', default: false },
      histories: { type: 'string' },
      seed: { type: 'string' },
      minutes: { type: 'string' },
      failures: { type: 'string' },
      jobs: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return;
  }
  const minutes = wholeNumber(values.minutes, '--minutes', Infinity);
  // With a time and no number: as many as fit.
  const histories = wholeNumber(
    values.histories,
    '--histories',
    minutes < Infinity ? Infinity : 1000,
  );
  const first = wholeNumber(values.seed, '--seed', randomInt(2 ** 32));
  const failuresMax = Math.max(1, wholeNumber(values.failures, '--failures', 1));
  const jobs = Math.min(JOBS_MAX, Math.max(1, wholeNumber(values.jobs, '--jobs', 1)));
  const began = performance.now();
  let played = 0;
  let failures = 0;
  const hear = (report: string | null): boolean => {
    if (failures >= failuresMax) return false;
    played += 1;
    if (report !== null) {
      failures += 1;
      console.log(report);
    }
    if (played % HISTORIES_PER_LINE === 0) console.log(`${played} histories, ${failures} failed`);
    return failures < failuresMax;
  };
  console.log(`simulating from seed ${first}`);
  const plan: Plan = {
    ferry: values.ferry,
    first,
    stride: 1,
    end: first + histories,
    deadline: Date.now() + minutes * 60_000,
  };
  await (jobs === 1 ? playAll(plan, hear) : playInThreads(plan, jobs, hear));
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  console.log(`simulate: ${played} histories in ${seconds} s, ${failures} failed`);
  process.exitCode = failures === 0 ? 0 : 1;
}

try {
  if (isMainThread) await main();
  else {
    await playAll(workerData as Plan, (report) => {
      parentPort?.postMessage(report, []);
      return true;
    });
  }
} catch (thrown) {
  console.error(`simulate: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
  process.exitCode = 2;
}
