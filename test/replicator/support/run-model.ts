/**
 * The other end of a delta run, as small as it can be: a mirror whose blocks are one byte each, and a link in memory that
 * delivers frames in any order of a window, and may break at any message.
 */
import type { Clock, Timer } from '../../../src/io/clock.ts';
import { BLOCK_BYTES, COMPARE_GROUP_BYTES } from '../../../src/io/limits.ts';
import type { FrozenSource } from '../../../src/replicator/runs/frozen-source.ts';
import { FRAME_HEADER_BYTES } from '../../../src/replicator/link/frame.ts';
import { faultInEntries, visitEntries } from '../../../src/replicator/link/entries.ts';
import { FrameKind } from '../../../src/replicator/link/link-types.ts';
import type {
  FrameHeader,
  Link,
  ReceivedPayload,
} from '../../../src/replicator/link/link-types.ts';
import type { ControlMessage } from '../../../src/replicator/link/messages.ts';
import { faultInRanges, visitRanges } from '../../../src/replicator/link/ranges.ts';
import {
  COMPARE_GROUPS,
  COMPARE_TWIN,
  COMPARE_ZERO,
} from '../../../src/replicator/runs/run-frames.ts';
import { DIGEST_BYTES, digestUnits } from '../../../src/workers/kernels.ts';

/** One byte a block: what each byte of it is. 0 is a block of zeroes. */
export type Tags = Uint8Array;

/** What a torn block holds. */
export const GARBAGE = 255;

const blocksOfTag = Array.from({ length: 256 }, (_, tag) => Buffer.alloc(BLOCK_BYTES, tag));
const digestsOfTag = blocksOfTag.map((block) => digestUnits(block, BLOCK_BYTES, BLOCK_BYTES));

export interface SourceOptions {
  readonly random: () => number;
  /** Blocks of zeroes that the map calls data. */
  readonly mapped?: ReadonlySet<number>;
  /** Answers a read of this block with an error. */
  readonly broken?: number;
}

/** Frozen content whose reads are answered late and in any order. */
export class TagSource implements FrozenSource {
  readonly sizeBytes: number;
  reads = 0;
  reading = 0;
  private readonly tags: Tags;
  private readonly options: SourceOptions;

  constructor(tags: Tags, options: SourceOptions) {
    this.tags = tags;
    this.options = options;
    this.sizeBytes = tags.length * BLOCK_BYTES;
  }

  read(
    buffer: Buffer,
    start: number,
    length: number,
    offset: number,
    callback: (status: number) => void,
  ): void {
    this.reads += 1;
    this.reading += 1;
    const first = offset / BLOCK_BYTES;
    const count = length / BLOCK_BYTES;
    const answer = (): void => {
      if (this.options.random() < 0.3) return void setImmediate(answer);
      this.reading -= 1;
      const { broken } = this.options;
      if (broken !== undefined && broken >= first && broken < first + count) return callback(5);
      for (let index = 0; index < count; index += 1) {
        const at = start + index * BLOCK_BYTES;
        buffer.fill(this.tags[first + index]!, at, at + BLOCK_BYTES);
      }
      callback(0);
    };
    setImmediate(answer);
  }

  runAt(offset: number, end: number): { end: number; zero: boolean } {
    let block = offset / BLOCK_BYTES;
    const zero = this.isHole(block);
    while (block * BLOCK_BYTES < end && this.isHole(block) === zero) block += 1;
    return { end: Math.min(end, block * BLOCK_BYTES), zero };
  }

  private isHole(block: number): boolean {
    return this.tags[block] === 0 && this.options.mapped?.has(block) !== true;
  }
}

/** Virtual time: a timer is due at once, and time has passed then. */
export class ModelClock implements Clock {
  time = 0;
  now(): number {
    return this.time;
  }
  wall(): number {
    return this.time;
  }
  soon(callback: () => void): void {
    setImmediate(callback);
  }
  after(delayMs: number, callback: () => void): Timer {
    let over = false;
    setImmediate(() => {
      if (over) return;
      this.time += delayMs;
      callback();
    });
    return {
      cancel: () => {
        over = true;
      },
    };
  }
}

interface OpenRun {
  readonly id: string;
  readonly full: boolean;
  readonly head: Tags;
  cursor: number;
  /** Blocks written since the last flush, with what they were. */
  readonly unflushed: Map<number, number>;
  readonly epoch: number;
  readonly generation: number;
}

