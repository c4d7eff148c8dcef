/**
 * The sender of a stream against a link whose far end is the test: when frames leave, what they hold, how many are
 * under way, and what acknowledgements do. The clock stands still unless it is told to move; a turn of the
 * event loop is a call. The content is judged by a model of bytes and a decoder that uses nothing of ours.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Clock, Timer } from '../../src/io/clock.ts';
import {
  BLOCK_BYTES,
  EPOCH_AGE_MS,
  EPOCH_BYTES,
  EPOCH_PUSH_BYTES,
  LINK_BACKLOG_BYTES_HIGH,
  LINK_FRAME_BYTES_MAX,
  LINK_UNACKED_BYTES_MAX,
  LINK_UNACKED_EPOCHS_MAX,
} from '../../src/io/limits.ts';
import { FrameKind } from '../../src/replicator/link/link-types.ts';
import { PeerSender } from '../../src/replicator/contact/peer-sender.ts';
import { Stager, type StagedMirror } from '../../src/replicator/staging/stager.ts';
import { StagingQueue, type Follower } from '../../src/replicator/staging/staging-queue.ts';
import { stamped } from './support/host.ts';
import { ScriptedLink, type SentFrame } from './support/scripted-link.ts';
import { SparseImage } from './support/sparse-image.ts';
import { decodeEntries } from './support/staged-entries.ts';

const MIB = 2 ** 20;

class TurnClock implements Clock {
  time = 100;
  private turnEnd: (() => void)[] = [];
  private timers: { at: number; run: () => void }[] = [];

  now(): number {
    return this.time;
  }

  wall(): number {
    return 1_800_000_000_000.75 + this.time;
  }

  after(delayMs: number, run: () => void): Timer {
    const timer = { at: this.time + delayMs, run };
    this.timers.push(timer);
    return { cancel: () => void (this.timers = this.timers.filter((each) => each !== timer)) };
  }

  soon(callback: () => void): void {
    this.turnEnd.push(callback);
  }

  get timerCount(): number {
    return this.timers.length;
  }

  /** The end of this turn, and what it leads to. */
  turn(): void {
    while (this.turnEnd.length > 0) for (const run of this.turnEnd.splice(0)) run();
  }

  pass(ms: number): void {
    this.time += ms;
    const due = this.timers.filter(({ at }) => at <= this.time);
    this.timers = this.timers.filter(({ at }) => at > this.time);
    for (const { run } of due) run();
    this.turn();
  }
}

/** A host with one mirror that is a peer, and a volume that can be read back. */
class Stage {
  readonly clock = new TurnClock();
  readonly queue: StagingQueue;
  readonly surroundings: { readonly clock: Clock };
  readonly link = new ScriptedLink();
  readonly follower: Follower;
  readonly sender: PeerSender;
  /** How often the stager woke the mirror. */
  wakes = 0;
  private readonly stager: Stager;
  hasWaiters = false;
  held: number[] = [];
  durable = 0;
  readable = 0;
  idle = 0;
  readonly base: number;
  private seen = 0;

  constructor(options: { firstEpoch?: number; awaits?: boolean; pushBytes?: number } = {}) {
    const { firstEpoch = 1, pushBytes } = options;
    const { clock } = this;
    this.queue = new StagingQueue({
      firstEpoch,
      clock,
      ...(pushBytes === undefined ? {} : { pushBytes }),
    });
    this.surroundings = { clock: this.clock };
    this.follower = this.queue.follow();
    this.base = this.follower.released;
    this.sender = new PeerSender({
      host: this,
      link: this.link,
      after: this.follower.released,
      awaits: options.awaits ?? false,
      onHeld: ({ number }) => void this.held.push(number),
      onDurable: () => {
        this.durable = this.sender.durable;
        this.queue.release(this.follower, this.sender.durable);
      },
      onReadable: () => (this.readable = this.sender.readable),
      onIdle: () => (this.idle += 1),
    });
    this.stager = new Stager({
      clock,
      volume: { sizeBytes: 2 ** 40, readNow: () => 0 },
      queue: this.queue,
      gate: { wrote: () => {} },
      mirrors: [this.mirror()],
    });
  }

