/**
 * `npm run bench`: fio against this server, nbdkit's file plugin and qemu-nbd; then, mirrored, against
 * qemu-storage-daemon. It prints what it measured beside what the project aims at and claims nothing:
 * the exit code tells only whether every tool ran. How to read it: docs/benchmarks.md.
 */
import { performance } from 'node:perf_hooks';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { run } from '../test/support/process.ts';
import { Scope } from '../test/support/scope.ts';
import {
  blockferry,
  blockferryMirrored,
  nbdkit,
  qemuMirrored,
  qemuNbd,
  type Contender,
  type Ground,
} from './bench/contenders.ts';
import { measure, type Measured, type RoundOptions } from './bench/measure.ts';
import { catchUpTable, speedTable, surroundings } from './bench/report.ts';
import { MIRRORED, SERVING, type Workload } from './bench/workloads.ts';
import { missingTools } from './setup-tools.ts';

const USAGE = `usage: npm run bench -- [--quick] [--rounds N] [--seconds S] [--size MIB] [--only TEXT] [--json] [--dir DIR]
  --quick      about a minute and a half instead of about ten
  --rounds N   rounds of each workload (default 5, quick 2)
  --seconds S  length of a round (default 4, quick 1)
  --size MIB   size of the disks (default 1024, quick 512)
  --only TEXT  workloads whose name contains TEXT
  --json       every sample as JSON instead of tables
  --dir DIR    where the disks lie (default the directory for temporary files)`;

interface Settings {
  readonly quick: boolean;
  readonly json: boolean;
  readonly only: string;
  readonly dir: string;
  readonly rounds: number;
  readonly roundMs: number;
  readonly sizeBytes: number;
}

function numberOf(text: string | undefined, otherwise: number, name: string, max: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!(value > 0) || value > max) throw new Error(`${name} is a number from 1 to ${max}`);
  return value;
}

function settingsFrom(args: readonly string[]): Settings | null {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      size: { type: 'string' },
      only: { type: 'string', default: '' },
      dir: { type: 'string', default: tmpdir() },
    },
  });
  if (values.help) return null;
  const { quick, json, only, dir } = values;
  return {
    quick,
    json,
    only,
    dir,
    rounds: Math.floor(numberOf(values.rounds, quick ? 2 : 5, '--rounds', 100)),
    roundMs: numberOf(values.seconds, quick ? 1 : 4, '--seconds', 60) * 1000,
    sizeBytes: Math.floor(numberOf(values.size, quick ? 512 : 1024, '--size', 65536)) * 2 ** 20,
  };
}

/** Runs one table: its contenders live only as long as it does. */
async function section(
  settings: Settings,
  workloads: readonly Workload[],
  makers: readonly ((ground: Ground) => Promise<Contender>)[],
  options: RoundOptions,
): Promise<Measured[]> {
  const chosen = workloads.filter(
    (workload) => workload.name.includes(settings.only) && !(settings.quick && workload.long),
  );
  if (chosen.length === 0) return [];
  const scope = new Scope();
  const stop = (): void => {
    void scope.close().finally(() => process.exit(130));
  };
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    const dir = scope.tempDir('bf-bench-', settings.dir);
    const image = join(dir, 'image');
    options.progress(`preparing disks of ${settings.sizeBytes / 2 ** 20} MiB in ${dir}`);
    await run('dd', [
      'if=/dev/urandom',
      `of=${image}`,
      'bs=1M',
      `count=${settings.sizeBytes / 2 ** 20}`,
    ]);
    const ground: Ground = { scope, dir, sizeBytes: settings.sizeBytes, image };
    const contenders: Contender[] = [];
    for (const make of makers) contenders.push(await make(ground));
    await run('sync', ['-f', dir]); // nobody's rounds pay for preparing another's disk
    const results: Measured[] = [];
    for (const workload of chosen) results.push(await measure(contenders, workload, options));
    return results;
  } catch (thrown) {
    console.error(scope.reports());
    throw thrown;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    await scope.close();
  }
}

function print(
  settings: Settings,
  serving: readonly Measured[],
  mirrored: readonly Measured[],
): void {
  const where = surroundings();
  if (settings.json) {
    console.log(JSON.stringify({ surroundings: where, settings, serving, mirrored }, null, 2));
    return;
  }
  console.log(
    `\n${where.cpu}, ${where.memory_gib} GiB, Linux ${where.kernel}, Node ${where.node}; ${where.tools.join('; ')}`,
  );
  console.log(
    `${settings.rounds} interleaved rounds of ${settings.roundMs / 1000} s, disks of ${settings.sizeBytes / 2 ** 20} MiB; median (least - greatest)`,
  );
  if (serving.length > 0) console.log(`\n${speedTable(serving, 'nbdkit')}`);
  if (mirrored.length === 0) return;
  console.log(`\n${speedTable(mirrored, 'qemu mirror')}\n\n${catchUpTable(mirrored)}`);
  for (const { workload, series } of mirrored) {
    for (const { contender, remarks } of series) {
      for (const remark of remarks) console.log(`${contender}, ${workload.name}: ${remark}`);
    }
  }
}

async function main(): Promise<void> {
  const settings = settingsFrom(process.argv.slice(2));
  if (settings === null) {
    console.log(USAGE);
    return;
  }
  const needed = ['fio', 'nbdkit', 'qemu-nbd', 'qemu-storage-daemon', 'nbdcopy', 'nbdinfo'];
  const lacking = missingTools().filter((tool) => needed.includes(tool.name));
  if (lacking.length > 0) {
    throw new Error(
      `needs ${lacking.map((tool) => `${tool.name} (Debian: ${tool.package})`).join(', ')}`,
    );
  }
  const began = performance.now();
  const options: RoundOptions = {
    rounds: settings.rounds,
    roundMs: settings.roundMs,
    sizeBytes: settings.sizeBytes,
    progress: (line) =>
      console.error(`${((performance.now() - began) / 1000).toFixed(0).padStart(4)} s  ${line}`),
  };
  const serving = await section(settings, SERVING, [blockferry, nbdkit, qemuNbd], options);
  const mirrored = await section(settings, MIRRORED, [blockferryMirrored, qemuMirrored], options);
  print(settings, serving, mirrored);
}

try {
  await main();
} catch (thrown) {
  console.error(`bench: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
  process.exitCode = 1;
}
