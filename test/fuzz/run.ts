/** Runs the fuzzer inside a test: seconds for each target and seed, and a failure that says how to see it again. */
import { randomInt } from 'node:crypto';
import { expect } from 'vitest';
import { fuzz } from '../../scripts/fuzz/loop.ts';
import { targetsOf } from '../../scripts/fuzz/targets.ts';

/** Another one in each run, so that each run explores. */
export const chosenSeed = (): number => randomInt(2 ** 32);

/** Fails with all that the fuzzer said when it found something. */
export async function expectNothingFound(
  target: string,
  seed: number,
  seconds: number,
): Promise<void> {
  const said: string[] = [];
  const failures = await fuzz({
    targets: targetsOf(target) ?? [],
    seed,
    iteration: null,
    seconds,
    stopped: () => false,
    say: (line) => said.push(line),
  });
  console.log(`seed ${seed}: ${said.at(-1) ?? ''}`);
  expect(failures, said.join('\n')).toBe(0);
}
