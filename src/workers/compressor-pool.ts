/**
 * A compressor whose work is done by a pool of worker threads.
 *
 * Invariants:
 * - No payload is compressed or expanded on this thread: it copies into shared memory and out of it again.
 * - No thread starts before the first payload, idle threads end, and none keeps the process alive.
 * - At most one payload more than there are threads is in shared memory; at most COMPRESS_QUEUE_MAX wait. One more to be
 *   compressed is not; those to be expanded are bounded by whoever asks.
 * - A pool that fails does nothing any more: every call is answered, `null` or `failed`.
 */
import assert from 'node:assert';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { Piscina } from 'piscina';
import {
  COMPRESS_IDLE_MS,
  COMPRESS_QUEUE_MAX,
  COMPRESS_THREADS_MAX,
  LINK_FRAME_BYTES_MAX,
} from '../io/limits.ts';
import { CODEC } from './codec.ts';
import type { CompressAnswer, CompressTask } from './compress-task.ts';
import type { Compressor, Expansion, Packed } from './compressor.ts';

export interface PooledCompressorOptions {
  /** Most worker threads. By default one core is left to the main thread; at least 1. */
  readonly threads?: number;
  /** Milliseconds without work after which a thread ends. */
  readonly idleMs?: number;
  /** The compiled task file, for tests that run from source. */
  readonly taskFile?: URL;
}

export function createCompressor(options: PooledCompressorOptions = {}): Compressor {
  return new PooledCompressor(options);
}

/** Shared memory of one payload on its way through a thread. */
class Slot {
  readonly input: Buffer = Buffer.from(new SharedArrayBuffer(LINK_FRAME_BYTES_MAX));
  readonly output: Buffer = Buffer.from(new SharedArrayBuffer(LINK_FRAME_BYTES_MAX));
}

interface Job {
  /** Copies what is to be done into the slot. */
  readonly fill: (slot: Slot) => CompressTask;
  /** Takes what became of it out of the slot; null: nothing did. */
  readonly done: (answer: CompressAnswer | null, slot: Slot | null) => void;
}

type Pool = Piscina<CompressTask, CompressAnswer>;

class PooledCompressor implements Compressor {
  readonly codec = CODEC;
  readonly threads: number;
  usable = true;
  private readonly options: PooledCompressorOptions;
  private pool: Promise<Pool> | null = null;
  private readonly waiting: Job[] = [];
  private readonly underWay = new Set<Job>();
  private readonly idle: Slot[] = [];

  constructor(options: PooledCompressorOptions) {
    this.options = options;
    this.threads = options.threads ?? defaultThreads();
  }

  compress(chunks: readonly Buffer[], bytes: number, most: number): Promise<Packed | null> {
    assert(bytes > 0 && bytes <= LINK_FRAME_BYTES_MAX, 'a payload is bounded');
    if (!this.usable || this.waiting.length >= COMPRESS_QUEUE_MAX) return Promise.resolve(null);
    return new Promise((resolve) => {
      this.submit({
        fill: ({ input, output }) => {
          gather(chunks, input, bytes);
          const into = output.subarray(0, most);
          return { kind: 'compress', input: input.subarray(0, bytes), output: into, most };
        },
        done: (answer, slot) => resolve(answer === null ? null : packed(answer, slot)),
      });
    });
  }

  expand(source: Buffer, plain: Buffer): Promise<Expansion> {
    assert(plain.length > 0 && plain.length <= LINK_FRAME_BYTES_MAX, 'a payload is bounded');
    assert(source.length <= LINK_FRAME_BYTES_MAX, 'what was compressed is bounded');
    if (!this.usable) return Promise.resolve('failed');
    return new Promise((resolve) => {
      this.submit({
        fill: ({ input, output }) => {
          source.copy(input);
          const into = output.subarray(0, plain.length);
          return { kind: 'expand', input: input.subarray(0, source.length), output: into };
        },
        done: (answer, slot) => {
          if (answer === null) return resolve('failed');
          if (answer.bytes !== plain.length) return resolve('broken');
          slot?.output.copy(plain, 0, 0, plain.length);
          resolve('whole');
        },
      });
    });
  }

  async close(): Promise<void> {
    const { pool } = this;
    this.giveUp();
    await (await pool)?.destroy();
  }

  private submit(job: Job): void {
    this.waiting.push(job);
    this.dispatch();
  }

  private dispatch(): void {
    while (this.underWay.size <= this.threads) {
      const job = this.waiting.shift();
      if (job === undefined) return;
      void this.run(job);
    }
  }

  private async run(job: Job): Promise<void> {
    this.underWay.add(job);
    const slot = this.idle.pop() ?? new Slot();
    const task = job.fill(slot);
    this.pool ??= this.start();
    let answer: CompressAnswer | null = null;
    try {
      answer = await (await this.pool).run(task);
    } catch {
      this.giveUp();
    }
    // A thread may still be at a slot of a pool that was given up: it is used no more.
    if (!this.underWay.delete(job)) return;
    job.done(answer, slot);
    this.idle.push(slot);
    this.dispatch();
  }

  private async start(): Promise<Pool> {
    // Loaded here: most nodes never have work for it, and all of them want to start fast.
    const { Piscina } = await import('piscina');
    const file = this.options.taskFile ?? new URL('./compress-task.js', import.meta.url);
    const pool: Pool = new Piscina({
      filename: fileURLToPath(file),
      minThreads: 0,
      maxThreads: this.threads,
      idleTimeout: this.options.idleMs ?? COMPRESS_IDLE_MS,
      execArgv: [],
      recordTiming: false,
    });
    pool.on('error', () => this.giveUp());
    return pool;
  }

  /** For good: a thread was lost or cannot even start, or nobody wants it any more. */
  private giveUp(): void {
    this.usable = false;
    const jobs = [...this.underWay, ...this.waiting.splice(0)];
    this.underWay.clear();
    for (const job of jobs) job.done(null, null);
  }
}

function gather(chunks: readonly Buffer[], into: Buffer, bytes: number): void {
  let at = 0;
  for (const chunk of chunks) at += chunk.copy(into, at);
  assert(at === bytes, 'the chunks are as long as they were said to be');
}

function packed({ bytes, ms }: CompressAnswer, slot: Slot | null): Packed {
  if (bytes === 0 || slot === null) return { bytes: null, ms };
  return { bytes: Buffer.from(slot.output.subarray(0, bytes)), ms };
}

function defaultThreads(): number {
  return Math.min(Math.max(availableParallelism() - 1, 1), COMPRESS_THREADS_MAX);
}
