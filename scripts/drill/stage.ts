/**
 * What most drills begin with: two nodes, a volume on alpha, its mirror on beta, and between them lines that can be cut.
 *
 *   writer ───────────────> alpha ── link ──> beta
 *   fio ──> recorder ──────>   <─── back ───
 *
 * The volume, 64 MiB: the writer of rounds has the first half, the load eight MiB after it (or what is between the blocks of the
 * writer), a job that fio verifies sixteen more. The rest is full and cold.
 */
import { join } from 'node:path';
import { BlockLoad, type Extent, fill, VerifiedJob } from './block-load.ts';
import type { Round } from './frame.ts';
import {
  DrilledNode,
  expectEqualExports,
  type NodeOptions,
  type SeenMirror,
  type SeenSource,
  settled,
} from './node.ts';
import { run, until } from './process.ts';
import { FaultProxy } from './proxy.ts';
import { Recorder } from './recorder.ts';
import { blocksTouched, bytesWritten, readRequestLog, RequestLogWriter } from './request-log.ts';
import { type RoundsArea, writesIn } from './rounds.ts';
import { nbdUri } from './sockets.ts';
import { sizeText } from './timeline.ts';
import { Writer } from './writer.ts';

export const VOLUME = 'demo';
export const MIB: number = 2 ** 20;
export const SIZE: number = 64 * MIB;
export const BLOCK_BYTES = 4096;
export const AREA: RoundsArea = { blocks: 31, spread: MIB };
export const BUSY: Extent = { from: 0, to: 32 * MIB };
export const VERIFIED: Extent = { from: 40 * MIB, to: 56 * MIB };
/** Python: copies the blocks of the writer, and no more, into an image. */
const READ_AREA = `
import nbd, sys
uri, image, blocks, spread, size = *sys.argv[1:3], *map(int, sys.argv[3:])
h = nbd.NBD()
h.connect_uri(uri)
with open(image, 'wb') as file:
    for index in range(blocks):
        file.seek(index * spread)
        file.write(h.pread(size, index * spread))
`;
const AREA_WORDS = [AREA.blocks, AREA.spread, BLOCK_BYTES].map(String);
const LOADED = ['--offset=32m', '--size=8m'];
/** Options of a load between the blocks of the writer: runs are then long between those too. */
export const BETWEEN: readonly string[] = [
  '--offset=4k',
  '--blockalign=1m',
  `--size=${BUSY.to - MIB}`,
  '--bs=256k',
  '--rate_iops=60',
];
const SETTLE_MS_MAX = 60_000;
/** More for each byte of a volume that is larger than SIZE: 4 MiB a second. */
const SETTLE_MS_PER_BYTE = 1000 / (4 * MIB);
const NOTICE_MS_MAX = 20_000;
const WRITER_PAUSE_MS = 4;

export interface StageOptions {
  readonly sizeBytes?: number;
  readonly lanes?: number;
  readonly alpha?: NodeOptions;
  readonly beta?: NodeOptions;
  /** More words of `volume create` on alpha, such as `--on LOCATION`. */
  readonly createOptions?: readonly string[];
}

/** A moment in what was written, from which on changes are counted. */
export interface Mark {
  readonly event: number;
  readonly atMs: number;
}

export class Stage {
  readonly round: Round;
  readonly alpha: DrilledNode;
  readonly beta: DrilledNode;
  readonly link: FaultProxy;
  readonly back: FaultProxy;
  readonly recorder: Recorder;
  readonly log: RequestLogWriter;
  readonly verified: VerifiedJob;
  private readonly options: StageOptions;
  private readonly writers: Writer[] = [];

  private constructor(
    parts: Pick<
      Stage,
      'round' | 'alpha' | 'beta' | 'link' | 'back' | 'recorder' | 'log' | 'verified'
    >,
    options: StageOptions,
  ) {
    this.round = parts.round;
    this.alpha = parts.alpha;
    this.beta = parts.beta;
    this.link = parts.link;
    this.back = parts.back;
    this.recorder = parts.recorder;
    this.log = parts.log;
    this.verified = parts.verified;
    this.options = options;
  }

