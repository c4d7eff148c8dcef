/**
 * `npm run drill -- NAME|all [--rounds N] [--seed S] [--mode async|sync] [--client nbd|kernel] [--size SIZE] [--short] [--strict] [--json FILE] [--keep]`:
 * rehearses disasters with real processes and says what came of it (docs/operating/drills.md). Exit code: 0 sound, 1 a
 * violation or a drill that could not be held, 2 usage.
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Client, type Drill, holdRound, type RoundResult } from './drill/frame.ts';
import { kernelLacking } from './drill/guest.ts';
import { blockferryBin } from './drill/node.ts';
import type { OracleMode } from './drill/oracle.ts';
import { run } from './drill/process.ts';
import { report, summaryLine, writeReport } from './drill/report.ts';
import { DRILLS } from './drill/table.ts';

const NAME_COLUMNS = Math.max(...DRILLS.map(({ name }) => name.length)) + 2;
const USAGE = `usage: npm run drill -- NAME|all [--rounds N] [--seed S] [--mode async|sync] [--client nbd|kernel] [--size SIZE] [--short] [--strict] [--json FILE] [--keep]

${DRILLS.map(({ name, about }) => `  ${name.padEnd(NAME_COLUMNS)}${about}`).join('\n')}
  ${'all'.padEnd(NAME_COLUMNS)}every drill in each of its modes; writes docs/drills.md

  --rounds N   hold the drill so many times, each with its own seed (default 1)
  --seed S     picks the moments of the first round; the next rounds count on (default: by the clock)
  --mode M     async or sync mirror (default: async, and with \`all\` both where they differ)
  --client C   who uses the volume: nbd, or kernel, a Linux kernel with its NBD client (default: kernel in
               switchover, nbd elsewhere; nbd where there is none)
  --size SIZE  of the volume, 64M to 64G, with 1 % of it changed (failback alone; default 64M)
  --short      fewer and shorter disasters
  --strict     hold to the targets for times, whatever else the machine does
  --json FILE  write the results there too
  --keep       keep logs, records and images of every round, not only of failed ones
`;

const ROUNDS_MAX = 10_000;
const SIZE_BYTES = { low: 64 * 2 ** 20, high: 64 * 2 ** 30 };
const SEED_MAX = 0xffffffff;

interface Entry {
  readonly drill: Drill;
  readonly mode: OracleMode;
  readonly client: Client;
}

interface Request {
  /** What to hold in one round. */
  readonly program: readonly Entry[];
  readonly clientAsked: boolean;
  readonly sizeBytes: number | null;
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

function oneOf<T extends string>(
  option: string,
  text: string | undefined,
  words: readonly T[],
): T | undefined {
  const found = words.find((word) => word === text);
  if (text === undefined || found !== undefined) return found;
  throw new UsageError(`--${option} ${text}: ${words.join(' or ')} is needed`);
}

/** Bytes of a size such as 512M or 4G. */
function sizeOf(text: string | undefined): number | null {
  if (text === undefined) return null;
  const [, count = '', unit = ''] = /^(\d{1,5})([MG])$/.exec(text) ?? [];
  const bytes = Number(count) * 2 ** (unit === 'G' ? 30 : 20);
  if (bytes >= SIZE_BYTES.low && bytes <= SIZE_BYTES.high) return bytes;
  throw new UsageError(`--size ${text}: 64M to 64G is needed`);
}

function programOf(
  name: string,
  mode: OracleMode | undefined,
  client: Client | undefined,
): Request['program'] {
  if (name === 'all') {
    return DRILLS.flatMap((drill) => {
      const clients = (drill.clients ?? ['nbd']).filter((each) => each === (client ?? each));
      const modes = drill.modes.filter((each) => each === (mode ?? each));
      return modes.flatMap((each) => clients.map((used) => ({ drill, mode: each, client: used })));
    });
  }
  const drill = DRILLS.find((each) => each.name === name);
  if (drill === undefined) {
    const names = DRILLS.map((each) => each.name).join(', ');
    throw new UsageError(`the drills: ${names}, all (not ${JSON.stringify(name)})`);
  }
  const used = client ?? drill.clients?.[0] ?? 'nbd';
  if (used === 'kernel' && drill.clients?.includes(used) !== true) {
    throw new UsageError(`${name} has no kernel client`);
  }
  return [{ drill, mode: mode ?? drill.modes[0] ?? 'async', client: used }];
}

/** Without a kernel client others take its place, once. */
function withoutKernel(program: Request['program']): Request['program'] {
  const nbd = program.map((entry) => ({ ...entry, client: 'nbd' as const }));
  return nbd.filter(
    ({ drill, mode }, at) =>
      nbd.findIndex((each) => each.drill === drill && each.mode === mode) === at,
  );
}

function parse(args: readonly string[]): Request | null {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      rounds: { type: 'string', default: '1' },
      seed: { type: 'string', default: String(Date.now() % SEED_MAX) },
      mode: { type: 'string' },
      client: { type: 'string' },
      size: { type: 'string' },
      short: { type: 'boolean', default: false },
      strict: { type: 'boolean', default: false },
      json: { type: 'string' },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return null;
  const [name = ''] = positionals;
  const wanted = positionals.length === 1 ? name : positionals.join(' ');
  const mode = oneOf('mode', values.mode, ['async', 'sync']);
  const client = oneOf('client', values.client, ['nbd', 'kernel']);
  const program = programOf(wanted, mode, client);
  const sizeBytes = sizeOf(values.size);
  if (sizeBytes !== null && program.some(({ drill }) => drill.sized !== true)) {
    throw new UsageError(`--size: ${wanted} has its own`);
  }
  return {
    program,
    sizeBytes,
    clientAsked: client !== undefined,
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
    for (const { drill, mode, client } of request.program) {
      if (signal.aborted) return results;
      const words = `${drill.name}, ${mode}${client === 'kernel' ? ', kernel client' : ''}`;
      console.log(`round ${index + 1} of ${request.rounds}: ${words}, seed ${seed}`);
      const { short, strict, keep, sizeBytes } = request;
      const options = { seed, mode, client, sizeBytes, short, strict, keep, print, signal };
      const result = await holdRound(drill, options);
      results.push(result);
      tell(result, request);
    }
  }
  return results;
}

function tell(result: RoundResult, { short, strict }: Request): void {
  const { drill, mode, client, seed, outcome, why } = result;
  for (const violation of result.violations) console.log(`violation: ${violation}`);
  if (why === 'interrupted') console.log('interrupted');
  else if (outcome === 'skipped') console.log(`skipped: ${why ?? ''}`);
  else if (why !== null) console.log(`the round could not be finished: ${why}`);
  console.log(summaryLine(result));
  if (outcome === 'sound' || outcome === 'skipped') return;
  const words = `--client ${client}${short ? ' --short' : ''}${strict ? ' --strict' : ''}`;
  console.log(`again: npm run drill -- ${drill} --seed ${seed} --mode ${mode} ${words}`);
}

/** A kernel client that nobody asked for by name is done without where there is none. */
async function withKernelIfThere(request: Request): Promise<Request> {
  const wanted = request.program.some(({ client }) => client === 'kernel');
  const lacking = wanted && !request.clientAsked ? await kernelLacking() : null;
  if (lacking === null) return request;
  console.log(`without a kernel client: ${lacking}`);
  return { ...request, program: withoutKernel(request.program) };
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
  request = await withKernelIfThere(request);
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
