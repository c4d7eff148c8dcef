/**
 * `npm run bench`: fio against this server, nbdkit's file plugin and qemu-nbd; then, mirrored, against
 * qemu-storage-daemon; then two nodes of this server, one with
 * mirrors of the other's volumes; then layered volumes against plain ones; then what a node takes of memory and of time to start. It prints what it measured
 * beside what the project aims at; the exit code tells of missed targets only with --check. How to read
 * it: docs/benchmarks.md.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { run } from '../test/support/process.ts';
import { Scope } from '../test/support/scope.ts';
import { cipherOf, makeCertificates } from './bench/certificates.ts';
import {
  blockferry,
  nbdkit,
  qemuNbd,
  type Contender,
  type Ground,
  type Maker,
} from './bench/contenders.ts';
import { FERRY, measureFerry } from './bench/ferry/ferry.ts';
import { FOOTPRINT, heaviestRows, measureFootprint } from './bench/footprint.ts';
import type { Comparison } from './bench/layers/comparison.ts';
import { LAYERED, measureLayered } from './bench/layers/layered.ts';
import { measure, type Measured, type RoundOptions } from './bench/measure.ts';
import { blockferryMirrored, qemuMirrored } from './bench/mirrored.ts';
import {
  catchUpTable,
  comparisonTable,
  footprintTable,
  runtimeTable,
  speedTable,
  surroundings,
} from './bench/report.ts';
import { runtimesOf, type Runtime } from './bench/runtimes.ts';
import { settingsFrom, USAGE, type Settings } from './bench/settings.ts';
import { missedTargets, otherRuntimes, type Outcome } from './bench/verdict.ts';
import { MIRRORED, SERVING, type Workload } from './bench/workloads.ts';
import { missingTools } from './setup-tools.ts';

const TOOLS = ['fio', 'nbdkit', 'qemu-nbd', 'qemu-storage-daemon', 'nbdcopy', 'nbdinfo', 'openssl'];
/** How long the run may take to notice that it was interrupted and to clean up. */
const INTERRUPTED_MS_MAX = 30_000;

/** What a run shares: closed at its end, or as soon as it is interrupted. */
interface Session {
  readonly settings: Settings;
  readonly options: RoundOptions;
  readonly interrupted: AbortSignal;
  /** Lines about the run that stand above the tables. */
  readonly notes: string[];
}

async function prepare(
  session: Session,
  { servers, directories }: Scopes,
  workloads: readonly Workload[],
): Promise<Ground> {
  const { settings, options } = session;
  const dir = directories.tempDir('bf-bench-', settings.dir);
  const image = join(dir, 'image');
  const mib = settings.sizeBytes / 2 ** 20;
  options.progress(`preparing disks of ${mib} MiB in ${dir}`);
  await run('dd', ['if=/dev/urandom', `of=${image}`, 'bs=1M', `count=${mib}`], {
    timeoutMs: 600_000,
  });
  const transports = new Set(workloads.map(({ transport }) => transport ?? 'unix'));
  const tls = transports.has('tls') ? await makeCertificates(dir) : null;
  return { scope: servers, dir, sizeBytes: settings.sizeBytes, image, transports, tls };
}

async function noteCiphers(session: Session, contenders: readonly Contender[]): Promise<void> {
  const ciphers = new Set<string>();
  for (const { name, uri } of contenders) {
    const tls = uri('tls');
    if (tls === null) continue;
    const cipher = await cipherOf(tls);
    ciphers.add(cipher);
    session.notes.push(`TLS with ${name}: ${cipher}`);
  }
  if (ciphers.size > 1) session.notes.push('The ciphers differ, so the TLS row is not equal work.');
}

