/** What a worker thread does with one payload. The entry file of the pool in `compressor-pool.ts`. */
import { systemClock } from '../io/clock.ts';
import { compressNow, expandNow } from './codec.ts';

/** Both lie in shared memory, and are exactly as long as what is in them. */
export type CompressTask =
  | {
      readonly kind: 'compress';
      readonly input: Uint8Array;
      readonly output: Uint8Array;
      /** Longer is not worth it. */
      readonly most: number;
    }
  | { readonly kind: 'expand'; readonly input: Uint8Array; readonly output: Uint8Array };

export interface CompressAnswer {
  /** Bytes of the output; 0: it became too long, or cannot be expanded. */
  readonly bytes: number;
  /** Milliseconds that it took. */
  readonly ms: number;
}

export default function runCompressTask(task: CompressTask): CompressAnswer {
  const began = systemClock.now();
  const bytes = run(task);
  return { bytes, ms: systemClock.now() - began };
}

function run(task: CompressTask): number {
  const { input, output } = task;
  if (task.kind === 'compress') return compressNow(input, output, task.most);
  return expandNow(input, output) ? output.length : 0;
}
