/**
 * Payloads on a slow link go out compressed when they shrink, arrive as they were, and count as what travels; hostile
 * ones end the link and take no memory. Method: two ends in memory over connections that let so much pass in a second, with
 * a compressor on the same thread whose speed is made up, or one that answers when the test says; frames written by hand.
 */
import { randomBytes } from 'node:crypto';
import { brotliCompressSync, constants, crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { BlockferryError } from '../../../src/io/errors.ts';
import { LINK_EXPANDED_BYTES_MAX, LINK_FRAME_BYTES_MAX } from '../../../src/io/limits.ts';
import type { WireLimit } from '../../../src/replicator/link/link-types.ts';
import { SendLimit } from '../../../src/replicator/pace/send-limit.ts';
import { inlineCompressor, type Compressor } from '../../../src/workers/compressor.ts';
import { header, NOTHING_LEFT, Pair, type PairOptions } from './support/link-pair.ts';
import { entry, wireFrame, type WireFrame } from './support/wire.ts';

const FRAME_BYTES = 64 * 1024;
/** 400 kB a second over each lane. */
const SLOW = { windowBytes: 20_000, delayMs: [50, 50] } as const;
const NOISE = randomBytes(FRAME_BYTES);

function squeezable(index: number): Buffer {
  const data = Buffer.alloc(FRAME_BYTES, index + 1);
  NOISE.copy(data, 0, 0, FRAME_BYTES >> 3);
  return entry(BigInt(index) * BigInt(FRAME_BYTES), data);
}

function random(index: number): Buffer {
  return entry(BigInt(index) * BigInt(FRAME_BYTES), NOISE);
}

/** Costs nothing: keeps the first eighth of what `squeezable` makes, and the byte that follows. Says how fast it is. */
function quick(bytesPerSecond: number): Compressor {
  return {
    ...inlineCompressor(bytesPerSecond),
    compress: async (chunks, bytes) => {
      const plain = Buffer.concat(chunks, bytes);
      const kept = 28 + (FRAME_BYTES >> 3);
      const ms = (bytes / bytesPerSecond) * 1000;
      const shrinks = plain[kept] === plain[kept + 1] && plain[kept] === plain.at(-1);
      return { bytes: shrinks ? Buffer.from(plain.subarray(0, kept + 1)) : null, ms };
    },
    expand: async (packed, plain) => {
      plain.fill(packed.at(-1) ?? 0);
      packed.copy(plain);
      return 'whole';
    },
  };
}

/** Lets all happen that needs no time, also what is done by promises alone. */
async function calm(pair: Pair): Promise<void> {
  for (let round = 0; round < 20; round += 1) {
    await new Promise((resolve) => setImmediate(resolve));
    await pair.settle();
  }
}

/** Keeps a link busy: as a sender does, while the backlog is low. */
class Source {
  readonly checksums = new Map<number, number>();
  told = 0;
  plainBytes = 0;
  private index = 0;
  private readonly pair: Pair;
  private readonly make: (index: number) => Buffer;

  constructor(pair: Pair, make: (index: number) => Buffer) {
    this.pair = pair;
    this.make = make;
    pair.atPrimary.drained = () => this.go();
  }

  go(most = Infinity): this {
    const { primary } = this.pair;
    for (let sent = 0; sent < most && primary.open && primary.backlogBytes < 2 ** 20; sent += 1) {
      this.send();
    }
    return this;
  }

  send(): void {
    const payload = this.make(this.index);
    const index = this.index;
    this.index += 1;
    this.checksums.set(index, crc32(payload));
    this.plainBytes += payload.length;
    const head = header(1, { epoch: 1, index, length: payload.length });
    this.pair.primary.send(head, [payload.subarray(0, 28), payload.subarray(28)], () => {
      this.told += 1;
      // Whoever sends uses its memory again.
      payload.fill(0xdd);
    });
  }

  stop(): void {
    this.pair.atPrimary.drained = () => {};
  }
}

function expectSame(pair: Pair, source: Source): void {
  const { frames } = pair.atMirror;
  for (const frame of frames) {
    expect(frame.header.flags).toBe(0);
    expect(frame.bytes).toBe(frame.header.length);
    expect(frame.checksum).toBe(source.checksums.get(frame.header.index));
  }
  expect(new Set(frames.map(({ header: { index } }) => index)).size).toBe(source.checksums.size);
  expect(frames.length).toBe(source.checksums.size);
}

function started(options: PairOptions, limit: WireLimit | null = null): Pair {
  const pair = new Pair({ compressor: quick(200e6), ...options }).start();
  pair.primary.compression?.set('auto', limit);
  return pair;
}

async function settled(pair: Pair, source: Source): Promise<void> {
  source.stop();
  await pair.run(20_000);
  expectSame(pair, source);
  expect(source.told).toBe(source.checksums.size);
}

describe('a slow link', () => {
  test('brings more of what shrinks', async () => {
    const pair = started(SLOW);
    const source = new Source(pair, squeezable).go();
    await pair.run(1000);
    expect(pair.primary.compression?.active).toBe(false);
    await pair.run(6000);
    const { compression } = pair.primary;
    expect(compression?.active).toBe(true);
    expect(compression?.share).toBeLessThan(0.2);
    const before = source.plainBytes;
    const bytesBefore = pair.primary.bytesSent;
    await pair.run(2000);
    const share = (pair.primary.bytesSent - bytesBefore) / (source.plainBytes - before);
    expect(share).toBeLessThan(0.25);
    expect(compression!.bytesOut / compression!.bytesIn).toBeLessThan(0.2);
    await settled(pair, source);
    expect(compression?.active).toBe(false);
  });

  test('brings random data as it is', async () => {
    const pair = started(SLOW);
    const source = new Source(pair, random).go();
    for (let second = 0; second < 20; second += 1) {
      await pair.run(1000);
      expect(pair.primary.compression?.active).toBe(false);
    }
    expect(pair.primary.compression?.bytesIn).toBe(0);
    await settled(pair, source);
  });

  test('brings all as it is when the compressor is no faster', async () => {
    const pair = started({ ...SLOW, compressor: quick(1e6) });
    const source = new Source(pair, squeezable).go();
    for (let second = 0; second < 10; second += 1) {
      await pair.run(1000);
      expect(pair.primary.compression?.active).toBe(false);
    }
    await settled(pair, source);
  });

  test('brings all as it is when it is told to, from then on', async () => {
    const pair = started(SLOW);
    const source = new Source(pair, squeezable).go();
    await pair.run(6000);
    expect(pair.primary.compression?.active).toBe(true);
    pair.primary.compression?.set('off', null);
    const { bytesIn } = pair.primary.compression!;
    await pair.run(6000);
    expect(pair.primary.compression?.active).toBe(false);
    expect(pair.primary.compression?.bytesIn).toBeLessThanOrEqual(bytesIn);
    await settled(pair, source);
  });

  test('and nothing else is compressed: no ranges, no short payloads, no messages', async () => {
    const pair = started(SLOW);
    const source = new Source(pair, squeezable).go();
    await pair.run(6000);
    source.stop();
    const { bytesIn } = pair.primary.compression!;
    expect(pair.primary.compression?.active).toBe(true);
    const ranges = Buffer.alloc(81920, 1);
    pair.primary.send(header(2, { epoch: 1, index: 5000 }), [ranges]);
    const short = entry(0n, Buffer.alloc(8192));
    pair.primary.send(header(1, { epoch: 1, index: 5001, length: short.length }), [short]);
    expect(pair.primary.compression?.bytesIn).toBe(bytesIn);
    await pair.run(20_000);
    expect(pair.atMirror.frames.at(-2)?.checksum).toBe(crc32(ranges));
  });
});

test('a limit is of what travels', async () => {
  const pair = new Pair({ compressor: quick(200e6) }).start();
  const limit = new SendLimit(pair.clock, 1e6, null);
  pair.primary.compression?.set('auto', limit);
  const source = new Source(pair, squeezable);
  source.stop();
  // As a sender does: one frame when the limit allows it.
  const pump = (): void => {
    if (limit.waitMs === 0) {
      source.send();
      limit.take(FRAME_BYTES + 28);
    }
    pair.clock.after(5, pump);
  };
  pump();
  await pair.run(6000);
  expect(pair.primary.compression?.active).toBe(true);
  const { bytesSent } = pair.primary;
  const before = source.plainBytes;
  await pair.run(6000);
  const perSecond = (pair.primary.bytesSent - bytesSent) / 6;
  expect(perSecond).toBeGreaterThan(0.9e6);
  expect(perSecond).toBeLessThan(1.1e6);
  expect((source.plainBytes - before) / 6).toBeGreaterThan(4e6);
});

test.each([
  [
    'the compressor is gone',
    (compressor: HeldCompressor): void => void (compressor.usable = false),
    squeezable,
  ],
  [
    'the compressor has no time',
    (compressor: HeldCompressor): void => void (compressor.failed = true),
    squeezable,
  ],
  [
    'payloads are too short',
    (): void => {},
    (index: number): Buffer => squeezable(index).subarray(0, 8220),
  ],
] as const)('a limit is of what travels also when %s', async (_why, change, make) => {
  const compressor = new HeldCompressor(quick(200e6));
  const pair = new Pair({ compressor }).start();
  const limit = new SendLimit(pair.clock, 1e6, null);
  pair.primary.compression?.set('auto', limit);
  let source = new Source(pair, squeezable);
  let bytes = FRAME_BYTES + 28;
  source.stop();
  const pump = (): void => {
    if (limit.waitMs === 0) {
      source.send();
      limit.take(bytes);
    }
    pair.clock.after(2, pump);
  };
  pump();
  await pair.run(6000);
  expect(pair.primary.compression?.active).toBe(true);
  change(compressor);
  source = new Source(pair, make);
  source.stop();
  bytes = make(0).length;
  await pair.run(500);
  const before = pair.primary.bytesSent;
  await pair.run(2000);
  expect((pair.primary.bytesSent - before) / 2).toBeLessThan(1.1e6);
});

/** Answers when the test says so. */
class HeldCompressor implements Compressor {
  readonly codec = 'brotli';
  usable = true;
  readonly threads = 2;
  /** What waits. */
  readonly held: (() => void)[] = [];
  holds: 'compress' | 'expand' | null = null;
  /** Nobody works any more. */
  failed = false;
  private readonly inner: Compressor;

  constructor(inner: Compressor) {
    this.inner = inner;
  }

  async compress(chunks: readonly Buffer[], bytes: number, most: number) {
    await this.turn('compress');
    return this.failed ? null : this.inner.compress(chunks, bytes, most);
  }

  async expand(packed: Buffer, plain: Buffer) {
    await this.turn('expand');
    return this.failed ? ('failed' as const) : this.inner.expand(packed, plain);
  }

  close = (): Promise<void> => Promise.resolve();

  release(): void {
    for (const go of this.held.splice(0)) go();
  }

  private async turn(what: 'compress' | 'expand'): Promise<void> {
    if (this.holds === what) await new Promise<void>((resolve) => this.held.push(resolve));
  }
}

async function compressing(compressor: HeldCompressor): Promise<{ pair: Pair; source: Source }> {
  const pair = started({ ...SLOW, compressor });
  const source = new Source(pair, squeezable).go();
  await pair.run(6000);
  expect(pair.primary.compression?.active).toBe(true);
  return { pair, source };
}

describe('the end of a link', () => {
  test('in order brings all, also what is being compressed', async () => {
    const compressor = new HeldCompressor(quick(200e6));
    const { pair, source } = await compressing(compressor);
    compressor.holds = 'compress';
    await pair.run(1000);
    source.stop();
    compressor.holds = null;
    expect(compressor.held.length).toBeGreaterThan(1);
    pair.primary.end('the test is over');
    await pair.run(20_000);
    expectSame(pair, source);
    expect(source.told).toBe(source.checksums.size);
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
    compressor.release();
    await pair.run(1000);
    expectSame(pair, source);
  });

  test('by the other side waits for what is being expanded', async () => {
    const compressor = new HeldCompressor(inlineCompressor(200e6));
    compressor.holds = 'expand';
    const { pair, send, end } = mirrorAlone(compressor);
    const plain = squeezable(0);
    send(compressed(plain));
    end();
    await calm(pair);
    expect(pair.atMirror.events).toEqual([]);
    compressor.release();
    await calm(pair);
    expect(pair.atMirror.events).toHaveLength(2);
    expect(pair.atMirror.frames[0]?.checksum).toBe(crc32(plain));
    expect(pair.atMirror.ends[0]).toContain('the other node ended the link');
    await pair.run(6000);
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
  });

  test('at once drops what is being compressed, and tells whoever sent it', async () => {
    const compressor = new HeldCompressor(quick(200e6));
    const { pair, source } = await compressing(compressor);
    compressor.holds = 'compress';
    await pair.run(1000);
    source.stop();
    pair.primary.destroy(new BlockferryError('LINK_LOST', 'the test is over'));
    await pair.run(1000);
    expect(source.told).toBe(source.checksums.size);
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
    compressor.release();
    await pair.run(1000);
    expect(source.told).toBe(source.checksums.size);
  });
});

/** The end of a mirror, fed with bytes. */
function mirrorAlone(compressor: Compressor | undefined): {
  pair: Pair;
  send: (frame: WireFrame) => void;
  end: () => void;
} {
  const pair = new Pair({ lanes: 0, ...(compressor === undefined ? {} : { compressor }) });
  const { acceptor, connector } = pair.network.wire();
  pair.mirror.addLane(0, acceptor, Buffer.alloc(0));
  pair.mirror.start(pair.atMirror);
  connector.start({ received() {}, drained() {}, ended() {}, closed() {} });
  let sequence = 0;
  const send = (frame: WireFrame): void => {
    connector.send(wireFrame({ sequence, ...frame }), () => {});
    sequence += 1;
  };
  return { pair, send, end: () => connector.end() };
}

function compressed(plain: Buffer, change: Partial<WireFrame> = {}): WireFrame {
  const payload = brotliCompressSync(plain, { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } });
  return { kind: 1, flags: 0x80, epoch: 1n, length: BigInt(plain.length), payload, ...change };
}