export class ModelMirror {
  base: Tags;
  twin: Tags | null = null;
  position: { generation: number; epoch: number } | null = null;
  run: OpenRun | null = null;
  /** Blocks that frames wrote, over all links. */
  blocksReceived = 0;
  /** Blocks that came twice on one link, or below its cursor: never needed. */
  wasted: number[] = [];
  /** What it thinks is wrong. */
  faults: string[] = [];
  private number = 0;
  private startCursor = 0;
  private readonly seen = new Set<number>();
  private readonly frames = new Set<number>();
  private waiting: ControlMessage[] = [];

  constructor(base: Tags) {
    this.base = base;
  }

  get sizeBytes(): number {
    return this.base.length * BLOCK_BYTES;
  }

  /** The link is gone, and its power with it: what was not flushed is old, new or torn. */
  powerCut(random: () => number): void {
    this.waiting = [];
    const { run } = this;
    if (run === null) return;
    for (const [block, before] of run.unflushed) {
      const fate = random();
      if (fate < 0.3) run.head[block] = before;
      else if (fate < 0.6) run.head[block] = GARBAGE;
    }
    run.unflushed.clear();
  }

  control(message: ControlMessage, link: MemoryLink): void {
    if (message.kind === 'run-begin') {
      this.begin(message);
      link.answer({ kind: 'run-ready', run: message.run, cursor: this.startCursor });
    } else {
      this.waiting.push(message);
      this.settle(link);
    }
  }

  frame(header: FrameHeader, payload: Buffer | null, link: MemoryLink): void {
    if (header.kind === FrameKind.DIGESTS) return this.compare(header, payload, link);
    if (header.epoch !== this.number) this.faults.push('a frame of another run');
    if (this.frames.has(header.index)) this.faults.push('a frame came twice');
    this.frames.add(header.index);
    if (payload === null) return void this.faults.push('a frame without payload');
    if (header.kind === FrameKind.RUN_DATA) this.data(header, payload);
    else this.ranges(payload);
    this.settle(link);
  }

  private begin(message: Extract<ControlMessage, { kind: 'run-begin' }>): void {
    if (message.sizeBytes !== this.sizeBytes) this.faults.push('another size');
    if (this.run?.id !== message.run) {
      const head = message.full ? new Uint8Array(this.base.length) : this.base.slice();
      this.run = {
        id: message.run,
        full: message.full,
        head,
        cursor: 0,
        unflushed: new Map(),
        epoch: message.epoch,
        generation: message.generation,
      };
    }
    this.number = message.number;
    this.startCursor = this.run.cursor;
    this.seen.clear();
    this.frames.clear();
  }

  private data(header: FrameHeader, payload: Buffer): void {
    const fault = faultInEntries(payload, payload.length, this.sizeBytes);
    if (fault !== null) return void this.faults.push(fault);
    if (header.length !== payload.length) this.faults.push('a wrong length');
    visitEntries(payload, payload.length, (offset, length, bytes, start) => {
      for (let at = 0; at < length; at += BLOCK_BYTES) {
        const tag = bytes[start + at]!;
        const block = bytes.subarray(start + at, start + at + BLOCK_BYTES);
        if (!block.equals(blocksOfTag[tag]!)) this.faults.push('bytes of several blocks');
        if (tag === 0) this.faults.push('zeroes travelled as data');
        this.put((offset + at) / BLOCK_BYTES, tag);
      }
    });
  }

  private ranges(payload: Buffer): void {
    const fault = faultInRanges(payload, payload.length, this.sizeBytes);
    if (fault !== null) return void this.faults.push(fault);
    visitRanges(payload, payload.length, (offset, length) => {
      for (let at = 0; at < length; at += BLOCK_BYTES) this.put((offset + at) / BLOCK_BYTES, 0);
    });
  }

  private put(block: number, tag: number): void {
    const { run } = this;
    if (run === null) return void this.faults.push('a frame without a run');
    if (this.seen.has(block) || block * BLOCK_BYTES < this.startCursor) this.wasted.push(block);
    this.seen.add(block);
    this.blocksReceived += 1;
    if (!run.unflushed.has(block)) run.unflushed.set(block, run.head[block]!);
    run.head[block] = tag;
  }

