/** Where a step of a history acts, and what it writes there. */
import type { Step } from './history.ts';
import { SECTOR } from './sectors.ts';

export const BLOCK = 4096;

export type StepOf<Kind extends Step['kind']> = Extract<Step, { kind: Kind }>;

export interface Place {
  readonly offset: number;
  readonly length: number;
}

export function clip({ offset, length }: Place, sizeBytes: number): Place {
  const start = offset % sizeBytes;
  return { offset: start, length: Math.min(length, sizeBytes - start) };
}

export function inBlocks({ offset, length }: Place): Place {
  const first = Math.ceil(offset / BLOCK) * BLOCK;
  const end = Math.floor((offset + length) / BLOCK) * BLOCK;
  return { offset: first, length: Math.max(0, end - first) };
}

/** Each sector has a value of its own, by the step and its place: misplaced bytes are seen. */
export function payloadOf(step: StepOf<'write'>, { offset, length }: Place): Buffer {
  const bytes = Buffer.alloc(length);
  if (step.fill === 'zeroes') return bytes;
  for (let at = 0; at < length;) {
    const sector = Math.floor((offset + at) / SECTOR);
    const end = Math.min(length, (sector + 1) * SECTOR - offset);
    bytes.fill(1 + ((step.salt * 37 + sector * 11) % 255), at, end);
    at = end;
  }
  return bytes;
}
