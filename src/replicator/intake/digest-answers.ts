/**
 * Questions of a primary: which blocks of this mirror differ from what it has (run-frames.ts says how they look).
 *
 * Invariants:
 * - Every question is answered once, and each answer is of one content: the base of the open run, or a twin.
 * - What cannot be read differs: the primary sends it then.
 * - A question about many pieces of data and zeroes takes many turns: others of the process have theirs in between.
 * - At most COMPARE_QUESTIONS_MAX wait; one more, or one larger than its bound, is LINK_PROTOCOL. At most
 *   INTAKE_QUESTIONS_AT_ONCE are in work, each with one buffer.
 */
import assert from 'node:assert';
import { DeviceRequest, PENDING, Status } from '../../io/device.ts';
import type { BlockDevice, Completer, Extent } from '../../io/device.ts';
import { BlockferryError } from '../../io/errors.ts';
import {
  BLOCK_BYTES,
  COMPARE_GROUP_BYTES,
  COMPARE_QUESTIONS_MAX,
  COMPARE_QUESTION_BYTES_MAX,
  COMPARE_ZERO_BYTES_MAX,
  INTAKE_QUESTIONS_AT_ONCE,
  INTAKE_READS_PER_TURN_MAX,
  LINK_ANSWER_BLOCKS_MAX,
} from '../../io/limits.ts';
import { NBD_STATE } from '../../nbd/constants.ts';
import type { Examiner } from '../../workers/examiner.ts';
import { DIGEST_BYTES, bitmapBytes, digestsBytes, everyBlock } from '../../workers/kernels.ts';
import { FrameKind } from '../link/link-types.ts';
import type { FrameHeader, Link, ReceivedPayload } from '../link/link-types.ts';
import { COMPARE_GROUPS, COMPARE_TWIN, COMPARE_ZERO } from '../runs/run-frames.ts';

const BLOCKS_ASKED_MAX = Math.max(COMPARE_QUESTION_BYTES_MAX, COMPARE_ZERO_BYTES_MAX) / BLOCK_BYTES;
assert(BLOCKS_ASKED_MAX <= LINK_ANSWER_BLOCKS_MAX, 'every question can be answered');

interface Question {
  readonly header: FrameHeader;
  readonly payload: ReceivedPayload | null;
  readonly device: BlockDevice | null;
}

class QuestionRead extends DeviceRequest {
  override retain(): void {}
}

export class DigestAnswers {
  private readonly link: Link;
  private readonly examiner: Examiner;
  /** What a question is about; null: there is no such content any more. */
  private readonly deviceOf: (question: FrameHeader) => BlockDevice | null;
  private readonly waiting: Question[] = [];
  private readonly buffers: Buffer[] = [];
  private working = 0;
  private over = false;
  private readonly soon: (callback: () => void) => void;
  private idleWaiters: (() => void)[] = [];

  constructor(options: {
    link: Link;
    examiner: Examiner;
    deviceOf: (question: FrameHeader) => BlockDevice | null;
    /** As that of a clock. */
    soon: (callback: () => void) => void;
  }) {
    this.soon = options.soon;
    this.link = options.link;
    this.examiner = options.examiner;
    this.deviceOf = options.deviceOf;
  }

  /** Takes a question. Throws LINK_PROTOCOL. */
  ask(header: FrameHeader, payload: ReceivedPayload | null): void {
    const device = this.deviceOf(header);
    const fault = this.faultIn(header, payload, device);
    if (fault !== null) {
      payload?.release();
      throw new BlockferryError('LINK_PROTOCOL', `the primary asked ${fault}`);
    }
    this.waiting.push({ header, payload, device });
    this.next();
  }

  /** The link is gone, or what is asked about goes: resolves when nothing is in work. */
  async stop(): Promise<void> {
    this.over = true;
    for (const { payload } of this.waiting.splice(0)) payload?.release();
    while (this.working > 0) await new Promise<void>((resolve) => this.idleWaiters.push(resolve));
  }

  private faultIn(
    { flags, offset, length }: FrameHeader,
    payload: ReceivedPayload | null,
    device: BlockDevice | null,
  ): string | null {
    if (this.waiting.length >= COMPARE_QUESTIONS_MAX) {
      return `more than ${COMPARE_QUESTIONS_MAX} questions at once`;
    }
    const zero = (flags & COMPARE_ZERO) !== 0;
    const most = zero ? COMPARE_ZERO_BYTES_MAX : COMPARE_QUESTION_BYTES_MAX;
    const whole = offset % BLOCK_BYTES === 0 && length % BLOCK_BYTES === 0;
    if (!whole || length === 0 || length > most) return `about ${length} bytes at ${offset}`;
    if (device !== null && offset + length > device.sizeBytes) return 'past the end of the volume';
    if (zero && (flags & COMPARE_GROUPS) !== 0) return 'about zeroes in groups';
    const bytes = zero ? 0 : digestsBytes(length, unitOf(flags));
    return (payload?.length ?? 0) === bytes ? null : 'with digests of another number';
  }