  private mirror(): StagedMirror {
    return {
      inStream: true,
      backlog: null,
      blocks: { mark: () => {} },
      wake: () => {
        this.wakes += 1;
        this.sender.pump();
      },
      shed: () => {},
      outrun: (reason) => {
        throw new Error(reason);
      },
    };
  }

  write(block: number, blocks = 1, stamp = 1): number {
    const bytes = stamped(blocks * BLOCK_BYTES, stamp);
    return this.stager.wrote(block * BLOCK_BYTES, bytes, 0, bytes.length);
  }

  zero(block: number, blocks = 1): number {
    return this.stager.zeroed(block * BLOCK_BYTES, blocks * BLOCK_BYTES, false);
  }

  flush(awaited = true): number {
    const epoch = this.queue.close('barrier');
    this.sender.barrier(epoch, awaited);
    return epoch;
  }

  ack(durable: number, received = durable, readable = 0): void {
    this.sender.ack({ epoch: durable, index: received, aux: readable });
    this.clock.turn();
  }

  /** What was sent since the last call: kind, epoch (1 is the first of the stream), and index. */
  news(): string[] {
    return this.newFrames().map(
      ({ header }) => `${nameOf(header.kind)} ${header.epoch - this.base}.${header.index}`,
    );
  }

  newFrames(): SentFrame[] {
    const frames = this.link.frames.slice(this.seen);
    this.seen = this.link.frames.length;
    return frames;
  }

  get sentBytes(): number {
    return this.bytesAfter(0);
  }

  /** Bytes sent of the epochs after this one. */
  bytesAfter(epoch: number): number {
    const frames = this.link.frames.filter(({ header }) => header.epoch > epoch);
    return frames.reduce((sum, { copy }) => sum + copy.length, 0);
  }
}

function nameOf(kind: number): string {
  return Object.entries(FrameKind).find(([, number]) => number === kind)?.[0] ?? '?';
}

/** Applies the frames of each epoch in the order of their index, once its CLOSE is there; checks the count. */
function replay(
  frames: readonly SentFrame[],
  image: SparseImage,
  closed: (epoch: number) => void,
): void {
  let index = 0;
  for (const { header, copy } of frames) {
    if (header.kind === FrameKind.CLOSE) {
      expect(header.index).toBe(index);
      index = 0;
      closed(header.epoch);
      continue;
    }
    expect(header.index).toBe(index);
    index += 1;
    if (header.kind === FrameKind.DATA) {
      expect(header.length).toBe(copy.length);
      for (const { offset, payload } of decodeEntries([copy])) image.write(offset, payload);
    } else if (header.kind === FrameKind.RANGES) {
      for (let at = 0; at < copy.length; at += 20) {
        image.zero(Number(copy.readBigUInt64BE(at)), Number(copy.readBigUInt64BE(at + 8)));
      }
    }
  }
}