describe('a compressed frame', () => {
  test('is taken from whoever wrote it by the document, and comes as it was', async () => {
    const { pair, send } = mirrorAlone(inlineCompressor(1e9));
    const plain = squeezable(3);
    send(compressed(plain, { index: 3n, kind: 8 }));
    await calm(pair);
    const [frame] = pair.atMirror.frames;
    expect(frame?.header).toEqual(header(8, { epoch: 1, index: 3, length: plain.length }));
    expect(frame?.checksum).toBe(crc32(plain));
  });

  test('that nobody agreed on ends the link', async () => {
    const { pair, send } = mirrorAlone(undefined);
    send(compressed(squeezable(3)));
    await calm(pair);
    expect(pair.atMirror.ends[0]).toContain('a compressed DATA frame, which nobody agreed on');
    expect(pair.mirror.heldBytes).toBe(0);
  });

  test('never comes from a mirror', async () => {
    const pair = new Pair({ lanes: 0, compressor: inlineCompressor(1e9) });
    const { acceptor, connector } = pair.network.wire();
    pair.primary.addLane(0, connector, Buffer.alloc(0));
    pair.primary.start(pair.atPrimary);
    acceptor.start({ received() {}, drained() {}, ended() {}, closed() {} });
    acceptor.send(wireFrame(compressed(squeezable(1), { sender: 'mirror' })), () => {});
    await calm(pair);
    expect(pair.atPrimary.ends[0]).toContain('LINK_PROTOCOL');
  });

  const plain = squeezable(1);
  const good = compressed(plain);
  const bomb = brotliCompressSync(Buffer.alloc(64_000_000), {
    params: { [constants.BROTLI_PARAM_QUALITY]: 1 },
  });
  test.each<readonly [string, WireFrame]>([
    ['expands to more', { ...good, length: good.length! - 4n }],
    ['expands to less', { ...good, length: good.length! + 4n }],
    ['is a bomb', { ...good, payload: bomb, length: BigInt(LINK_FRAME_BYTES_MAX) }],
    ['is cut', { ...good, payload: good.payload!.subarray(0, -9) }],
    ['is garbage', { ...good, payload: randomBytes(4000) }],
    ['is not compressed', { ...good, payload: plain.subarray(0, 40_000) }],
  ])('that %s ends the link, and leaves nothing behind', async (_what, frame) => {
    const { pair, send } = mirrorAlone(inlineCompressor(1e9));
    send(compressed(squeezable(0)));
    send(frame);
    send(compressed(squeezable(2), { index: 2n }));
    await calm(pair);
    expect(pair.atMirror.frames.map(({ header: { index } }) => index)).toEqual([0]);
    expect(pair.atMirror.ends).toHaveLength(1);
    expect(pair.atMirror.ends[0]).toContain('LINK_PROTOCOL: primary node sent a payload that is');
    await pair.run(6000);
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
  });

  test('that nobody is left to expand loses the link, and is no fault of who sent it', async () => {
    const compressor = new HeldCompressor(inlineCompressor(200e6));
    const { pair, send } = mirrorAlone(compressor);
    compressor.failed = true;
    send(good);
    await calm(pair);
    expect(pair.atMirror.ends[0]).toContain('LINK_LOST');
    expect(pair.mirror.heldBytes).toBe(0);
  });

  test('of few bytes takes memory for many only when there is room, and all come in the end', async () => {
    const { pair, send } = mirrorAlone(inlineCompressor(1e9));
    pair.atMirror.keeps = true;
    const zeroes = entry(0n, Buffer.alloc(LINK_FRAME_BYTES_MAX - 65_536));
    const frame = compressed(zeroes);
    expect(frame.payload!.length).toBeLessThan(1000);
    for (let index = 0; index < 300; index += 1) send({ ...frame, index: BigInt(index) });
    await calm(pair);
    const kept = pair.atMirror.frames.length;
    expect(kept).toBeGreaterThan(50);
    expect(kept).toBeLessThan(300);
    expect(pair.mirror.heldBytes).toBeLessThan(LINK_EXPANDED_BYTES_MAX + 8 * LINK_FRAME_BYTES_MAX);
    pair.atMirror.keeps = false;
    for (const payload of pair.atMirror.kept.splice(0)) payload.release();
    await calm(pair);
    expect(pair.atMirror.frames.length).toBe(300);
    expect(pair.mirror.heldBytes).toBe(0);
  });

  test('that waits with thousands of others makes the link stop reading', async () => {
    const compressor = new HeldCompressor(inlineCompressor(200e6));
    compressor.holds = 'expand';
    const { pair, send } = mirrorAlone(compressor);
    const frame = compressed(entry(0n, Buffer.alloc(4096)));
    const count = 8000;
    for (let index = 0; index < count; index += 1) send({ ...frame, index: BigInt(index) });
    await pair.run(100);
    const { bytesReceived } = pair.mirror;
    await pair.run(20_000);
    expect(pair.mirror.bytesReceived).toBe(bytesReceived);
    expect(bytesReceived).toBeLessThan(count * 64);
    expect(pair.mirror.open).toBe(true);
    compressor.holds = null;
    compressor.release();
    await calm(pair);
    expect(pair.atMirror.frames.length).toBe(count);
  });
});
