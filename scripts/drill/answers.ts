/**
 * The notes of a client: when each of its requests went out and when it was answered. A file with 32 bytes for each answer: kind
 * (0 write, 1 flush), its number, begin and end in milliseconds since 1970, little-endian doubles. A record is in the file before the next request
 * goes out. Whoever reads may be early: a torn last record is ignored.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';

const RECORD_BYTES = 32;

export interface Answer {
  readonly flush: boolean;
  /** Of a write: how many writes the history has with it. Of a flush: its round. */
  readonly number: number;
  readonly beginMs: number;
  readonly endMs: number;
}

/** How many answers a file has so far. */
export function answersIn(path: string): number {
  return Math.floor((existsSync(path) ? statSync(path).size : 0) / RECORD_BYTES);
}

/** All answers so far, in their order. */
export function readAnswers(path: string): Answer[] {
  const bytes = existsSync(path) ? readFileSync(path) : Buffer.alloc(0);
  const answers: Answer[] = [];
  for (let at = 0; at + RECORD_BYTES <= bytes.length; at += RECORD_BYTES) {
    answers.push({
      flush: bytes.readDoubleLE(at) === 1,
      number: bytes.readDoubleLE(at + 8),
      beginMs: bytes.readDoubleLE(at + 16),
      endMs: bytes.readDoubleLE(at + 24),
    });
  }
  return answers;
}

/** The longest wait for one answer in a span of time, in milliseconds. */
export function longestWait(answers: readonly Answer[], fromMs: number, toMs = Infinity): number {
  const within = answers.filter(({ beginMs, endMs }) => endMs >= fromMs && beginMs < toMs);
  return Math.max(0, ...within.map(({ beginMs, endMs }) => endMs - beginMs));
}
