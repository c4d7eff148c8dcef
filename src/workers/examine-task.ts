/** What a worker thread does with a group of batches. The entry file of the pool in `examiner-pool.ts`. */
import { examineNow, type Examination } from './examiner.ts';
import { digestUnits } from './kernels.ts';

/** Bytes of a batch, over a SharedArrayBuffer: the worker sees the memory of the thread that asked. */
export type ExamineTask =
  | {
      readonly kind: 'examine';
      readonly local: Uint8Array;
      readonly remote: Uint8Array | null;
      readonly length: number;
    }
  | {
      readonly kind: 'digest';
      readonly local: Uint8Array;
      readonly length: number;
      readonly unit: number;
    };

export type ExamineAnswer = Examination | Uint8Array;

/** One answer a task, in their order. */
export default function runExamineTasks(tasks: readonly ExamineTask[]): ExamineAnswer[] {
  return tasks.map((task) => {
    const local = asBuffer(task.local);
    if (task.kind === 'digest') return digestUnits(local, task.length, task.unit);
    return examineNow(local, task.remote === null ? null : asBuffer(task.remote), task.length);
  });
}

/** What was sent as a Buffer comes as a Uint8Array. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
