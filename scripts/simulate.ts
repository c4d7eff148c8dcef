/**
 * `npm run simulate`: random histories of volumes on a simulated disk, with kills, power cuts and faults, held against
 * a model; with `--ferry` of a primary and its mirrors, with all that can happen to the lines between them. A failure prints the seed that plays it again, and the few steps that are enough for it.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import * as ferry from '../test/sim/ferry/run.ts';
import { reportOf, tryHistory } from '../test/sim/run.ts';

const USAGE = `usage: npm run simulate -- [--ferry] [--histories N] [--seed S] [--minutes M] [--failures F]
  --ferry         of a primary with its mirrors, and not of volumes alone
  --histories N   how many (default 1000)
  --seed S        of the first one; the others follow (default: chosen, and printed)
  --minutes M     no longer than this
  --failures F    stop after so many (default 1)`;

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

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      ferry: { type: 'boolean', default: false },
      histories: { type: 'string' },
      seed: { type: 'string' },
      minutes: { type: 'string' },
      failures: { type: 'string' },
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
  const play = values.ferry ? playFerry : playVolumes;
  const began = performance.now();
  let played = 0;
  let failures = 0;
  console.log(`simulating from seed ${first}`);
  for (let seed = first; seed < first + histories && failures < failuresMax; seed += 1) {
    if (performance.now() - began > minutes * 60_000) break;
    const report = await play(seed);
    played += 1;
    if (report === null) continue;
    failures += 1;
    console.log(report);
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  console.log(`simulate: ${played} histories in ${seconds} s, ${failures} failed`);
  process.exitCode = failures === 0 ? 0 : 1;
}

try {
  await main();
} catch (thrown) {
  console.error(`simulate: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
  process.exitCode = 2;
}