  /** Messages are done in their order, each when the frames before it are there. */
  private settle(link: MemoryLink): void {
    for (;;) {
      const message = this.waiting[0];
      if (message === undefined) return;
      if (message.kind !== 'run-mark' && message.kind !== 'run-commit') {
        this.faults.push(`the message ${message.kind}`);
        return;
      }
      for (let index = 0; index < message.frames; index += 1) {
        if (!this.frames.has(index)) return;
      }
      this.waiting.shift();
      this.finish(message, link);
    }
  }

  private finish(
    message: Extract<ControlMessage, { kind: 'run-mark' | 'run-commit' }>,
    link: MemoryLink,
  ): void {
    const { run } = this;
    if (run?.id !== message.run) return void this.faults.push('no such run');
    run.unflushed.clear();
    if (message.kind === 'run-mark') {
      if (message.cursor <= run.cursor) this.faults.push('a mark that says nothing new');
      run.cursor = message.cursor;
      link.answer({ kind: 'run-durable', run: message.run, cursor: message.cursor });
      return;
    }
    this.base = run.head;
    this.position = { generation: run.generation, epoch: run.epoch };
    this.run = null;
    link.answer({ kind: 'run-committed', run: message.run });
  }

  private compare(header: FrameHeader, payload: Buffer | null, link: MemoryLink): void {
    const twin = (header.flags & COMPARE_TWIN) !== 0;
    const zero = (header.flags & COMPARE_ZERO) !== 0;
    const content = twin ? this.twin : this.base;
    if (content === null) return void this.faults.push('no twin');
    if (!twin && header.epoch !== this.number) this.faults.push('a question of another run');
    const first = header.offset / BLOCK_BYTES;
    const count = header.length / BLOCK_BYTES;
    if ((header.flags & COMPARE_GROUPS) !== 0) {
      if (zero) this.faults.push('zeroes in groups');
      const bits = differingGroups(content.subarray(first, first + count), payload);
      link.answerFrame({ ...header, kind: FrameKind.DIFFERS }, bits);
      return;
    }
    const bits = Buffer.alloc(Math.ceil(count / 8));
    let some = false;
    for (let at = 0; at < count; at += 1) {
      const tag = content[first + at]!;
      const digest = payload?.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES);
      const same = zero ? tag === 0 : digestsOfTag[tag]!.equals(digest!);
      if (same) continue;
      some = true;
      bits[at >> 3]! |= 1 << (at & 7);
    }
    link.answerFrame({ ...header, kind: FrameKind.DIFFERS }, some ? bits : null);
  }
}

/** A bit for each block of the groups that are not what the digests say; null: none. */
function differingGroups(content: Tags, digests: Buffer | null): Buffer | null {
  const per = COMPARE_GROUP_BYTES / BLOCK_BYTES;
  const bits = Buffer.alloc(Math.ceil(content.length / 8));
  let some = false;
  for (let first = 0, at = 0; first < content.length; first += per, at += DIGEST_BYTES) {
    const tags = content.subarray(first, first + per);
    const group = Buffer.concat([...tags].map((tag) => blocksOfTag[tag]!));
    const digest = digestUnits(group, group.length, COMPARE_GROUP_BYTES);
    if (digest.equals(digests!.subarray(at, at + DIGEST_BYTES))) continue;
    some = true;
    for (let index = 0; index < tags.length; index += 1) {
      bits[(first + index) >> 3]! |= 1 << ((first + index) & 7);
    }
  }
  return some ? bits : null;
}

/** Who is fed with what the mirror says. */
export interface Talk {
  control(message: ControlMessage): void;
  frame(header: FrameHeader, payload: ReceivedPayload | null): void;
  drained(): void;
  abort(): void;
}

interface Queued {
  readonly header: FrameHeader;
  readonly chunks: readonly Buffer[];
  readonly sent: (() => void) | undefined;
}

export interface LinkOptions {
  readonly mirror: ModelMirror;
  readonly random: () => number;
  readonly clock: ModelClock;
  /** The link breaks in place of this message, counted from 0 over both directions. */
  readonly breakAt?: number;
  /** Frames among which the next is picked. */
  readonly lanes?: number;
  /** Virtual milliseconds that a message takes. */
  readonly messageMs?: number;
  /** Turns of the loop that a message takes; 1 if not given. */
  readonly turns?: number;
}

