/**
 * `npm run simulate`: random histories of volumes on a simulated disk, with kills, power cuts and faults, held against
 * a model. A failure prints the seed that plays it again, and the few steps that are enough for it.
 */
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { reportOf, tryHistory } from '../test/sim/run.ts';

const USAGE = `usage: npm run simulate -- [--histories N] [--seed S] [--minutes M] [--failures F]
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

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
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
  const began = performance.now();
  let played = 0;
  let failures = 0;
  console.log(`simulating from seed ${first}`);
  for (let seed = first; seed < first + histories && failures < failuresMax; seed += 1) {
    if (performance.now() - began > minutes * 60_000) break;
    const found = await tryHistory(seed);
    played += 1;
    if (found === null) continue;
    failures += 1;
    console.log(reportOf(found));
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
