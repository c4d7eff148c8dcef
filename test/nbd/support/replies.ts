/**
 * Replies of every form, read by the specification and not by src/nbd: numbers stand here as literals on
 * purpose. Whatever breaks a rule of protocol section 5 that does not depend on the request throws.
 */
import type { ReplyForm } from '../../../src/nbd/handshake/negotiated.ts';

export interface DataChunk {
  readonly kind: 'data' | 'hole';
  readonly offset: bigint;
  readonly length: number;
  readonly data: Buffer;
}

export interface StatusChunk {
  readonly id: number;
  readonly extents: readonly (readonly [bigint, bigint])[];
}

/** All that was said to one cookie. */
export interface Answer {
  readonly cookie: bigint;
  /** Simple replies and NONE chunks; false for chunks with content or errors. */
  plain: boolean;
  simple: boolean;
  error: number;
  text: string;
  done: boolean;
  readonly content: DataChunk[];
  readonly statuses: StatusChunk[];
  /** Of extended chunks: the echoed offset. */
  offset: bigint | null;
}

const empty = (cookie: bigint): Answer => ({
  cookie,
  plain: true,
  simple: false,
  error: 0,
  text: '',
  done: false,
  content: [],
  statuses: [],
  offset: null,
});

const check = (holds: boolean, rule: string): void => {
  if (!holds) throw new Error(`broken rule: ${rule}`);
};

/**
 * Whole replies at the beginning of `bytes`, in the order of their first chunk, and what is left. `readBytes`
 * says how much data a successful simple reply carries; 0 by default.
 */
export function answersOf(
  bytes: Buffer,
  form: ReplyForm,
  readBytes: (cookie: bigint) => number = () => 0,
): { answers: Answer[]; rest: Buffer } {
  const answers: Answer[] = [];
  const open = new Map<bigint, Answer>();
  let at = 0;
  while (bytes.length - at >= 16) {
    const magic = bytes.readUInt32BE(at);
    if (magic === 0x67446698) {
      check(form !== 'extended', 'extended forbids simple replies');
      const cookie = bytes.readBigUInt64BE(at + 8);
      const error = bytes.readUInt32BE(at + 4);
      const length = error === 0 && form === 'simple' ? readBytes(cookie) : 0;
      if (bytes.length - at < 16 + length) break;
      check(!open.has(cookie), 'a simple reply is alone');
      const data = Buffer.from(bytes.subarray(at + 16, at + 16 + length));
      const content: DataChunk[] = length > 0 ? [{ kind: 'data', offset: -1n, length, data }] : [];
      answers.push({ ...empty(cookie), simple: true, error, done: true, content });
      at += 16 + length;
      continue;
    }
    const extended = form === 'extended';
    check(form !== 'simple', 'simple form has simple replies');
    check(magic === (extended ? 0x6e8a278c : 0x668e33ef), `reply magic ${magic.toString(16)}`);
    const head = extended ? 32 : 20;
    if (bytes.length - at < head) break;
    const length = extended ? Number(bytes.readBigUInt64BE(at + 24)) : bytes.readUInt32BE(at + 16);
    if (bytes.length - at < head + length) break;
    const cookie = bytes.readBigUInt64BE(at + 8);
    let answer = open.get(cookie);
    if (answer === undefined) {
      answer = empty(cookie);
      answers.push(answer);
      open.set(cookie, answer);
    }
    if (extended) answer.offset = bytes.readBigUInt64BE(at + 16);
    const payload = Buffer.from(bytes.subarray(at + head, at + head + length));
    takeChunk(answer, bytes.readUInt16BE(at + 4), bytes.readUInt16BE(at + 6), payload, extended);
    if (answer.done) open.delete(cookie);
    at += head + length;
  }
  return { answers, rest: bytes.subarray(at) };
}