export class MemoryLink implements Link {
  open = true;
  readonly peer = 'model';
  backlogBytes = 0;
  bytesSent = 0;
  bytesReceived = 0;
  /** Most that ever was on its way. */
  backlogMost = 0;
  messages = 0;
  payloadsHeld = 0;
  talk: Talk | null = null;
  private readonly frames: Queued[] = [];
  private readonly controls: ControlMessage[] = [];
  private readonly answers: ControlMessage[] = [];
  private readonly answerFrames: { header: FrameHeader; payload: Buffer | null }[] = [];
  private readonly options: LinkOptions;
  private moving = false;

  constructor(options: LinkOptions) {
    this.options = options;
  }

  start(): void {}
  setHeartbeat(): void {}
  end(): void {
    this.break();
  }
  destroy(): void {
    this.break();
  }

  send(header: FrameHeader, chunks: readonly Buffer[] = [], sent?: () => void): void {
    if (!this.open) return sent?.();
    const bytes = FRAME_HEADER_BYTES + chunks.reduce((sum, { length }) => sum + length, 0);
    this.bytesSent += bytes;
    this.backlogBytes += bytes;
    this.backlogMost = Math.max(this.backlogMost, this.backlogBytes);
    this.frames.push({ header, chunks, sent });
    this.move();
  }

  sendControl(message: ControlMessage): void {
    if (!this.open) return;
    this.controls.push(message);
    this.move();
  }

  answer(message: ControlMessage): void {
    this.answers.push(message);
  }

  answerFrame(header: FrameHeader, payload: Buffer | null): void {
    this.bytesReceived += FRAME_HEADER_BYTES + (payload?.length ?? 0);
    this.answerFrames.push({ header, payload });
  }

  private move(): void {
    if (this.moving) return;
    this.moving = true;
    this.afterTurns(this.options.turns ?? 1, () => {
      this.moving = false;
      if (!this.open) return;
      this.step();
      const queues = [this.frames, this.controls, this.answers, this.answerFrames];
      if (this.open && queues.some(({ length }) => length > 0)) this.move();
    });
  }

  private afterTurns(turns: number, run: () => void): void {
    setImmediate(() => (turns === 1 ? run() : this.afterTurns(turns - 1, run)));
  }

  /** One message in one direction. */
  private step(): void {
    const { random, mirror, breakAt, clock, messageMs = 50, lanes = 4 } = this.options;
    if (this.messages === breakAt) return this.break();
    this.messages += 1;
    clock.time += messageMs;
    const ways: (() => void)[] = [];
    if (this.frames.length > 0) {
      ways.push(() => {
        const at = Math.floor(random() * Math.min(lanes, this.frames.length));
        this.deliver(this.frames.splice(at, 1)[0]!);
      });
    }
    if (this.controls.length > 0) ways.push(() => mirror.control(this.controls.shift()!, this));
    if (this.answers.length > 0) ways.push(() => this.talk?.control(this.answers.shift()!));
    if (this.answerFrames.length > 0) ways.push(() => this.bringAnswer());
    ways[Math.floor(random() * ways.length)]?.();
  }

  private deliver({ header, chunks, sent }: Queued): void {
    // Only now: whoever changes the chunks before `sent` is found out.
    const payload = chunks.length === 0 ? null : Buffer.concat(chunks);
    this.backlogBytes -= FRAME_HEADER_BYTES + (payload?.length ?? 0);
    sent?.();
    this.options.mirror.frame(header, payload, this);
    this.talk?.drained();
  }

  private bringAnswer(): void {
    const at = Math.floor(this.options.random() * this.answerFrames.length);
    const { header, payload } = this.answerFrames.splice(at, 1)[0]!;
    if (payload === null) return this.talk?.frame(header, null);
    this.payloadsHeld += 1;
    this.talk?.frame(header, {
      buffer: payload,
      length: payload.length,
      release: () => {
        this.payloadsHeld -= 1;
      },
    });
  }

  private break(): void {
    if (!this.open) return;
    this.open = false;
    for (const { sent } of this.frames.splice(0)) sent?.();
    this.options.mirror.powerCut(this.options.random);
    setImmediate(() => this.talk?.abort());
  }
}
