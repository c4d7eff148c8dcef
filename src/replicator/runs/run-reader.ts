/**
 * Reads the batches of a run into buffers that are used again and again.
 *
 * Invariants:
 * - At most RUN_BUFFERS_MAX buffers exist, and RUN_READS_IN_FLIGHT_MAX reads are on their way, batches in their order.
 * - A buffer is in use from `read` until `give`, also when the read failed.
 */
import assert from 'node:assert';
import { BLOCK_BYTES, DELTA_BATCH_BYTES } from '../../io/limits.ts';
import { RUN_BUFFERS_MAX, RUN_READS_IN_FLIGHT_MAX } from '../../io/limits.ts';
import { WRITE_HEADER_BYTES } from '../../nbd/client/client-prepared.ts';
import type { Examiner } from '../../workers/examiner.ts';
import type { FrozenSource } from './frozen-source.ts';
import { BATCH_BLOCKS, type RunBatch } from './run-batches.ts';

export interface RunBuffer {
  /** Blocks of a batch, as its spans say. */
  readonly data: Buffer;
  /** Room for the headers of as many entries. */
  readonly headers: Buffer;
}

interface Job {
  readonly batch: RunBatch;
  readonly data: Buffer;
  /** The next span to be read. */
  next: number;
  reading: number;
  status: number;
  readonly done: (status: number) => void;
}

export class RunReader {
  private readonly source: FrozenSource;
  private readonly examiner: Examiner;
  private readonly idle: RunBuffer[] = [];
  private buffers = 0;
  private reading = 0;
  private readonly jobs: Job[] = [];
  private readonly quiet: (() => void)[] = [];

  constructor(source: FrozenSource, examiner: Examiner) {
    this.source = source;
    this.examiner = examiner;
  }

  /** A buffer can be had. */
  get hasBuffer(): boolean {
    return this.idle.length > 0 || this.buffers < RUN_BUFFERS_MAX;
  }

  take(): RunBuffer {
    assert(this.hasBuffer, 'buffers are bounded');
    const idle = this.idle.pop();
    if (idle !== undefined) return idle;
    this.buffers += 1;
    return {
      data: this.examiner.allocate(DELTA_BATCH_BYTES),
      headers: Buffer.alloc(BATCH_BLOCKS * WRITE_HEADER_BYTES),
    };
  }

  give(buffer: RunBuffer): void {
    this.idle.push(buffer);
  }

  /** Reads the spans of a batch; answers 0 or the first errno, when no read is on its way any more. */
  read(batch: RunBatch, buffer: RunBuffer): Promise<number> {
    return new Promise((done) => {
      this.jobs.push({ batch, data: buffer.data, next: 0, reading: 0, status: 0, done });
      this.pump();
    });
  }

  /** Begins no further read, and waits for those on their way. */
  async stop(): Promise<void> {
    for (const job of this.jobs.splice(0)) job.next = job.batch.spans.length;
    if (this.reading === 0) return;
    await new Promise<void>((resolve) => {
      this.quiet.push(resolve);
    });
  }

  private pump(): void {
    let job = this.jobs[0];
    while (job !== undefined && this.reading < RUN_READS_IN_FLIGHT_MAX) {
      this.begin(job);
      if (job.next === job.batch.spans.length) this.jobs.shift();
      job = this.jobs[0];
    }
  }

  private begin(job: Job): void {
    const span = job.batch.spans[job.next];
    assert(span, 'a job has a span left');
    job.next += 1;
    job.reading += 1;
    this.reading += 1;
    const { first, count, at } = span;
    const [start, length] = [at * BLOCK_BYTES, count * BLOCK_BYTES];
    this.source.read(job.data, start, length, first * BLOCK_BYTES, (status) =>
      this.ended(job, status),
    );
  }

  private ended(job: Job, status: number): void {
    job.reading -= 1;
    this.reading -= 1;
    if (status !== 0 && job.status === 0) this.failed(job, status);
    if (job.reading === 0 && job.next === job.batch.spans.length) job.done(job.status);
    this.pump();
    if (this.reading === 0) for (const resolve of this.quiet.splice(0)) resolve();
  }

  /** The rest of a batch that has failed is not read. */
  private failed(job: Job, status: number): void {
    job.status = status;
    job.next = job.batch.spans.length;
    const index = this.jobs.indexOf(job);
    if (index >= 0) this.jobs.splice(index, 1);
  }
}
