/**
 * Examiners that give batches to a pool of worker threads.
 *
 * Invariants:
 * - Bytes are never copied to a worker: what does not lie in shared memory is examined on this thread.
 * - No thread starts before the first batch that needs one, idle threads end, and none keeps the process
 *   alive.
 * - A pool that fails leaves its work to this thread, for good: an answer comes in any case.
 */
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';

import { Piscina } from 'piscina';

import { EXAMINER_IDLE_MS, EXAMINER_QUEUE_MAX, EXAMINER_THREADS_MAX } from '../io/limits.ts';
import { asBuffer, type ExamineTask } from './examine-task.ts';
import { examineNow, type Examination, type Examiner } from './examiner.ts';
import { digestBlocks } from './kernels.ts';

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
  return new PooledExaminer(options);
}

type Answer = Examination | Uint8Array;

class PooledExaminer implements Examiner {
  private readonly options: PooledExaminerOptions;
  private pool: Piscina<ExamineTask, Answer> | null = null;
  private usable = true;
  /** What to call for each batch under way when the pool fails: a batch that waits hears nothing else. */
  private readonly underWay = new Set<(answer: null) => void>();

  constructor(options: PooledExaminerOptions) {
    this.options = options;
  }

  async examine(local: Buffer, remote: Buffer | null, length: number): Promise<Examination> {
    const shared = isShared(local) && (remote === null || isShared(remote));
    const answer = shared ? await this.run({ kind: 'examine', local, remote, length }) : null;
    return answer === null ? examineNow(local, remote, length) : (answer as Examination);
  }

  async digest(buffer: Buffer, length: number): Promise<Buffer> {
    const shared = isShared(buffer);
    const answer = shared ? await this.run({ kind: 'digest', local: buffer, length }) : null;
    return answer === null ? digestBlocks(buffer, length) : asBuffer(answer as Uint8Array);
  }

  allocate(bytes: number): Buffer {
    return Buffer.from(new SharedArrayBuffer(bytes));
  }

  async close(): Promise<void> {
    this.usable = false;
    await this.pool?.close();
  }

  /** Null when the pool could not do it: the batch is then examined on this thread. */
  private run(task: ExamineTask): Promise<Answer | null> {
    if (!this.usable) return Promise.resolve(null);
    this.pool ??= this.start();
    const answer = this.pool.run(task);
    return new Promise((resolve) => {
      this.underWay.add(resolve);
      answer
        // Refused or lost. A mistake in the batch itself shows again on this thread.
        .catch(() => null)
        .then((result) => resolve(result))
        .finally(() => this.underWay.delete(resolve));
    });
  }

  private start(): Piscina<ExamineTask, Answer> {
    const file = this.options.taskFile ?? new URL('./examine-task.js', import.meta.url);
    const pool = new Piscina<ExamineTask, Answer>({
      filename: fileURLToPath(file),
      minThreads: 0,
      maxThreads: this.options.threads ?? defaultThreads(),
      idleTimeout: this.options.idleMs ?? EXAMINER_IDLE_MS,
      maxQueue: EXAMINER_QUEUE_MAX,
      execArgv: [],
      recordTiming: false,
    });
    pool.on('error', () => {
      this.usable = false;
      for (const resolve of this.underWay) resolve(null);
    });
    return pool;
  }
}

function defaultThreads(): number {
  return Math.min(Math.max(availableParallelism() - 1, 1), EXAMINER_THREADS_MAX);
}

function isShared(buffer: Buffer): boolean {
  return buffer.buffer instanceof SharedArrayBuffer;
}

/** The examiner of a node. */
export function createExaminer(): Examiner {
  return createPooledExaminer();
}
