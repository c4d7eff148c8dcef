/**
 * Examiners that give batches to a pool of worker threads.
 *
 * Invariants:
 * - Bytes are never copied to a worker: what does not lie in shared memory is examined on this thread.
 * - No thread starts before the first batch that needs one, idle threads end, and none keeps the process
 *   alive.
 * - A pool that fails leaves its work to this thread, for good: an answer comes in any case.
 *
 * A message to a thread costs this one about as much as comparing a MiB (`scripts/bench-workers.ts`
 * measures it), so batches that come in one turn, or while the threads are busy, share a message.
 */
import assert from 'node:assert';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';

import type { Piscina } from 'piscina';

import {
  EXAMINER_DIGEST_BYTES_MIN,
  EXAMINER_GROUP_MAX,
  EXAMINER_IDLE_MS,
  EXAMINER_QUEUE_MAX,
  EXAMINER_THREADS_MAX,
} from '../io/limits.ts';
import { asBuffer, type ExamineAnswer, type ExamineTask } from './examine-task.ts';
import { examineNow, inlineExaminer, type Examination, type Examiner } from './examiner.ts';
import { digestUnits } from './kernels.ts';

export interface PooledExaminerOptions {
  /** Most worker threads. By default one core is left to the main thread; at least 1. */
  readonly threads?: number;
  /** Milliseconds without work after which a thread ends. */
  readonly idleMs?: number;
  /** The compiled task file, for tests that run from source. */
  readonly taskFile?: URL;
}

/** Gives every batch in shared memory to the pool. */
export function createPooledExaminer(options: PooledExaminerOptions = {}): Examiner {
  return new PooledExaminer(options, () => true);
}

/**
 * Does what was measured to cost the main thread least: looking for zeroes, and comparing a batch that
 * comes alone, on this thread; comparing several batches, and digests of large ones, on the pool. On a
 * machine with one core everything is done on this thread.
 */
export function createExaminer(options: PooledExaminerOptions = {}): Examiner {
  const threads = options.threads ?? availableParallelism() - 1;
  return threads < 1 ? inlineExaminer : new PooledExaminer(options, groupPays);
}

/** Whether a group is worth a message to a thread. */
export function groupPays(tasks: readonly ExamineTask[]): boolean {
  const compared = tasks.filter((task) => task.kind === 'examine' && task.remote !== null);
  return compared.length > 1 || tasks.some(digestPays);
}

function digestPays(task: ExamineTask): boolean {
  return task.kind === 'digest' && task.length >= EXAMINER_DIGEST_BYTES_MIN;
}

interface Batch {
  readonly task: ExamineTask;
  /** Null when the pool did not do it: the batch is then examined on this thread. */
  readonly answered: (answer: ExamineAnswer | null) => void;
}

type Pool = Piscina<ExamineTask[], ExamineAnswer[]>;

class PooledExaminer implements Examiner {
  private readonly options: PooledExaminerOptions;
  private readonly threads: number;
  private readonly pays: (tasks: readonly ExamineTask[]) => boolean;
  private pool: Promise<Pool> | null = null;
  private usable = true;
  private waiting: Batch[] = [];
  private gathering = false;
  private readonly underWay = new Set<Batch[]>();

  constructor(options: PooledExaminerOptions, pays: (tasks: readonly ExamineTask[]) => boolean) {
    this.options = options;
    this.threads = options.threads ?? defaultThreads();
    this.pays = pays;
  }

  async examine(local: Buffer, remote: Buffer | null, length: number): Promise<Examination> {
    const shared = isShared(local) && (remote === null || isShared(remote));
    const answer = shared ? await this.submit({ kind: 'examine', local, remote, length }) : null;
    return answer === null ? examineNow(local, remote, length) : (answer as Examination);
  }

  async digest(buffer: Buffer, length: number, unit: number): Promise<Buffer> {
    const task = { kind: 'digest', local: buffer, length, unit } as const;
    const answer = isShared(buffer) ? await this.submit(task) : null;
    return answer === null ? digestUnits(buffer, length, unit) : asBuffer(answer as Uint8Array);
  }

  allocate(bytes: number): Buffer {
    return Buffer.from(new SharedArrayBuffer(bytes));
  }

  async close(): Promise<void> {
    this.usable = false;
    this.dispatch();
    await (await this.pool)?.close();
  }

  private submit(task: ExamineTask): Promise<ExamineAnswer | null> {
    if (!this.usable || this.waiting.length >= EXAMINER_QUEUE_MAX) return Promise.resolve(null);
    return new Promise((answered) => {
      this.waiting.push({ task, answered });
      if (this.gathering) return;
      this.gathering = true;
      setImmediate(() => this.dispatch());
    });
  }

  /** Spreads what waits over the threads that are free. */
  private dispatch(): void {
    this.gathering = false;
    while (this.waiting.length > 0) {
      const free = this.usable ? this.threads - this.underWay.size : 1;
      if (free < 1) return;
      const share = Math.min(Math.ceil(this.waiting.length / free), EXAMINER_GROUP_MAX);
      const group = this.waiting.splice(0, share);
      if (this.usable && this.pays(group.map(({ task }) => task))) void this.send(group);
      else answer(group, null);
    }
  }

  private async send(group: Batch[]): Promise<void> {
    this.underWay.add(group);
    this.pool ??= this.start();
    let answers: ExamineAnswer[] | null = null;
    try {
      answers = await (await this.pool).run(group.map(({ task }) => task));
    } catch {
      // The thread was lost. A mistake in a batch itself shows again on this thread.
    }
    if (!this.underWay.delete(group)) return;
    answer(group, answers);
    this.dispatch();
  }

  private async start(): Promise<Pool> {
    // Loaded here: most nodes never have work for it, and all of them want to start fast.
    const { Piscina } = await import('piscina');
    const file = this.options.taskFile ?? new URL('./examine-task.js', import.meta.url);
    const pool: Pool = new Piscina({
      filename: fileURLToPath(file),
      minThreads: 0,
      maxThreads: this.threads,
      idleTimeout: this.options.idleMs ?? EXAMINER_IDLE_MS,
      execArgv: [],
      recordTiming: false,
    });
    pool.on('error', () => this.giveUp());
    return pool;
  }

  /** A thread that cannot even start: what waits for it would hear nothing else. */
  private giveUp(): void {
    this.usable = false;
    for (const group of this.underWay) answer(group, null);
    this.underWay.clear();
    this.dispatch();
  }
}

function answer(group: readonly Batch[], answers: readonly ExamineAnswer[] | null): void {
  assert(answers === null || answers.length === group.length, 'one answer a batch');
  for (const [index, batch] of group.entries()) batch.answered(answers?.[index] ?? null);
}

function defaultThreads(): number {
  return Math.min(Math.max(availableParallelism() - 1, 1), EXAMINER_THREADS_MAX);
}

function isShared(buffer: Buffer): boolean {
  return buffer.buffer instanceof SharedArrayBuffer;
}
