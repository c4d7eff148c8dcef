/**
 * `npm run fuzz`: hostile clients against the server, and hostile mirrors against our client and a real
 * primary, from seeded dice and judged by an oracle that knows the protocol. A failure prints what plays
 * it again. What is shown and how: docs/internals/fuzzing.md.
 */
import { randomInt } from 'node:crypto';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { fuzz, type FuzzRun } from './fuzz/loop.ts';
import { targetNames, targetsOf } from './fuzz/targets.ts';

const USAGE = `usage: npm run fuzz -- [--target NAME] [--seconds N] [--seed S] [--iteration I] [--jobs J]
  --target NAME   one of ${targetNames()} (default all)
  --seconds N     how long (default 60); 0: until Ctrl-C
  --seed S        the dice (default: chosen, and printed)
  --iteration I   only this one: plays a failure again
  --jobs J        so many processes, with the seeds S, S+1, ... (default 1)`;

interface Settings {
  readonly target: string;
  readonly seconds: number;
  readonly seed: number;
  readonly iteration: number | null;
  readonly jobs: number;
}

function wholeNumber(text: string | undefined, name: string, max: number): number | null {
  if (text === undefined) return null;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new Error(`${name} is a whole number up to ${max}`);
  }
  return value;
}

function settingsFrom(args: readonly string[]): Settings | null {
  const { values } = parseArgs({
    args: [...args],
    options: {
      target: { type: 'string', default: 'all' },
      seconds: { type: 'string' },
      seed: { type: 'string' },
      iteration: { type: 'string' },
      jobs: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return null;
  if (targetsOf(values.target) === null) throw new Error(`--target is one of ${targetNames()}`);
  return {
    target: values.target,
    seconds: wholeNumber(values.seconds, '--seconds', 10 ** 9) ?? 60,
    seed: wholeNumber(values.seed, '--seed', Number.MAX_SAFE_INTEGER) ?? randomInt(2 ** 32),
    iteration: wholeNumber(values.iteration, '--iteration', Number.MAX_SAFE_INTEGER),
    jobs: Math.max(1, wholeNumber(values.jobs, '--jobs', 256) ?? 1),
  };
}

async function inThisProcess(settings: Settings): Promise<number> {
  let stopped = false;
  const stop = (): void => {
    stopped = true;
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  const { target, seed, iteration, seconds } = settings;
  console.log(`fuzzing ${target} with the seed ${seed}`);
  const run: FuzzRun = {
    targets: targetsOf(target) ?? [],
    seed,
    iteration,
    seconds: seconds === 0 ? Infinity : seconds,
    stopped: () => stopped,
    say: (line) => console.log(line),
  };
  return await fuzz(run);
}

/** Each process has a seed of its own; one that fails does not end the others. */
async function inProcesses({ target, seconds, seed, jobs }: Settings): Promise<number> {
  const script = fileURLToPath(import.meta.url);
  const children = Array.from({ length: jobs }, (_, job) => {
    const args = ['--target', target, '--seconds', `${seconds}`, '--seed', `${seed + job}`];
    return spawn(process.execPath, [script, ...args], { stdio: 'inherit' });
  });
  const pass = (signal: NodeJS.Signals) => (): void => {
    for (const child of children) child.kill(signal);
  };
  process.on('SIGINT', pass('SIGINT')).on('SIGTERM', pass('SIGTERM'));
  const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0]));
  return codes.filter((code) => code !== 0).length;
}

async function main(): Promise<void> {
  const settings = settingsFrom(process.argv.slice(2));
  if (settings === null) {
    console.log(USAGE);
    return;
  }
  const alone = settings.jobs === 1 || settings.iteration !== null;
  const failures = await (alone ? inThisProcess(settings) : inProcesses(settings));
  console.log(failures === 0 ? 'fuzz: nothing found' : `fuzz: ${failures} failures`);
  process.exitCode = failures === 0 ? 0 : 1;
}

try {
  await main();
} catch (thrown) {
  console.error(`fuzz: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
  process.exitCode = 2;
}