  /** Both nodes run and have the volume; nobody told alpha of its mirror. */
  static async create(round: Round, options: StageOptions = {}): Promise<Stage> {
    const { directory, undo } = round;
    const alpha = new DrilledNode({ name: 'alpha', directory, ...options.alpha });
    const beta = new DrilledNode({ name: 'beta', directory, ...options.beta });
    const link = await proxyTo(round, beta, 'link');
    const back = await proxyTo(round, alpha, 'way back');
    const log = new RequestLogWriter(join(directory, 'requests'));
    undo.add('close the record', () => log.close());
    const listen = `unix:${join(directory, 'recorder.nbd')}`;
    const recorder = await Recorder.start({ listen, target: alpha.nbdAddress, log });
    undo.add('close the recorder', () => recorder.close());
    const verified = new VerifiedJob(VERIFIED, round.options.seed);
    const stage = new Stage({ round, alpha, beta, link, back, recorder, log, verified }, options);
    for (const node of [alpha, beta]) {
      undo.add(`end ${node.name}`, () => node.kill());
      await node.start(round.signal);
    }
    const { createOptions = [], sizeBytes = SIZE } = options;
    await alpha.command('volume', 'create', VOLUME, String(sizeBytes), ...createOptions);
    await beta.command('volume', 'create', VOLUME, String(sizeBytes), '--mirror-of', 'alpha');
    return stage;
  }

  /** The volume is full of content, mirrored, and in step. */
  static async inStep(round: Round, options: StageOptions = {}): Promise<Stage> {
    const stage = await Stage.create(round, options);
    const { sizeBytes = SIZE } = options;
    await fill(stage.alpha.uri(VOLUME), { from: BUSY.to, to: sizeBytes });
    await stage.addMirror();
    await stage.settle();
    round.note(`alpha mirrors ${sizeText(sizeBytes)} to beta, ${round.mode}: streaming`);
    return stage;
  }

  async addMirror(...extra: readonly string[]): Promise<void> {
    const { lanes = 1 } = this.options;
    const flags = ['--mode', this.round.mode, '--lanes', String(lanes), ...extra];
    await this.alpha.command('mirror', 'add', VOLUME, nbdUri(this.link.address, VOLUME), ...flags);
  }

  /**
   * Starts the writer of rounds on a node. It goes on where the last one ended, or with round `first`: then a state is known only
   * after the first of its rounds.
   */
  write(node: DrilledNode = this.alpha, first: number = this.nextRound()): Writer {
    return this.startWriter([node.uri(VOLUME)], first);
  }

  /** Starts one that knows several servers, and goes on at the next that takes writes. */
  wander(uris: readonly [string, ...string[]]): Writer {
    return this.startWriter(uris, this.nextRound());
  }

  private startWriter(uris: readonly [string, ...string[]], first: number): Writer {
    const { directory, undo } = this.round;
    const writer = new Writer({ uris, directory, area: AREA, first, pauseMs: WRITER_PAUSE_MS });
    undo.add('end the writer', () => writer.stop());
    this.writers.push(writer);
    return writer;
  }

  private nextRound(): number {
    return this.writers.at(-1)?.next ?? 1;
  }

  /** Starts fio beside the writer, through the recorder. */
  load(where: readonly string[] = LOADED): BlockLoad {
    const { directory, undo } = this.round;
    const uri = nbdUri(this.recorder.address, VOLUME);
    const load = new BlockLoad(directory, uri, where);
    undo.add('end fio', () => load.kill());
    return load;
  }

  mark(): Mark {
    return { event: this.log.lastEvent, atMs: Date.now() };
  }

  /** Bytes of the blocks that the load and the writers changed since a moment, each once. */
  changedSince(mark: Mark): number {
    this.log.commit();
    const record = readRequestLog(join(this.round.directory, 'requests'));
    const blocks = blocksTouched(record, mark.event, Infinity);
    for (const writer of this.writers) {
      for (const { flush, number, endMs } of writer.answers()) {
        if (flush || endMs < mark.atMs) continue;
        const round = Math.floor((number - 1) / AREA.blocks) + 1;
        const index = (number - 1) % AREA.blocks;
        blocks.add((((index * 7 + round) % AREA.blocks) * AREA.spread) / BLOCK_BYTES);
      }
    }
    return blocks.size * BLOCK_BYTES;
  }