/** Runs one table: its contenders live only as long as it does. */
async function section(
  session: Session,
  workloads: readonly Workload[],
  makers: readonly Maker[],
): Promise<Measured[]> {
  const { settings, options } = session;
  const chosen = workloads.filter(({ name }) => settings.rows.test(name));
  if (chosen.length === 0) return [];
  return await scoped(session, async (scopes) => {
    const ground = await prepare(session, scopes, chosen);
    const contenders: Contender[] = [];
    for (const make of makers) {
      options.progress(`preparing server ${contenders.length + 1} of ${makers.length}`);
      contenders.push(await make(ground));
    }
    if (ground.tls !== null) await noteCiphers(session, contenders);
    await run('sync', ['-f', ground.dir]); // nobody's rounds pay for preparing another's disk
    const results: Measured[] = [];
    for (const workload of chosen) results.push(await measure(contenders, workload, options));
    return results;
  });
}

/** Two scopes, because a child that still runs may make its directory anew: those are removed last. */
interface Scopes {
  /** Servers: they end with the work, and at once when the run is interrupted, which makes the work fail. */
  readonly servers: Scope;
  readonly directories: Scope;
}

async function scoped<T>(session: Session, work: (scopes: Scopes) => Promise<T>): Promise<T> {
  const [servers, directories] = [new Scope(), new Scope()];
  let early = Promise.resolve();
  const closeEarly = (): void => {
    early = servers.close().catch(() => undefined);
  };
  session.interrupted.addEventListener('abort', closeEarly);
  try {
    return await work({ servers, directories });
  } catch (thrown) {
    if (!session.interrupted.aborted) console.error(servers.reports());
    throw thrown;
  } finally {
    session.interrupted.removeEventListener('abort', closeEarly);
    await early;
    try {
      await servers.close();
    } finally {
      await directories.close();
    }
  }
}

/** Its nodes and peers live only as long as it does. */
async function ferrySection(session: Session, runtime: Runtime): Promise<Comparison[]> {
  const { settings, options } = session;
  const { quick, rows } = settings;
  if (!FERRY.some((name) => rows.test(name))) return [];
  return await scoped(session, async (scopes) => {
    const ground = await prepare(session, scopes, MIRRORED);
    const place = { servers: scopes.servers, dir: ground.dir };
    return await measureFerry(runtime, place, ground, { options, quick, rows });
  });
}

async function measureAll(session: Session, { directories }: Scopes): Promise<Outcome> {
  const { settings, options } = session;
  const { nodes, profile, dir, rows } = settings;
  if (nodes.length > 0) options.progress(`installing Node ${nodes.join(', ')}`);
  const runtimes = await runtimesOf(directories, nodes, profile, dir);
  for (const { name, version } of runtimes) session.notes.push(`${name}: Node ${version}`);
  const [own] = runtimes;
  if (own === undefined) throw new Error('no Node');
  const ours = runtimes.map(
    (runtime: Runtime): Maker =>
      (ground) =>
        blockferry(ground, runtime),
  );
  const peers = nodes.length === 0 ? [nbdkit, qemuNbd] : [nbdkit];
  const serving = await section(session, SERVING, [...ours, ...peers]);
  const mirrored = await section(session, MIRRORED, [
    (ground) => blockferryMirrored(ground, own),
    qemuMirrored,
  ]);
  const ferry = await ferrySection(session, own);
  const layered = LAYERED.some((name) => rows.test(name))
    ? await scoped(
        session,
        async ({ servers, directories: places }) =>
          await measureLayered(
            own,
            { servers, dir: places.tempDir('bf-bench-', dir) },
            options,
            rows,
          ),
      )
    : [];
  const { idle, huge, start } = FOOTPRINT;
  const wanted = [idle, huge, start].some(({ name }) => rows.test(name));
  const rest = wanted
    ? await scoped(
        session,
        async ({ servers, directories: own }) =>
          await measureFootprint(
            runtimes,
            { servers, dir: own.tempDir('bf-bench-', dir) },
            options,
          ),
      )
    : [];
  return { serving, mirrored, ferry, layered, footprint: [...heaviestRows(serving), ...rest] };
}

