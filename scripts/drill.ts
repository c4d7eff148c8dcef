/**
 * `npm run drill -- failover|restart [--rounds N] [--seed S] [--mode async|sync] [--keep]`: rehearses a disaster
 * with real processes and says what came of it (docs/operating/drills.md). Exit code: 0 sound, 1 a
 * violation or a drill that could not be held, 2 usage.
 */
import { parseArgs } from 'node:util';
import { DRILLS, holdRound as playRound, type Drill } from './drill/failover.ts';
import type { OracleMode } from './drill/oracle.ts';
import { run } from './drill/process.ts';

const USAGE = `usage: npm run drill -- failover|restart [--rounds N] [--seed S] [--mode async|sync] [--keep]

  failover     the mirror is promoted, the old primary becomes its mirror
  restart      the primary comes back, and its mirror is brought in step

  --rounds N   hold the drill so many times, each with its own seed (default 1)
  --seed S     picks the moments of the first round; the next rounds count on (default: by the clock)
  --mode M     async or sync mirror (default async)
  --keep       keep logs, records and images of every round, not only of failed ones
`;

const ROUNDS_MAX = 10_000;
const SEED_MAX = 0xffffffff;

interface Request {
  readonly drill: Drill;
  readonly rounds: number;
  readonly seed: number;
  readonly mode: OracleMode;
  readonly keep: boolean;
}

class UsageError extends Error {}

function integer(name: string, text: string, low: number, high: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= low && value <= high) return value;
  throw new UsageError(`--${name} ${text}: a number from ${low} to ${high} is needed`);
}

function parse(args: readonly string[]): Request | null {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '1' },
      seed: { type: 'string', default: String(Date.now() % SEED_MAX) },
      mode: { type: 'string', default: 'async' },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return null;
  const drill = DRILLS.find((name) => name === positionals[0]);
  if (positionals.length !== 1 || drill === undefined) {
    throw new UsageError(`the drills: ${DRILLS.join(', ')} (not ${JSON.stringify(positionals)})`);
  }
  if (values.mode !== 'async' && values.mode !== 'sync') {
    throw new UsageError(`--mode ${values.mode}: async or sync is needed`);
  }
  return {
    drill,
    rounds: integer('rounds', values.rounds, 1, ROUNDS_MAX),
    seed: integer('seed', values.seed, 0, SEED_MAX),
    mode: values.mode,
    keep: values.keep,
  };
}

/** The line that says what this machine lacks, or null. */
async function lacking(): Promise<string | null> {
  if (process.getuid?.() !== 0) return 'the drill mounts a filesystem: run it as root';
  const tools = ['nbdfuse', 'nbdcopy', 'losetup', 'mkfs.ext4', 'e2fsck', 'mount', 'umount', 'fio'];
  const script = 'for tool; do command -v "$tool" >/dev/null || echo "$tool"; done';
  const missing = (await run('sh', ['-c', script, 'sh', ...tools])).stdout.trim();
  if (missing === '') return null;
  return `missing: ${missing.replaceAll('\n', ' ')} (Debian: apt install libnbd-bin fio e2fsprogs mount)`;
}

async function hold(request: Request, signal: AbortSignal): Promise<boolean> {
  let sound = 0;
  for (let index = 0; index < request.rounds; index++) {
    const seed = (request.seed + index) % (SEED_MAX + 1);
    const { drill, mode } = request;
    console.log(`round ${index + 1} of ${request.rounds}: ${drill}, ${mode}, seed ${seed}`);
    if (await holdRound({ ...request, seed }, signal)) sound++;
    else console.log(`again: npm run drill -- ${drill} --seed ${seed} --mode ${mode}`);
    if (signal.aborted) break;
  }
  const passed = sound === request.rounds;
  console.log(`drill ${passed ? 'PASSED' : 'FAILED'}: ${sound} of ${request.rounds} rounds sound`);
  return passed;
}

function print(line: string): void {
  console.log(line);
}

async function holdRound(request: Request, signal: AbortSignal): Promise<boolean> {
  try {
    const { drill, seed, mode, keep } = request;
    const violations = await playRound({ drill, seed, mode, keep, print, signal });
    for (const violation of violations) console.log(`violation: ${violation}`);
    return violations.length === 0;
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    console.log(signal.aborted ? 'interrupted' : `the round could not be finished: ${why}`);
    return false;
  }
}

async function main(): Promise<number> {
  let request: Request | null;
  try {
    request = parse(process.argv.slice(2));
  } catch (thrown) {
    console.error(thrown instanceof Error ? thrown.message : String(thrown));
    console.error(USAGE);
    return 2;
  }
  if (request === null) {
    console.log(USAGE);
    return 0;
  }
  const refusal = await lacking();
  if (refusal !== null) {
    console.error(refusal);
    return 1;
  }
  const abort = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (!abort.signal.aborted) console.log(`${name}: cleaning up`);
      abort.abort(new Error('interrupted'));
    });
  }
  return (await hold(request, abort.signal)) ? 0 : 1;
}

process.exit(await main());
