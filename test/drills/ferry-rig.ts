/**
 * What the tests of the ferry share: two real nodes, a volume on alpha, its mirror on beta made with `--mirror-of alpha`,
 * and between them a TCP proxy that cuts, stalls, delays and throttles. Clients attach to alpha itself. Everything ends
 * with the scope of the test.
 *
 *   fio, rounds -> alpha -> link -> beta
 */
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import {
  DrilledNode,
  expectEqualExports,
  type NodeOptions,
  type SeenMirror,
  type SeenSource,
  settled,
} from '../../scripts/drill/node.ts';
import { FaultProxy } from '../../scripts/drill/proxy.ts';
import { nbdUri } from '../../scripts/drill/sockets.ts';
import { LIBNBD_SCRIPTS } from '../support/libnbd.ts';
import { type ManagedProcess, run, start } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { waitUntil } from '../support/wait.ts';
import { type RoundsArea, writesIn } from '../../scripts/drill/rounds.ts';

export const VOLUME = 'demo';
export const MIB: number = 2 ** 20;
/** The longest that both sides may take to be in step again. */
const SETTLE_MS_MAX = 45_000;
/** Several processes share few cores: a test takes seconds on an idle machine, and this long on a busy one. */
export const FERRY_TEST: { timeout: number } = { timeout: 180_000 };
/** Below the ports that the system gives to outgoing connections: none of those takes it while a node is down. */
const PORT = { low: 20_000, count: 10_000 };
const PORTS_TRIED_MAX = 50;

export interface FerryOptions {
  readonly sizeBytes: number;
  readonly mode?: 'async' | 'sync';
  readonly lanes?: number;
  /** Names of the volumes. Default: VOLUME alone. */
  readonly volumes?: readonly string[];
  /** Data directory of beta, where a test wants it on a disk of its own. */
  readonly betaData?: string;
  /** For how long alpha keeps writes in order for a lost link; 0: a delta run follows each loss. Default: as a node does. */
  readonly graceSeconds?: number;
}

export class FerryRig {
  readonly scope: Scope;
  readonly directory: string;
  readonly alpha: DrilledNode;
  readonly beta: DrilledNode;
  readonly link: FaultProxy;
  readonly options: FerryOptions;

  private constructor(parts: {
    scope: Scope;
    directory: string;
    alpha: DrilledNode;
    beta: DrilledNode;
    link: FaultProxy;
    options: FerryOptions;
  }) {
    this.scope = parts.scope;
    this.directory = parts.directory;
    this.alpha = parts.alpha;
    this.beta = parts.beta;
    this.link = parts.link;
    this.options = parts.options;
  }

  /** Both nodes run and have the volumes; nobody told alpha of the mirrors. */
  static async create(scope: Scope, options: FerryOptions): Promise<FerryRig> {
    const directory = scope.tempDir('bf-ferry-');
    const { betaData } = options;
    const node = async (name: string, more: NodeOptions): Promise<DrilledNode> =>
      new DrilledNode({
        name,
        directory,
        nbdAddress: `127.0.0.1:${await freePort()}`,
        ...more,
      });
    const alpha = await node('alpha', { serveOptions: alphaOptions(directory, options) });
    const beta = await node('beta', betaData === undefined ? {} : { dataDirectory: betaData });
    const link = await FaultProxy.start({ listen: '127.0.0.1:0', target: beta.nbdAddress });
    scope.defer('close the link', () => link.close());
    const rig = new FerryRig({ scope, directory, alpha, beta, link, options });
    for (const each of [beta, alpha]) {
      scope.defer(`kill ${each.name}`, () => each.kill());
      scope.reportOnFailure(`log of ${each.name}`, () => each.log().slice(-6000));
      await each.start();
    }
    for (const volume of rig.volumes) {
      await alpha.command('volume', 'create', volume, String(options.sizeBytes));
      await beta.command('volume', 'create', volume, String(options.sizeBytes), ...MIRROR_OF);
    }
    return rig;
  }

  /** Both nodes run, and every volume is mirrored and in step. */
  static async inStep(scope: Scope, options: FerryOptions): Promise<FerryRig> {
    const rig = await FerryRig.create(scope, options);
    await rig.addMirrors();
    await rig.settle();
    return rig;
  }

  get volumes(): readonly string[] {
    return this.options.volumes ?? [VOLUME];
  }

  /** Where alpha finds a volume of beta: through the link. */
  mirrorUri(volume: string): string {
    return nbdUri(this.link.address, volume);
  }

  async addMirrors(...extra: readonly string[]): Promise<void> {
    const { mode = 'async', lanes = 1 } = this.options;
    const flags = ['--mode', mode, '--lanes', String(lanes), ...extra];
    for (const volume of this.volumes) {
      await this.alpha.command('mirror', 'add', volume, this.mirrorUri(volume), ...flags);
    }
  }

  /** Starts fio on a volume of alpha: random writes with syncs, until it is stopped or a minute has passed. */
  load(extra: readonly string[] = []): ManagedProcess {
    const words =
      '--name=load --ioengine=nbd --thread --rw=randwrite --bs=4k --iodepth=16 --rate_iops=1500 ' +
      '--fsync=32 --time_based --runtime=60 --randrepeat=0 --refill_buffers';
    const where = [`--uri=${this.alpha.uri(VOLUME)}`, `--size=${this.options.sizeBytes}`];
    const args = [...words.split(' '), ...where, ...extra];
    return start(this.scope, 'fio', args, { group: true });
  }

