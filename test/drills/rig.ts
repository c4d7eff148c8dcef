/**
 * What the crash tests share: two real nodes, a faulty link between them, a recorder in front of the
 * primary, fio as the client. Everything ends with the scope of the test.
 *
 *   fio -> recorder -> alpha -> link -> beta
 */
import { join } from 'node:path';
import { expect } from 'vitest';
import {
  DrilledNode,
  expectEqualExports,
  type SeenMirror,
  settled,
} from '../../scripts/drill/node.ts';
import { judge } from '../../scripts/drill/oracle.ts';
import { FaultProxy } from '../../scripts/drill/proxy.ts';
import { Recorder } from '../../scripts/drill/recorder.ts';
import {
  readRequestLog,
  type RequestLog,
  RequestLogWriter,
} from '../../scripts/drill/request-log.ts';
import { nbdUri } from '../../scripts/drill/sockets.ts';
import { type ManagedProcess, run, start } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { waitUntil } from '../support/wait.ts';

export const VOLUME = 'demo';
export const BLOCK_BYTES = 4096;
export const REGION_BYTES = 4 * 1024 * 1024;
export const MIB = 1024 * 1024;
/** The longest that both sides may take to be in step again. */
const SETTLE_MS_MAX = 30_000;
/** Several processes share few cores: a test takes seconds on an idle machine, and this long on a busy one. */
export const CRASH_TEST: { timeout: number } = { timeout: 180_000 };

export interface RigOptions {
  readonly sizeBytes: number;
  readonly mode?: 'async' | 'sync';
  /** Data directories, where a test wants them on a disk of its own. */
  readonly alphaData?: string;
  readonly betaData?: string;
}

interface RigParts {
  readonly scope: Scope;
  readonly directory: string;
  readonly alpha: DrilledNode;
  readonly beta: DrilledNode;
  readonly link: FaultProxy;
  readonly recorder: Recorder;
  readonly log: RequestLogWriter;
  readonly sizeBytes: number;
}

export class Rig implements RigParts {
  readonly scope: Scope;
  readonly directory: string;
  readonly alpha: DrilledNode;
  readonly beta: DrilledNode;
  readonly link: FaultProxy;
  readonly recorder: Recorder;
  readonly log: RequestLogWriter;
  readonly sizeBytes: number;

  private constructor(parts: RigParts) {
    this.scope = parts.scope;
    this.directory = parts.directory;
    this.alpha = parts.alpha;
    this.beta = parts.beta;
    this.link = parts.link;
    this.recorder = parts.recorder;
    this.log = parts.log;
    this.sizeBytes = parts.sizeBytes;
  }

  /** Both nodes run, and the volume is mirrored and in step. */
  static async create(scope: Scope, options: RigOptions): Promise<Rig> {
    const directory = scope.tempDir('bf-rig-');
    const node = (name: string, dataDirectory: string | undefined): DrilledNode =>
      new DrilledNode({
        name,
        directory,
        ...(dataDirectory === undefined ? {} : { dataDirectory }),
      });
    const alpha = node('alpha', options.alphaData);
    const beta = node('beta', options.betaData);
    const link = await FaultProxy.start({ listen: '127.0.0.1:0', target: beta.nbdAddress });
    scope.defer('close the link', () => link.close());
    for (const each of [beta, alpha]) {
      scope.defer(`kill ${each.name}`, () => each.kill());
      scope.reportOnFailure(`log of ${each.name}`, () => each.log().slice(-4000));
      await each.start();
      await each.command('volume', 'create', VOLUME, String(options.sizeBytes));
    }
    const log = new RequestLogWriter(join(directory, 'requests'));
    scope.defer('close the record', () => log.close());
    const recorder = await Recorder.start({
      listen: `unix:${join(directory, 'recorder.nbd')}`,
      target: alpha.nbdAddress,
      log,
    });
    scope.defer('close the recorder', () => recorder.close());
    scope.reportOnFailure('the recorder', () => recorder.failure ?? 'sound');
    const { sizeBytes, mode = 'async' } = options;
    const rig = new Rig({ scope, directory, alpha, beta, link, recorder, log, sizeBytes });
    await alpha.command('mirror', 'add', VOLUME, nbdUri(link.address, VOLUME), '--mode', mode);
    await rig.settle();
    return rig;
  }

  /** Where clients attach. */
  get uri(): string {
    return nbdUri(this.recorder.address, VOLUME);
  }

  /** Starts fio: random writes with syncs, until it is stopped or a minute has passed. */
  load(extra: readonly string[] = []): ManagedProcess {
    return start(
      this.scope,
      'fio',
      [
        '--name=load',
        '--ioengine=nbd',
        `--uri=${this.uri}`,
        `--size=${this.sizeBytes}`,
        '--rw=randwrite',
        '--bs=4k',
        '--iodepth=16',
        '--numjobs=2',
        '--rate_iops=2000',
        '--fsync=32',
        '--time_based',
        '--runtime=60',
        '--randrepeat=0',
        '--refill_buffers',
        ...extra,
      ],
      { group: true },
    );
  }

  /** Waits until the status of the mirror, as alpha tells it, is as wanted. */
  async waitMirror(
    what: string,
    accept: (mirror: SeenMirror) => boolean,
    timeoutMs: number = SETTLE_MS_MAX,
  ): Promise<SeenMirror> {
    let last = 'nothing';
    const probe = async (): Promise<SeenMirror | null> => {
      const mirror = await this.alpha.mirror(VOLUME);
      last = JSON.stringify(mirror);
      return accept(mirror) ? mirror : null;
    };
    return await waitUntil(what, probe, { timeoutMs, everyMs: 20, onTimeout: () => last });
  }

  /** Waits until nothing is left to send. No command is given for it. */
  async settle(timeoutMs: number = SETTLE_MS_MAX): Promise<SeenMirror> {
    return await this.waitMirror('both sides to be in step', settled, timeoutMs);
  }

  /** Reads both exports through their servers and compares them. */
  async expectEqual(): Promise<void> {
    await expectEqualExports([this.alpha.uri(VOLUME), this.beta.uri(VOLUME)]);
  }

  /** Holds the primary to every write that it acknowledged: processes die here, page caches do not. */
  async expectNothingLost(): Promise<void> {
    const imagePath = join(this.directory, 'alpha.raw');
    await run('nbdcopy', [this.alpha.uri(VOLUME), imagePath]);
    const log = readRequestLog(join(this.directory, 'requests'));
    const { sizeBytes } = this;
    expect(judge({ log, imagePath, sizeBytes, mode: 'sync' }).violations).toEqual([]);
  }

  recorded(): RequestLog {
    return readRequestLog(join(this.directory, 'requests'));
  }
}

/** Lets the load do at least so many more requests. */
export async function awaitLoad(rig: Rig, load: ManagedProcess, requests: number): Promise<void> {
  const goal = rig.recorder.counters.acknowledged + requests;
  const done = (): boolean => rig.recorder.counters.acknowledged >= goal;
  await waitUntil(`${requests} more requests`, () => done() || !load.running, {
    timeoutMs: 30_000,
  });
  if (!done()) throw new Error(`fio ended: ${load.output}`);
}

/** Ends fio, which first waits for what it has in flight, and expects that it met no error. */
export async function endLoad(load: ManagedProcess): Promise<void> {
  load.signal('SIGINT');
  if (!(await load.waitForExit(20_000))) throw new Error(`fio does not end: ${load.output}`);
  if (/err= *[1-9]/.test(load.output)) throw new Error(`fio met errors: ${load.output}`);
}