function takeChunk(
  answer: Answer,
  flags: number,
  type: number,
  payload: Buffer,
  extended: boolean,
): void {
  check((flags & ~1) === 0, 'unknown reply flag');
  answer.done = (flags & 1) !== 0;
  if (type !== 0) answer.plain = false;
  switch (type) {
    case 0:
      check(answer.done && payload.length === 0, 'NONE is empty and last');
      return;
    case 1: {
      check(payload.length >= 9, 'OFFSET_DATA has data');
      const data = payload.subarray(8);
      const offset = payload.readBigUInt64BE(0);
      takeContent(answer, { kind: 'data', offset, length: data.length, data });
      return;
    }
    case 2: {
      check(payload.length === 12, 'OFFSET_HOLE has 12 bytes');
      const length = payload.readUInt32BE(8);
      check(length > 0, 'a hole has bytes');
      const offset = payload.readBigUInt64BE(0);
      takeContent(answer, { kind: 'hole', offset, length, data: Buffer.alloc(length) });
      return;
    }
    case 5:
      check(!extended && payload.length >= 12 && payload.length % 8 === 4, 'BLOCK_STATUS layout');
      takeStatus(answer, payload.readUInt32BE(0), extents32(payload));
      return;
    case 6:
      check(extended && payload.length >= 24 && payload.length % 16 === 8, 'STATUS_EXT layout');
      check(payload.readUInt32BE(4) === (payload.length - 8) / 16, 'STATUS_EXT count');
      takeStatus(answer, payload.readUInt32BE(0), extents64(payload));
      return;
    case 0x8001:
      check(payload.length >= 6, 'ERROR layout');
      check(payload.readUInt16BE(4) === payload.length - 6, 'ERROR text length');
      check(answer.error === 0, 'one ERROR in a reply');
      answer.error = payload.readUInt32BE(0);
      check(answer.error !== 0, 'an error is not 0');
      answer.text = payload.toString('utf8', 6);
      return;
    default:
      throw new Error(`chunk type ${type}`);
  }
}

function takeContent(answer: Answer, chunk: DataChunk): void {
  for (const { offset, length } of answer.content) {
    const apart =
      offset + BigInt(length) <= chunk.offset || chunk.offset + BigInt(chunk.length) <= offset;
    check(apart, 'content chunks do not overlap');
  }
  answer.content.push(chunk);
}

function takeStatus(answer: Answer, id: number, extents: [bigint, bigint][]): void {
  check(!answer.statuses.some((status) => status.id === id), 'one status chunk for a context');
  for (const [length] of extents) check(length > 0n, 'an extent has bytes');
  for (let index = 1; index < extents.length; index++) {
    check(extents[index]![1] !== extents[index - 1]![1], 'equal neighbours are merged');
  }
  answer.statuses.push({ id, extents });
}

const extents32 = (payload: Buffer): [bigint, bigint][] =>
  Array.from({ length: (payload.length - 4) / 8 }, (_, index) => [
    BigInt(payload.readUInt32BE(4 + 8 * index)),
    BigInt(payload.readUInt32BE(8 + 8 * index)),
  ]);

const extents64 = (payload: Buffer): [bigint, bigint][] =>
  Array.from({ length: (payload.length - 8) / 16 }, (_, index) => [
    payload.readBigUInt64BE(8 + 16 * index),
    payload.readBigUInt64BE(16 + 16 * index),
  ]);

/** The bytes that a READ of `length` at `offset` brought; throws when they do not cover it exactly. */
export function bytesRead(answer: Answer, offset: number | bigint, length: number): Buffer {
  check(answer.done && answer.error === 0, 'a whole answer without error');
  if (answer.simple) {
    check((answer.content[0]?.length ?? 0) === length, 'all data');
    return answer.content[0]?.data ?? Buffer.alloc(0);
  }
  const bytes = Buffer.alloc(length);
  let covered = 0;
  for (const chunk of answer.content) {
    const at = Number(chunk.offset - BigInt(offset));
    check(at >= 0 && at + chunk.length <= length, 'content lies inside the request');
    chunk.data.copy(bytes, at);
    covered += chunk.length;
  }
  check(covered === length, 'content covers the request');
  return bytes;
}