  private next(): void {
    while (this.working < INTAKE_QUESTIONS_AT_ONCE && !this.over) {
      const question = this.waiting.shift();
      if (question === undefined) return;
      this.working += 1;
      void this.answer(question);
    }
  }

  private async answer({ header, payload, device }: Question): Promise<void> {
    const { length } = header;
    let marks: Uint8Array;
    try {
      if (device === null) marks = everyBlock(length);
      else if (payload === null) marks = await this.dataIn(device, header);
      else marks = await this.differing(device, header, payload);
    } finally {
      payload?.release();
    }
    const differs = marks.some((byte) => byte !== 0);
    const answer = { ...header, kind: FrameKind.DIFFERS, aux: 0 };
    this.link.send(answer, differs ? [Buffer.from(marks)] : undefined);
    this.working -= 1;
    if (this.over) for (const resolve of this.idleWaiters.splice(0)) resolve();
    this.next();
  }

  private async differing(
    device: BlockDevice,
    { flags, offset, length }: FrameHeader,
    payload: ReceivedPayload,
  ): Promise<Uint8Array> {
    const unit = unitOf(flags);
    const buffer = this.takeBuffer();
    const status = await readDevice(device, buffer, offset, length);
    if (status !== Status.OK) {
      this.buffers.push(buffer);
      return everyBlock(length);
    }
    const digests = await this.examiner.digest(buffer, length, unit);
    this.buffers.push(buffer);
    const marks = new Uint8Array(bitmapBytes(length));
    if (digests.compare(payload.buffer, 0, digests.length) === 0) return marks;
    for (let start = 0, at = 0; start < length; start += unit, at += DIGEST_BYTES) {
      const end = at + DIGEST_BYTES;
      if (digests.compare(payload.buffer, at, end, at, end) === 0) continue;
      const past = Math.min(start + unit, length);
      for (let byte = start; byte < past; byte += BLOCK_BYTES) mark(marks, byte / BLOCK_BYTES);
    }
    return marks;
  }

  /** The blocks that are not all zero. What the map says needs no reading. */
  private async dataIn(device: BlockDevice, { offset, length }: FrameHeader): Promise<Uint8Array> {
    const marks = new Uint8Array(bitmapBytes(length));
    const [allocation] = device.contexts();
    const extent: Extent = { end: 0, flags: 0 };
    const end = offset + length;
    for (let at = offset, looks = 1; at < end; looks += 1) {
      if (looks % INTAKE_READS_PER_TURN_MAX === 0) {
        await new Promise<void>((resolve) => this.soon(resolve));
        if (this.over) return everyBlock(length);
      }
      const limit = Math.min(end, at + COMPARE_QUESTION_BYTES_MAX);
      if (allocation === undefined) extent.end = limit;
      else allocation.describe(at, end, extent);
      const isZero = (extent.flags & NBD_STATE.ZERO) !== 0;
      const next = Math.min(extent.end, isZero ? end : limit);
      if (!isZero) await this.markData(device, marks, { offset, from: at, to: next });
      at = next;
    }
    return marks;
  }

  private async markData(
    device: BlockDevice,
    marks: Uint8Array,
    { offset, from, to }: { offset: number; from: number; to: number },
  ): Promise<void> {
    const length = to - from;
    const first = (from - offset) / BLOCK_BYTES;
    const buffer = this.takeBuffer();
    const status = await readDevice(device, buffer, from, length);
    const { zero } =
      status === Status.OK
        ? await this.examiner.examine(buffer, null, length)
        : { zero: new Uint8Array(bitmapBytes(length)) };
    this.buffers.push(buffer);
    for (let block = 0; block < length / BLOCK_BYTES; block += 1) {
      const isZero = ((zero[block >> 3] ?? 0) & (1 << (block & 7))) !== 0;
      if (!isZero) mark(marks, first + block);
    }
  }

  private takeBuffer(): Buffer {
    return this.buffers.pop() ?? this.examiner.allocate(COMPARE_QUESTION_BYTES_MAX);
  }
}

/** Whether a question is about a twin. */
export function isOfTwin({ flags }: FrameHeader): boolean {
  return (flags & COMPARE_TWIN) !== 0;
}

/** Bytes that one digest of a question is about. */
function unitOf(flags: number): number {
  return (flags & COMPARE_GROUPS) === 0 ? BLOCK_BYTES : COMPARE_GROUP_BYTES;
}

function mark(marks: Uint8Array, block: number): void {
  marks[block >> 3] = (marks[block >> 3] ?? 0) | (1 << (block & 7));
}

function readDevice(
  device: BlockDevice,
  buffer: Buffer,
  offset: number,
  length: number,
): Promise<number> {
  return new Promise((resolve) => {
    const request = new QuestionRead();
    const completer: Completer = { completed: (_, status) => resolve(status) };
    request.offset = offset;
    request.length = length;
    request.buffer = buffer;
    request.push(completer);
    const status = device.read(request);
    if (status === PENDING) return;
    request.pop(completer);
    resolve(status);
  });
}