  /** Bytes that the load and the writers wrote since a moment, a block as often as it was written. */
  writtenSince(mark: Mark): number {
    this.log.commit();
    const record = readRequestLog(join(this.round.directory, 'requests'));
    const answers = this.writers.flatMap((writer) => writer.answers());
    const ofWriters = answers.filter(({ flush, endMs }) => !flush && endMs >= mark.atMs).length;
    return bytesWritten(record, mark.event) + ofWriters * BLOCK_BYTES;
  }

  async waitMirror(
    what: string,
    accept: (mirror: SeenMirror) => boolean,
    timeoutMs: number = NOTICE_MS_MAX,
    node: DrilledNode = this.alpha,
  ): Promise<SeenMirror> {
    let last: SeenMirror | null = null;
    const { signal } = this.round;
    try {
      return await until({ what, timeoutMs, everyMs: 20, signal }, async () => {
        last = await node.mirror(VOLUME);
        return accept(last) ? last : null;
      });
    } catch (thrown) {
      throw new Error(`${String(thrown)}; last seen: ${JSON.stringify(last)}`, { cause: thrown });
    }
  }

  /** Waits until nothing is left to send. No command is given for it. */
  async settle(node: DrilledNode = this.alpha): Promise<SeenMirror> {
    const what = 'the mirror to be in step, without a command,';
    const { sizeBytes = SIZE } = this.options;
    const timeoutMs = SETTLE_MS_MAX + Math.max(0, sizeBytes - SIZE) * SETTLE_MS_PER_BYTE;
    return await this.waitMirror(what, settled, timeoutMs, node);
  }

  async source(): Promise<SeenSource> {
    const { source } = await this.beta.volume(VOLUME);
    if (source === null) throw new Error(`${VOLUME} of beta is no mirror`);
    return source;
  }

  /** Beta shows all that it made durable. */
  async shown(): Promise<void> {
    const { signal } = this.round;
    await until(
      { what: 'beta to show what it has', timeoutMs: NOTICE_MS_MAX, signal },
      async () => {
        const { applied_epoch, durable_epoch } = await this.source();
        return applied_epoch === durable_epoch;
      },
    );
  }

  /** Beta knows that nothing comes any more, and shows all that came. */
  async quiet(): Promise<void> {
    const { signal } = this.round;
    const what = 'beta to see the end of the link';
    await until({ what, timeoutMs: NOTICE_MS_MAX, everyMs: 20, signal }, async () => {
      const { state, applied_epoch, durable_epoch } = await this.source();
      return state === 'waiting' && applied_epoch === durable_epoch;
    });
  }

  /**
   * The prefix oracle: which of its states a copy shows, as the number of writes that it holds. What is no state at all is a
   * violation, and -1. Nothing may be written meanwhile: a copy takes its time.
   */
  async state(uri: string): Promise<number> {
    const image = join(this.round.directory, 'state.raw');
    await run('/usr/bin/python3', ['-B', '-c', READ_AREA, uri, image, ...AREA_WORDS]);
    try {
      return writesIn(image, AREA);
    } catch (thrown) {
      this.round.violate(`not a state that the volume ever had: ${String(thrown)}`);
      return -1;
    }
  }

  /** Both exports, read through their servers, hold the same bytes. */
  async expectEqual(): Promise<void> {
    const { round } = this;
    await this.shownIfMirror();
    try {
      await expectEqualExports([this.alpha.uri(VOLUME), this.beta.uri(VOLUME)]);
      round.note('alpha and beta are equal, byte for byte (cmp)');
    } catch (thrown) {
      round.violate(`alpha and beta differ: ${String(thrown)}`);
    }
  }

  async verify(uri: string): Promise<void> {
    try {
      await this.verified.verify(uri);
      this.round.note('fio verifies on the mirror what it wrote on the primary');
    } catch (thrown) {
      this.round.violate(`fio does not find what it wrote: ${String(thrown)}`);
    }
  }

  private async shownIfMirror(): Promise<void> {
    if ((await this.beta.volume(VOLUME)).source !== null) await this.shown();
  }
}

async function proxyTo(round: Round, node: DrilledNode, name: string): Promise<FaultProxy> {
  const proxy = await FaultProxy.start({ listen: '127.0.0.1:0', target: node.nbdAddress });
  round.undo.add(`close the ${name}`, () => proxy.close());
  return proxy;
}