  /** Starts the rounds on a volume of alpha, with round `first`, and `pauseMs` after each. They end with the server, or with the scope. */
  rounds(
    area: RoundsArea,
    first: number,
    { volume = VOLUME, pauseMs = 0 }: { volume?: string; pauseMs?: number } = {},
  ): ManagedProcess {
    const script = join(LIBNBD_SCRIPTS, 'rounds.py');
    const numbers = [first, 2 ** 31, area.blocks, area.spread, pauseMs].map(String);
    const args = ['-B', script, this.alpha.uri(volume), ...numbers];
    return start(this.scope, '/usr/bin/python3', args);
  }

  /** Fills part of alpha's volume with bytes that no two blocks share. */
  async fill(from: number, to: number, volume: string = VOLUME): Promise<void> {
    const words =
      '--name=fill --ioengine=nbd --thread --rw=write --bs=1M --iodepth=8 --refill_buffers --end_fsync=1';
    const where = [`--uri=${this.alpha.uri(volume)}`, `--offset=${from}`, `--size=${to - from}`];
    await run('fio', [...words.split(' '), ...where]);
  }

  /** Waits until the status of the mirror, as alpha tells it, is as wanted. */
  async waitMirror(
    what: string,
    accept: (mirror: SeenMirror) => boolean,
    { volume = VOLUME, timeoutMs = SETTLE_MS_MAX }: { volume?: string; timeoutMs?: number } = {},
  ): Promise<SeenMirror> {
    let last = 'nothing';
    const probe = async (): Promise<SeenMirror | null> => {
      const mirror = await this.alpha.mirror(volume);
      last = JSON.stringify(mirror);
      return accept(mirror) ? mirror : null;
    };
    return await waitUntil(what, probe, { timeoutMs, everyMs: 20, onTimeout: () => last });
  }

  /** Waits until nothing is left to send, of any volume. No command is given for it. Returns the last mirror. */
  async settle(): Promise<SeenMirror> {
    let last: SeenMirror | null = null;
    for (const volume of this.volumes) {
      last = await this.waitMirror(`${volume} to be in step`, settled, { volume });
    }
    if (last === null) throw new Error('no volume');
    return last;
  }

  async source(volume: string = VOLUME): Promise<SeenSource> {
    const { source } = await this.beta.volume(volume);
    if (source === null) throw new Error(`${volume} of beta is no mirror`);
    return source;
  }

  /** Reads both exports of every volume, through their servers, and compares them. */
  async expectEqual(): Promise<void> {
    for (const volume of this.volumes) {
      await waitUntil(`beta to show what it has of ${volume}`, () => this.applied(volume));
      await expectEqualExports([this.alpha.uri(volume), this.beta.uri(volume)]);
    }
  }

  /** Whether beta shows all that it made durable. */
  async applied(volume: string = VOLUME): Promise<boolean> {
    const source = await this.source(volume);
    return source.applied_epoch === source.durable_epoch;
  }

  /** Which state of the rounds beta shows. Nothing may come over the link meanwhile: a copy takes its time. */
  async writesShown(area: RoundsArea, volume: string = VOLUME): Promise<number> {
    const image = join(this.directory, 'shown.raw');
    await run('nbdcopy', [this.beta.uri(volume), image]);
    return writesIn(image, area);
  }
}

const MIRROR_OF = ['--mirror-of', 'alpha'] as const;

function alphaOptions(directory: string, { graceSeconds }: FerryOptions): string[] {
  if (graceSeconds === undefined) return [];
  const config = join(directory, 'alpha.toml');
  writeFileSync(config, `[replication]\ngrace_seconds = ${graceSeconds}\n`);
  return ['--config', config];
}

/** The last round whose FLUSH was answered, or 0. */
export function lastRound(rounds: ManagedProcess): number {
  const complete = rounds.stdout.slice(0, rounds.stdout.lastIndexOf('\n') + 1);
  return Number(complete.trimEnd().split('\n').at(-1) ?? 0);
}

/** Lets the rounds do so many more. */
export async function awaitRounds(rounds: ManagedProcess, more: number): Promise<void> {
  const goal = lastRound(rounds) + more;
  await waitUntil(`${more} more rounds`, () => lastRound(rounds) >= goal || !rounds.running, {
    timeoutMs: 30_000,
    everyMs: 2,
  });
  if (lastRound(rounds) < goal) throw new Error(`the rounds ended: ${rounds.output.slice(-500)}`);
}

/** Ends fio, which first waits for what it has in flight, and expects that it met no error. */
export async function endLoad(load: ManagedProcess): Promise<void> {
  load.signal('SIGINT');
  if (!(await load.waitForExit(20_000))) throw new Error(`fio does not end: ${load.output}`);
  if (/err= *[1-9]/.test(load.output)) throw new Error(`fio met errors: ${load.output}`);
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

async function freePort(): Promise<number> {
  for (let tried = 0; tried < PORTS_TRIED_MAX; tried++) {
    const port = PORT.low + Math.floor(Math.random() * PORT.count);
    if (await listens(port)) return port;
  }
  throw new Error('no free port');
}