describe('a stream to a peer', () => {
  it('sends the writes of some turns in one frame when they are worth it, and the rest with the end of their epoch', () => {
    const stage = new Stage();
    const half = EPOCH_PUSH_BYTES / BLOCK_BYTES / 2;
    stage.write(0, half);
    stage.clock.turn();
    expect(stage.news()).toEqual([]);
    stage.write(half, half - 1);
    stage.clock.turn();
    expect(stage.news()).toEqual([]);
    stage.write(2 * half);
    stage.write(2 * half + 1);
    stage.clock.turn();
    expect(stage.news()).toEqual(['DATA 1.0']);
    stage.write(3 * half);
    stage.clock.turn();
    stage.write(4 * half);
    stage.clock.pass(EPOCH_AGE_MS - 1);
    expect(stage.news()).toEqual([]);
    stage.clock.pass(1);
    const [data, close] = stage.newFrames();
    const wall = Math.floor(stage.clock.wall());
    expect(data?.header).toMatchObject({ kind: FrameKind.DATA, index: 1 });
    expect(close?.header).toMatchObject({ kind: FrameKind.CLOSE, index: 2, aux: wall });
    expect(stage.link.heartbeatEpoch).toBe(stage.base + 1);
    expect(stage.clock.timerCount).toBe(0);
  });

  it('counts the age of an epoch from its own first write', () => {
    const stage = new Stage();
    stage.write(1);
    stage.clock.turn();
    stage.flush();
    stage.clock.pass(EPOCH_AGE_MS - 5);
    stage.write(2);
    stage.clock.turn();
    stage.news();
    stage.clock.pass(5);
    expect(stage.news()).toEqual([]);
    stage.clock.pass(EPOCH_AGE_MS - 5);
    expect(stage.news()).toEqual(['DATA 2.0', 'CLOSE 2.1']);
  });

  it('sends what there is at every turn when it is told so', () => {
    const stage = new Stage({ pushBytes: 0 });
    stage.write(1);
    stage.write(5);
    expect(stage.news()).toEqual([]);
    stage.clock.turn();
    expect(stage.news()).toEqual(['DATA 1.0']);
    stage.write(9);
    stage.clock.turn();
    expect(stage.news()).toEqual(['DATA 1.1']);
  });

  it('is woken when there is something to do, and not by every write', () => {
    const stage = new Stage();
    const most = EPOCH_PUSH_BYTES / BLOCK_BYTES;
    for (let block = 0; block < 3 * most; block += 1) {
      stage.write(block);
      stage.clock.turn();
    }
    // The first of the epoch, which is looked at again when it is of age; and each 512 KiB, of which one lies in two slabs.
    expect(stage.wakes).toBe(4);
    expect(stage.news()).toEqual(['DATA 1.0', 'DATA 1.1', 'DATA 1.2', 'DATA 1.3']);
  });

  it('is woken by what follows the end of an epoch that it wanted more of, whatever ended it', () => {
    const stage = new Stage();
    stage.zero(8, 2);
    stage.clock.turn();
    expect(stage.news()).toEqual([]);
    // A payload for blocks that the epoch zeroed: it ends, and the next one begins.
    stage.write(9);
    stage.clock.turn();
    expect(stage.news()).toEqual(['RANGES 1.0', 'CLOSE 1.1']);
  });

  it('ends the epoch in the same turn when a synchronous reply waits for it, or a flush', () => {
    const stage = new Stage();
    stage.hasWaiters = true;
    stage.write(1);
    stage.write(2);
    stage.clock.turn();
    expect(stage.news()).toEqual(['DATA 1.0', 'CLOSE 1.1']);
    stage.hasWaiters = false;
    stage.write(3);
    stage.clock.turn();
    stage.write(4);
    stage.flush();
    stage.write(5);
    stage.clock.turn();
    expect(stage.news()).toEqual(['DATA 2.0', 'CLOSE 2.1']);
  });

  it('says once what the host waits for, to a peer that wants to know', () => {
    const stage = new Stage({ awaits: true });
    stage.write(1);
    stage.flush(false);
    stage.clock.turn();
    expect(stage.news()).toEqual(['DATA 1.0', 'CLOSE 1.1']);
    stage.flush();
    stage.flush();
    stage.clock.turn();
    expect(stage.news()).toEqual(['AWAITS 1.0']);
    stage.ack(stage.base + 1);
    stage.flush();
    stage.clock.turn();
    expect(stage.news()).toEqual([]);
    stage.write(2);
    stage.flush();
    stage.clock.turn();
    expect(stage.news()).toEqual(['DATA 2.0', 'CLOSE 2.1', 'AWAITS 2.0']);
  });

  it('ends a large epoch, and one whose blocks come again, without a pause', () => {
    const stage = new Stage();
    stage.write(0, EPOCH_BYTES / BLOCK_BYTES);
    stage.clock.turn();
    const names = stage.news();
    expect(names.at(-1)).toMatch(/^CLOSE 1/);
    expect(stage.link.frames.every(({ copy }) => copy.length <= LINK_FRAME_BYTES_MAX)).toBe(true);
    const worth = EPOCH_PUSH_BYTES / BLOCK_BYTES;
    stage.write(7, worth);
    stage.clock.turn();
    stage.write(7, worth, 2);
    stage.clock.turn();
    expect(stage.news().slice(0, 3)).toEqual(['DATA 2.0', 'CLOSE 2.1', 'DATA 3.0']);
  });

  it('sends ranges of zeroes, commands, and epochs with nothing in them', () => {
    const stage = new Stage();
    stage.queue.appendZeroes(8 * BLOCK_BYTES, 2 * BLOCK_BYTES, stage.clock.time, true);
    stage.queue.appendZeroes(20 * BLOCK_BYTES, BLOCK_BYTES, stage.clock.time, false);
    stage.write(1);
    stage.queue.closeWithCommand({ kind: 'thaw', id: '00112233445566778899aabbccddeeff' });
    stage.queue.seal();
    stage.sender.pump();
    stage.clock.turn();
    const [ranges, , command] = stage.link.frames;
    expect(stage.news()).toEqual([
      'RANGES 1.0',
      'DATA 1.1',
      'COMMAND 1.2',
      'CLOSE 1.3',
      'CLOSE 2.0',
    ]);
    expect(ranges?.copy.toString('hex')).toBe(
      '0000000000008000' +
        '0000000000002000' +
        '00000001' +
        '0000000000014000' +
        '0000000000001000' +
        '00000000',
    );
    expect(command?.copy.includes('00112233445566778899aabbccddeeff')).toBe(true);
  });

  it('goes on with the next epoch before the last is acknowledged, up to the epochs that the far end takes', () => {
    const stage = new Stage();
    for (let round = 0; round < LINK_UNACKED_EPOCHS_MAX + 50; round += 1) {
      stage.write(round);
      stage.flush();
      stage.clock.turn();
    }
    const closes = stage.news().filter((name) => name.startsWith('CLOSE'));
    expect(closes.length).toBe(LINK_UNACKED_EPOCHS_MAX);
    stage.ack(stage.base + 3);
    expect(stage.news().filter((name) => name.startsWith('CLOSE')).length).toBe(3);
    // That they arrived is not enough: the far end still holds them in memory.
    stage.ack(stage.base + 3, stage.base + 500);
    expect(stage.news()).toEqual([]);
  });

  it('keeps within the bytes that the far end takes, and takes up when there is room', () => {
    const stage = new Stage();
    for (let round = 0; round < 40; round += 1) stage.write(round * 1100, (4 * MIB) / BLOCK_BYTES);
    stage.clock.turn();
    expect(stage.sentBytes).toBeLessThanOrEqual(LINK_UNACKED_BYTES_MAX);
    expect(stage.sentBytes).toBeGreaterThan(LINK_UNACKED_BYTES_MAX - LINK_FRAME_BYTES_MAX);
    expect(stage.sender.unackedBytes).toBe(stage.sentBytes);
    let rounds = 0;
    for (; stage.sender.durable < stage.queue.openNumber - 1 && rounds < 100; rounds += 1) {
      const closed = stage.link.frames.filter(({ header }) => header.kind === FrameKind.CLOSE);
      stage.ack(closed.at(-1)?.header.epoch ?? 0);
      expect(stage.sender.unackedBytes).toBe(stage.bytesAfter(stage.sender.durable));
      expect(stage.sender.unackedBytes).toBeLessThanOrEqual(LINK_UNACKED_BYTES_MAX);
      stage.clock.pass(EPOCH_AGE_MS);
    }
    expect(stage.sentBytes).toBeGreaterThan(160 * MIB);
    expect(stage.sender.unackedBytes).toBe(0);
    expect(stage.queue.stagedBytes).toBe(0);
  });

  it('gives a slow link no more than its backlog, folds meanwhile, and goes on when it drained', () => {
    const stage = new Stage();
    stage.link.flowing = false;
    for (let round = 0; round < 40; round += 1) {
      stage.write(round * 1000, MIB / BLOCK_BYTES, round);
      stage.clock.turn();
    }
    const most = LINK_BACKLOG_BYTES_HIGH + LINK_FRAME_BYTES_MAX;
    expect(stage.link.backlogBytes).toBeGreaterThanOrEqual(LINK_BACKLOG_BYTES_HIGH);
    expect(stage.link.backlogBytes).toBeLessThan(most);
    const staged = stage.queue.stagedBytes;
    for (let round = 0; round < 40; round += 1) {
      stage.write(39_000, MIB / BLOCK_BYTES, 100 + round);
      stage.clock.turn();
    }
    expect(stage.queue.stagedBytes).toBe(staged);
    for (let round = 0; round < 60; round += 1) {
      stage.link.flow();
      stage.sender.pump();
      stage.clock.turn();
      expect(stage.link.backlogBytes).toBeLessThan(most);
    }
    expect(stage.sentBytes).toBeGreaterThan(40 * MIB);
  });

  it('believes positions that rise, and no others', () => {
    const stage = new Stage();
    const { base } = stage;
    for (let round = 0; round < 5; round += 1) {
      stage.write(round);
      stage.flush();
      stage.clock.turn();
    }
    stage.ack(base + 1, base + 3, base + 1);
    expect(stage.held).toEqual([base + 1, base + 2, base + 3]);
    expect([stage.durable, stage.readable]).toEqual([base + 1, base + 1]);
    // Older ones, from another lane.
    stage.ack(base, base + 2, base);
    expect([stage.sender.held, stage.sender.durable, stage.sender.readable]).toEqual([
      base + 3,
      base + 1,
      base + 1,
    ]);
    // What is durable has arrived.
    stage.ack(base + 5, base + 3, base + 5);
    expect(stage.held.length).toBe(5);
    expect([stage.durable, stage.readable]).toEqual([base + 5, base + 5]);
    expect(stage.queue.stagedBytes).toBe(0);
    expect(stage.link.destroyedBy).toBeNull();
  });

  it.each(['durable', 'received', 'readable'])(
    'ends a link that claims what it was not sent (%s)',
    (what) => {
      const stage = new Stage();
      stage.write(1);
      stage.clock.turn();
      const claim = stage.base + 1;
      const { base } = stage;
      stage.ack(
        what === 'durable' ? claim : base,
        what === 'received' ? claim : base,
        what === 'readable' ? claim : 0,
      );
      expect(stage.link.destroyedBy?.code).toBe('LINK_PROTOCOL');
      expect(stage.held).toEqual([]);
      expect(stage.durable).toBe(0);
    },
  );

  it('says when what was under way has arrived, once it is stopped', () => {
    const stage = new Stage();
    stage.write(1);
    stage.flush();
    stage.write(2);
    stage.clock.turn();
    stage.queue.leave(stage.follower, () => {});
    expect(stage.sender.stop()).toBe(true);
    stage.news();
    stage.sender.pump();
    stage.clock.pass(100);
    expect(stage.news()).toEqual([]);
    stage.ack(stage.base);
    expect(stage.idle).toBe(0);
    stage.ack(stage.base, stage.base + 1);
    stage.ack(stage.base + 1);
    expect(stage.idle).toBe(1);
    expect([stage.held, stage.durable]).toEqual([[], 0]);
  });

  it('has nothing under way when nothing was sent whole', () => {
    const stage = new Stage();
    stage.write(1);
    stage.clock.turn();
    stage.queue.leave(stage.follower, () => {});
    expect(stage.sender.stop()).toBe(false);
    expect(stage.clock.timerCount).toBe(0);
  });

  it('keeps memory until the link has sent it, and not beyond its end', () => {
    const stage = new Stage();
    stage.link.flowing = false;
    const slabs = new Set<ArrayBufferLike>();
    const originals = new Map<Buffer, Buffer>();
    const { link } = stage;
    link.onSend = (chunk) => {
      slabs.add(chunk.buffer);
      originals.set(chunk, Buffer.from(chunk));
    };
    for (let round = 0; round < 30; round += 1) {
      stage.write(0, 200, round);
      stage.flush();
      stage.clock.turn();
      // Acknowledged before the system gave the memory back: it must not be used again.
      const closed = link.frames.filter(({ header }) => header.kind === FrameKind.CLOSE);
      stage.ack(closed.at(-1)?.header.epoch ?? 0);
    }
    for (const [chunk, copy] of originals) expect(copy.equals(chunk)).toBe(true);
    expect(stage.sender.stop()).toBe(false);
    link.break();
    stage.sender.connectionOver();
    expect(slabs.size).toBeGreaterThan(3);
    // Free again: what comes next lies in the same memory.
    const other = new ScriptedLink();
    const next = new PeerSender({
      host: stage,
      link: other,
      after: stage.queue.seal(),
      onHeld: () => {},
      onDurable: () => {},
      onIdle: () => {},
    });
    const used: ArrayBufferLike[] = [];
    other.onSend = (chunk) => void used.push(chunk.buffer);
    stage.write(0, (3 * MIB) / BLOCK_BYTES);
    next.pump();
    stage.clock.turn();
    expect(used.length).toBeGreaterThan(2);
    expect(used.slice(1).every((buffer) => slabs.has(buffer))).toBe(true);
  });

  it('streams past 2^40 what the host wrote, whatever the link does', () => {
    const action = fc.record({
      kind: fc.constantFrom(
        'write',
        'write',
        'write',
        'zero',
        'flush',
        'turn',
        'turn',
        'flow',
        'ack',
        'age',
      ),
      block: fc.nat(50),
      blocks: fc.integer({ min: 1, max: 300 }),
      stamp: fc.nat(),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), fc.boolean(), (actions, flowing) => {
        const stage = new Stage({ firstEpoch: 2 ** 40 + 7 });
        stage.link.flowing = flowing;
        const changes: { epoch: number; apply: (image: SparseImage) => void }[] = [];
        const act = (kind: string, block: number, blocks: number, stamp: number): void => {
          const offset = block * BLOCK_BYTES;
          const length = blocks * BLOCK_BYTES;
          if (kind === 'write') {
            const bytes = stamped(length, stamp);
            const epoch = stage.write(block, blocks, stamp);
            changes.push({ epoch, apply: (image) => image.write(offset, bytes) });
          } else if (kind === 'zero') {
            const epoch = stage.queue.appendZeroes(offset, length, stage.clock.time, false);
            changes.push({ epoch, apply: (image) => image.zero(offset, length) });
            stage.sender.pump();
          } else if (kind === 'flush') stage.flush();
          else if (kind === 'turn') stage.clock.turn();
          else if (kind === 'age') stage.clock.pass(EPOCH_AGE_MS);
          else if (kind === 'flow') {
            stage.link.flow();
            stage.sender.pump();
          } else {
            const closed = stage.link.frames.filter(
              ({ header }) => header.kind === FrameKind.CLOSE,
            );
            stage.ack(closed[closed.length - 1 - (stamp % 3)]?.header.epoch ?? stage.base);
          }
        };
        for (const { kind, block, blocks, stamp } of actions) act(kind, block, blocks, stamp);
        for (let round = 0; round < 50; round += 1) {
          for (const kind of ['flush', 'flow', 'turn', 'ack', 'turn']) act(kind, 0, 0, 0);
        }
        const model = new SparseImage();
        const image = new SparseImage();
        replay(stage.link.frames, image, (epoch) => {
          while (changes[0] !== undefined && changes[0].epoch <= epoch)
            changes.shift()?.apply(model);
          expect(image.differences(model)).toEqual([]);
        });
        expect(changes).toEqual([]);
        expect(stage.link.destroyedBy).toBeNull();
        expect(stage.queue.stagedBytes).toBe(0);
      }),
      { numRuns: 60 },
    );
  });
});
