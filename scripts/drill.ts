/**
 * `npm run drill -- NAME|all [--rounds N] [--seed S] [--mode async|sync] [--short] [--strict] [--json FILE] [--keep]`:
 * rehearses disasters with real processes and says what came of it (docs/operating/drills.md). Exit code: 0 sound, 1 a
 * violation or a drill that could not be held, 2 usage.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Drill, holdRound, type RoundResult } from './drill/frame.ts';
import { blockferryBin } from './drill/node.ts';
import type { OracleMode } from './drill/oracle.ts';
import { run } from './drill/process.ts';
import { report, summaryLine, writeReport } from './drill/report.ts';
import { DRILLS } from './drill/table.ts';

const NAME_COLUMNS = Math.max(...DRILLS.map(({ name }) => name.length)) + 2;
const USAGE = `usage: npm run drill -- NAME|all [--rounds N] [--seed S] [--mode async|sync] [--short] [--strict] [--json FILE] [--keep]

${DRILLS.map(({ name, about }) => `  ${name.padEnd(NAME_COLUMNS)}${about}`).join('\n')}
  ${'all'.padEnd(NAME_COLUMNS)}every drill in each of its modes; writes docs/drills.md

  --rounds N   hold the drill so many times, each with its own seed (default 1)
  --seed S     picks the moments of the first round; the next rounds count on (default: by the clock)
  --mode M     async or sync mirror (default: async, and with \`all\` both where they differ)
  --short      fewer and shorter disasters
  --strict     hold to the targets for times, whatever else the machine does
  --json FILE  write the results there too
  --keep       keep logs, records and images of every round, not only of failed ones
`;

const ROUNDS_MAX = 10_000;
const SEED_MAX = 0xffffffff;

interface Request {
  /** What to hold in one round. */
  readonly program: readonly { readonly drill: Drill; readonly mode: OracleMode }[];
  readonly all: boolean;
  readonly rounds: number;
  readonly seed: number;
  readonly short: boolean;
  readonly strict: boolean;
  readonly keep: boolean;
  readonly json: string | null;
}

class UsageError extends Error {}

function integer(name: string, text: string, low: number, high: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= low && value <= high) return value;
  throw new UsageError(`--${name} ${text}: a number from ${low} to ${high} is needed`);
}

function programOf(name: string, mode: string | undefined): Request['program'] {
  if (mode !== undefined && mode !== 'async' && mode !== 'sync') {
    throw new UsageError(`--mode ${mode}: async or sync is needed`);
  }
  if (name === 'all') {
    return DRILLS.flatMap((drill) =>
      drill.modes
        .filter((each) => mode === undefined || each === mode)
        .map((each) => ({ drill, mode: each })),
    );
  }
  const drill = DRILLS.find((each) => each.name === name);
  if (drill === undefined) {
    const names = DRILLS.map((each) => each.name).join(', ');
    throw new UsageError(`the drills: ${names}, all (not ${JSON.stringify(name)})`);
  }
  return [{ drill, mode: mode ?? drill.modes[0] ?? 'async' }];
}

function parse(args: readonly string[]): Request | null {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '1' },
      seed: { type: 'string', default: String(Date.now() % SEED_MAX) },
      mode: { type: 'string' },
      short: { type: 'boolean', default: false },
      strict: { type: 'boolean', default: false },
      json: { type: 'string' },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return null;
  const [name = ''] = positionals;
  const program = programOf(positionals.length === 1 ? name : positionals.join(' '), values.mode);
  return {
    program,
    all: name === 'all',
    rounds: integer('rounds', values.rounds, 1, ROUNDS_MAX),
    seed: integer('seed', values.seed, 0, SEED_MAX),
    short: values.short,
    strict: values.strict,
    keep: values.keep,
    json: values.json ?? null,
  };
}

const TOOLS =
  'nbdfuse nbdcopy nbdkit losetup mkfs.ext4 e2fsck mount umount fio sqlite3 unshare cmp fusermount3';
const PACKAGES = 'libnbd-bin python3-libnbd nbdkit fio e2fsprogs mount fuse3 sqlite3 util-linux';

/** The line that says what this machine lacks, or null. */
async function lacking(): Promise<string | null> {
  if (process.getuid?.() !== 0) return 'the drills mount filesystems: run them as root';
  const script = 'for tool; do command -v "$tool" >/dev/null || echo "$tool"; done';
  const { stdout } = await run('sh', ['-c', script, 'sh', ...TOOLS.split(' ')]);
  const libnbd = await run('/usr/bin/python3', ['-c', 'import nbd'], { accept: [0, 1] });
  const missing = `${stdout}${libnbd.code === 0 ? '' : 'python3-libnbd'}`.trim();
  if (missing === '') return null;
  return `missing: ${missing.replaceAll('\n', ' ')} (Debian: apt install ${PACKAGES})`;
}

function print(line: string): void {
  console.log(line);
}

async function hold(request: Request, signal: AbortSignal): Promise<RoundResult[]> {
  const results: RoundResult[] = [];
  for (let index = 0; index < request.rounds; index++) {
    const seed = (request.seed + index) % (SEED_MAX + 1);
    for (const { drill, mode } of request.program) {
      if (signal.aborted) return results;
      console.log(`round ${index + 1} of ${request.rounds}: ${drill.name}, ${mode}, seed ${seed}`);
      const { short, strict, keep } = request;
      const result = await holdRound(drill, { seed, mode, short, strict, keep, print, signal });
      results.push(result);
      tell(result, request);
    }
  }
  return results;
}

function tell(result: RoundResult, { short, strict }: Request): void {
  const { drill, mode, seed, outcome, why } = result;
  for (const violation of result.violations) console.log(`violation: ${violation}`);
  if (why === 'interrupted') console.log('interrupted');
  else if (outcome === 'skipped') console.log(`skipped: ${why ?? ''}`);
  else if (why !== null) console.log(`the round could not be finished: ${why}`);
  console.log(summaryLine(result));
  if (outcome === 'sound' || outcome === 'skipped') return;
  const words = `${short ? ' --short' : ''}${strict ? ' --strict' : ''}`;
  console.log(`again: npm run drill -- ${drill} --seed ${seed} --mode ${mode}${words}`);
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
  blockferryBin();
  const abort = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (!abort.signal.aborted) console.log(`${name}: cleaning up`);
      abort.abort(new Error('interrupted'));
    });
  }
  const results = await hold(request, abort.signal);
  return conclude(request, results, abort.signal.aborted);
}

function conclude(request: Request, results: readonly RoundResult[], aborted: boolean): number {
  if (request.json !== null) writeFileSync(request.json, `${JSON.stringify(results, null, 2)}\n`);
  if (request.all) console.log(`\n${report(results)}`);
  if (request.all && !aborted) writeReport(results, request.short);
  const held = results.filter(({ outcome }) => outcome !== 'skipped');
  const sound = held.filter(({ outcome }) => outcome === 'sound').length;
  const skipped = results.length - held.length;
  const passed = sound === held.length && !aborted;
  console.log(
    `drill ${passed ? 'PASSED' : 'FAILED'}: ${sound} of ${held.length} rounds sound` +
      (skipped === 0 ? '' : `, ${skipped} skipped`),
  );
  return passed ? 0 : 1;
}

process.exit(await main());
