/** Runs targets one after the other in slices, for as long as is wanted. */
import type { Failure, Target } from './target.ts';

export interface TargetChoice {
  readonly name: string;
  /** Of the time, in proportion to the others. */
  readonly weight: number;
  readonly start: () => Promise<Target>;
}

export interface FuzzRun {
  readonly targets: readonly TargetChoice[];
  readonly seed: number;
  /** The only iteration to play, or null for one after the other from 0. */
  readonly iteration: number | null;
  /** Infinity: until `stopped`. */
  readonly seconds: number;
  readonly stopped: () => boolean;
  readonly say: (line: string) => void;
}

const SLICE_MS = 5_000;
const FAILURES_MAX = 3;

class Turn {
  readonly choice: TargetChoice;
  readonly target: Target;
  iterations = 0;
  spentMs = 0;

  constructor(choice: TargetChoice, target: Target) {
    this.choice = choice;
    this.target = target;
  }
}

function report(run: FuzzRun, name: string, iteration: number, { error, details }: Failure): void {
  run.say(`FAILED in ${name}, seed ${run.seed}, iteration ${iteration}: ${error.message}`);
  run.say(details);
  run.say(error.stack ?? '');
  run.say(`again: npm run fuzz -- --target ${name} --seed ${run.seed} --iteration ${iteration}`);
}

/** The number of failures. */
export async function fuzz(run: FuzzRun): Promise<number> {
  const turns: Turn[] = [];
  let failures = 0;
  try {
    for (const choice of run.targets) turns.push(new Turn(choice, await choice.start()));
    failures = await play(run, turns);
  } finally {
    for (const { target, choice, iterations } of turns) {
      run.say(`${choice.name}: ${iterations} iterations, ${target.summary()}`);
      try {
        await target.close();
      } catch (thrown) {
        failures++;
        run.say(`FAILED at the end of ${choice.name}: ${String(thrown)}`);
      }
    }
  }
  return failures;
}

async function play(run: FuzzRun, turns: readonly Turn[]): Promise<number> {
  let failures = 0;
  const deadline = performance.now() + run.seconds * 1000;
  const over = (): boolean =>
    run.stopped() || failures >= FAILURES_MAX || performance.now() >= deadline;
  if (run.iteration !== null) {
    for (const turn of turns) {
      const { choice, target } = turn;
      turn.iterations++;
      const failure = await target.iterate(run.seed, run.iteration);
      if (failure !== null) report(run, choice.name, run.iteration, failure);
      failures += failure === null ? 0 : 1;
    }
    return failures;
  }
  while (!over()) {
    const turn = nextOf(turns);
    const began = performance.now();
    const end = began + Math.min(SLICE_MS, (run.seconds * 1000) / (4 * turns.length));
    do {
      const iteration = turn.iterations++;
      const failure = await turn.target.iterate(run.seed, iteration);
      await breathe();
      if (failure === null) continue;
      failures++;
      report(run, turn.choice.name, iteration, failure);
    } while (performance.now() < end && !over());
    turn.spentMs += performance.now() - began;
  }
  return failures;
}

/** Targets in memory never wait: sockets and signals of this process want their turn too. */
const breathe = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** The one that had least of its share. */
function nextOf(turns: readonly Turn[]): Turn {
  const [first] = turns.toSorted(
    (left, right) => left.spentMs / left.choice.weight - right.spentMs / right.choice.weight,
  );
  if (first === undefined) throw new Error('no target');
  return first;
}
