/**
 * `npm run chaos -- --minutes N [--seed S] [--mode async|sync]`: two real nodes under load, and disasters at random one after
 * another: kills, cuts, silence, pauses, full disks, promotions and failbacks. After each of them the
 * prefix oracle looks at every copy. A report at the end; exit code 1 if anything was wrong, with the seed that begins it again.
 */
import { parseArgs } from 'node:util';
import { chaosDrill } from './drill/chaos.ts';
import { holdRound } from './drill/frame.ts';

const USAGE = `usage: npm run chaos -- --minutes N [--seed S] [--mode async|sync] [--keep]
  --minutes N   how long, 1 to 1440 (default 5)
  --seed S      picks the disasters (default: by the clock, and printed)
  --mode M      async or sync mirror (default async)
  --keep        keep logs and images`;

const MINUTES_MAX = 1440;
const SEED_MAX = 0xffffffff;

function number(text: string, low: number, high: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= low && value <= high) return value;
  throw new Error(`${text}: a number from ${low} to ${high} is needed`);
}

async function main(): Promise<number> {
  let minutes: number;
  let seed: number;
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        minutes: { type: 'string', default: '5' },
        seed: { type: 'string', default: String(Date.now() % SEED_MAX) },
        mode: { type: 'string', default: 'async' },
        keep: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    }));
    if (values.mode !== 'async' && values.mode !== 'sync') throw new Error(`--mode ${values.mode}`);
    minutes = number(values.minutes, 1, MINUTES_MAX);
    seed = number(values.seed, 0, SEED_MAX);
  } catch (thrown) {
    console.error(thrown instanceof Error ? thrown.message : String(thrown));
    console.error(USAGE);
    return 2;
  }
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  if (process.getuid?.() !== 0) {
    console.error('chaos mounts small disks: run it as root');
    return 1;
  }
  const abort = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => abort.abort(new Error('interrupted')));
  }
  console.log(`chaos for ${minutes} min, ${values.mode}, seed ${seed}`);
  const result = await holdRound(chaosDrill(minutes * 60_000), {
    seed,
    mode: values.mode === 'sync' ? 'sync' : 'async',
    client: 'nbd',
    sizeBytes: null,
    short: false,
    strict: false,
    keep: values.keep,
    print: (line) => console.log(line),
    signal: abort.signal,
  });
  for (const violation of result.violations) console.log(`violation: ${violation}`);
  if (result.why !== null) console.log(`could not be finished: ${result.why}`);
  const passed = result.outcome === 'sound';
  console.log(`chaos ${passed ? 'PASSED' : 'FAILED'} in ${result.seconds} s`);
  if (!passed) {
    const { mode } = result;
    console.log(`again: npm run chaos -- --minutes ${minutes} --seed ${seed} --mode ${mode}`);
  }
  return passed ? 0 : 1;
}

process.exit(await main());