function print(session: Session, outcome: Outcome): void {
  const { settings, notes } = session;
  const { serving, mirrored, ferry, footprint, layered } = outcome;
  const where = surroundings();
  console.log(
    `\n${where.time}: ${where.cpu}, ${where.memory_gib} GiB, Linux ${where.kernel}; ${where.tools.join('; ')}`,
  );
  console.log(
    `${settings.rounds} interleaved rounds of ${settings.roundMs / 1000} s, disks of ${settings.sizeBytes / 2 ** 20} MiB; median (least - greatest)`,
  );
  for (const note of notes) console.log(note);
  if (serving.length > 0) console.log(`\n${speedTable(serving, 'nbdkit')}`);
  if (serving.some((measured) => otherRuntimes(measured).length > 0)) {
    console.log(`\n${runtimeTable(serving, 'nbdkit')}`);
  }
  if (mirrored.length > 0) {
    console.log(`\n${speedTable(mirrored, 'qemu mirror')}\n\n${catchUpTable(mirrored)}`);
  }
  for (const { workload, series } of mirrored) {
    for (const { contender, remarks } of series) {
      for (const remark of remarks) console.log(`${contender}, ${workload.name}: ${remark}`);
    }
  }
  for (const [title, comparisons] of [
    ['two nodes', ferry],
    ['layered volumes', layered],
  ] as const) {
    if (comparisons.length > 0) console.log(`\n${comparisonTable(title, comparisons)}`);
    for (const { name, remarks } of comparisons) {
      for (const remark of remarks) console.log(`${name}: ${remark}`);
    }
  }
  if (footprint.length > 0) console.log(`\n${footprintTable(footprint)}`);
}

function checkTools(): void {
  const lacking = missingTools().filter((tool) => TOOLS.includes(tool.name));
  if (lacking.length === 0) return;
  const names = lacking.map((tool) => `${tool.name} (Debian: ${tool.package})`);
  throw new Error(`needs ${names.join(', ')}`);
}

async function main(settings: Settings, interrupted: AbortSignal): Promise<void> {
  checkTools();
  const began = performance.now();
  const options: RoundOptions = {
    rounds: settings.rounds,
    roundMs: settings.roundMs,
    sizeBytes: settings.sizeBytes,
    progress(line) {
      interrupted.throwIfAborted();
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      console.error(`${seconds.padStart(4)} s  ${line}`);
    },
  };
  const session: Session = { settings, options, interrupted, notes: [] };
  const outcome = await scoped(session, async (scopes) => await measureAll(session, scopes));
  if (Object.values(outcome).every((results) => results.length === 0)) {
    throw new Error(`no row matches ${String(settings.rows)}`);
  }
  const missed = missedTargets(outcome);
  print(session, outcome);
  if (settings.json !== null) {
    const all = {
      surroundings: surroundings(),
      settings,
      notes: session.notes,
      ...outcome,
      missed,
    };
    writeFileSync(settings.json, `${JSON.stringify(all, null, 2)}\n`);
  }
  console.log(missed.length === 0 ? '\nEvery target was reached.' : `\n${missed.length} missed:`);
  for (const line of missed) console.log(line);
  if (settings.check && missed.length > 0) process.exitCode = 1;
}

/** A signal ends the servers; then whatever was under way fails, and the rest is cleaned up. */
async function begin(): Promise<void> {
  const settings = settingsFrom(process.argv.slice(2));
  if (settings === null) {
    console.log(USAGE);
    return;
  }
  const controller = new AbortController();
  const stop = (): void => {
    controller.abort();
    setTimeout(() => process.exit(130), INTERRUPTED_MS_MAX).unref();
  };
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    await main(settings, controller.signal);
  } catch (thrown) {
    if (!controller.signal.aborted) throw thrown;
    console.error('bench: interrupted');
    process.exitCode = 130;
  }
}

try {
  await begin();
} catch (thrown) {
  console.error(`bench: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
  process.exitCode = 1;
}
