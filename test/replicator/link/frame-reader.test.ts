/**
 * A stream of frames is read the same however it is cut, nothing of it is believed that is not proven, and no memory is
 * taken for what is refused. Method: frames written by hand are fed to a reader that is asked where it wants the next
 * bytes, as a connection does, and lent memory is scribbled over at the worst moment.
 */
import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LINK_FRAME_BYTES_MAX, LINK_LANDING_BYTES_MIN } from '../../../src/io/limits.ts';
import { laneSeed } from '../../../src/replicator/link/frame.ts';
import { FrameReader } from '../../../src/replicator/link/frame-reader.ts';
import type { FrameHeader } from '../../../src/replicator/link/link-types.ts';
import { PayloadPool } from '../../../src/replicator/link/payload-pool.ts';
import { ChecksumKind, checksumOf } from '../../../src/replicator/payload-checksum.ts';
import { dataFrame, range, TOKEN, wireFrame, type WireFrame } from './support/wire.ts';

interface Seen {
  readonly kind: number;
  readonly index: number;
  readonly bytes: number;
  readonly checksum: number;
}

/** What all connections read into. */
const shared = Buffer.alloc(4 << 20);

/** A reader and the connection in front of it. */
class Bench {
  readonly pool = new PayloadPool(() => {});
  readonly seen: Seen[] = [];
  readonly headers: FrameHeader[] = [];
  fault: string | null = null;
  /** Bytes that came into the memory that the reader named. */
  landed = 0;
  readonly reader: FrameReader;
  private landing: Buffer | null = null;

  constructor(checksums: ChecksumKind = ChecksumKind.CRC32) {
    const sink = {
      frame: (
        frame: { toHeader(): FrameHeader },
        payload: ReturnType<PayloadPool['take']> | null,
      ) => {
        const header = frame.toHeader();
        const content = payload?.buffer.subarray(0, payload.length) ?? Buffer.alloc(0);
        this.headers.push(header);
        this.seen.push(seenOf(header.kind, header.index, content));
        payload?.release();
      },
      broken: (what: string) => {
        if (this.fault !== null) throw new Error('broken twice');
        this.fault = what;
      },
    };
    const seed = laneSeed(TOKEN, 0, 'primary');
    this.reader = new FrameReader(sink, { pool: this.pool, sender: 'primary', seed, checksums });
  }

  feed(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length) {
      const target = this.landing ?? shared;
      const count = bytes.copy(target, 0, at);
      if (target === this.landing) this.landed += count;
      this.reader.received(target, count);
      if (target === shared) target.fill(0xee, 0, count);
      this.landing = this.reader.landing();
      at += count;
    }
  }

  /** The system writes where it was told to. */
  scribble(): void {
    this.landing?.fill(0xdd);
  }
}

const seenOf = (kind: number, index: number, content: Buffer): Seen => ({
  kind,
  index,
  bytes: content.length,
  checksum: crc32(content),
});

function stream(frames: readonly WireFrame[], first = 0): Buffer {
  return Buffer.concat(
    frames.map((frame, index) => wireFrame({ sequence: (first + index) >>> 0, ...frame })),
  );
}

const expected = (frames: readonly WireFrame[]): Seen[] =>
  frames.map(({ kind, index = 0n, payload }) =>
    seenOf(kind, Number(index), payload ?? Buffer.alloc(0)),
  );

const MIXED: readonly WireFrame[] = [
  dataFrame(0, 1, 1),
  { kind: 2, index: 1n, payload: range(0n, 4096n) },
  { kind: 4, index: 2n },
  { kind: 7 },
  { kind: 6, payload: Buffer.from('81a46b696e64', 'hex') },
  dataFrame(3, 1, 2),
];

const LARGE: readonly WireFrame[] = [
  dataFrame(0, 64, 1),
  dataFrame(1, 256, 2),
  { kind: 4, index: 2n },
  dataFrame(3, 1, 3),
  dataFrame(4, 200, 4),
];

describe('the cut of the bytes', () => {
  test('does not matter, at any byte', () => {
    const bytes = stream(MIXED);
    for (let cut = 0; cut <= bytes.length; cut += 1) {
      const bench = new Bench();
      bench.feed(bytes.subarray(0, cut));
      bench.feed(bytes.subarray(cut));
      expect(bench.fault).toBe(null);
      expect(bench.seen, `cut at ${cut}`).toEqual(expected(MIXED));
      expect(bench.pool.lentBytes).toBe(0);
    }
  });

  test('does not matter byte by byte', () => {
    const bench = new Bench();
    for (const byte of stream(MIXED)) bench.feed(Buffer.of(byte));
    expect(bench.seen).toEqual(expected(MIXED));
  });

  test('does not matter where payloads land in their place', () => {
    const bytes = stream(LARGE);
    const lengths = fc.array(fc.integer({ min: 1, max: 400_000 }), { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(lengths, (list) => {
        const bench = new Bench();
        let at = 0;
        for (let index = 0; at < bytes.length; index += 1) {
          const end = at + list[index % list.length]!;
          bench.feed(bytes.subarray(at, end));
          at = end;
        }
        expect(bench.fault).toBe(null);
        expect(bench.seen).toEqual(expected(LARGE));
        expect(bench.pool.lentBytes).toBe(0);
      }),
      { numRuns: 40 },
    );
  });

  test('lets most of a stream of large payloads land', () => {
    const bench = new Bench();
    const frames = Array.from({ length: 8 }, (_, index) => dataFrame(index, 255, index));
    bench.feed(stream(frames));
    const total = 8 * (64 + 28 + 255 * 4096);
    bench.seen.length = 0;
    const again = stream(frames, 8);
    // By now the reader knows what to expect: the header comes alone, the rest in its place.
    bench.feed(again);
    expect(bench.seen).toEqual(expected(frames));
    expect(bench.landed).toBeGreaterThan(total - 8 * 64);
  });

  test('never makes a small rest land by itself', () => {
    const bench = new Bench();
    const bytes = stream([dataFrame(0, 64, 1)]);
    bench.feed(bytes.subarray(0, bytes.length - LINK_LANDING_BYTES_MIN));
    expect(bench.reader.landing()?.length).toBe(LINK_LANDING_BYTES_MIN);
    bench.reader.received(bench.reader.landing()!, 1);
    expect(bench.reader.landing()).toBe(null);
  });
});

describe('what is refused', () => {
  test('a frame that is missing, or comes twice, or out of its order', () => {
    for (const sequences of [[1], [0, 2], [0, 0], [0, 1, 1], [0, 0xffff_ffff]]) {
      const bench = new Bench();
      for (const sequence of sequences) bench.feed(wireFrame({ kind: 4, sequence }));
      expect(bench.fault, String(sequences)).toContain('was due');
      expect(bench.seen.length).toBe(sequences.length - 1);
    }
  });

  test('a payload whose checksum is of the other kind', () => {
    const payload = range(0n, 4096n);
    const both = [ChecksumKind.CRC32, ChecksumKind.XXH64];
    for (const sent of both) {
      const bytes = wireFrame({ kind: 2, payload, payloadChecksum: checksumOf(sent, payload) });
      for (const agreed of both) {
        const bench = new Bench(agreed);
        bench.feed(bytes);
        expect(bench.fault === null, `${sent} ${agreed}`).toBe(sent === agreed);
        expect(bench.seen.length).toBe(sent === agreed ? 1 : 0);
      }
    }
  });

  test('a payload with any bit turned', () => {
    const frame = { kind: 2, payload: range(0n, 4096n) };
    const bytes = wireFrame(frame);
    for (let bit = 0; bit < frame.payload.length * 8; bit += 1) {
      const bench = new Bench();
      const turned = Buffer.from(bytes);
      turned[64 + (bit >> 3)]! ^= 1 << (bit & 7);
      bench.feed(turned);
      expect(bench.fault).toBe('a payload with a wrong checksum');
      expect(bench.seen).toEqual([]);
    }
  });

  test('any stream in which one bit was turned: nothing behind it is believed', () => {
    const bytes = stream(MIXED);
    const starts: number[] = [];
    let start = 0;
    for (const frame of MIXED) {
      starts.push(start);
      start += 64 + (frame.payload?.length ?? 0);
    }
    fc.assert(
      fc.property(fc.nat(bytes.length * 8 - 1), (bit) => {
        const bench = new Bench();
        const turned = Buffer.from(bytes);
        turned[bit >> 3]! ^= 1 << (bit & 7);
        bench.feed(turned);
        const whole = starts.filter((each) => each <= bit >> 3).length - 1;
        expect(bench.fault).not.toBe(null);
        expect(bench.seen).toEqual(expected(MIXED).slice(0, whole));
      }),
      { numRuns: 300 },
    );
  });

  test('a payload that is too large, before any memory is taken for it', () => {
    for (const payloadBytes of [LINK_FRAME_BYTES_MAX + 4, 2 ** 31, 2 ** 32 - 4]) {
      const bench = new Bench();
      bench.feed(wireFrame({ kind: 1, payloadBytes, length: BigInt(payloadBytes) }));
      expect(bench.fault).toContain(`${payloadBytes} bytes of payload`);
      expect(bench.pool.lentBytes + bench.pool.idleBytes).toBe(0);
    }
  });

  test('any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 300 }), (bytes) => {
        const bench = new Bench();
        bench.feed(Buffer.from(bytes));
        expect(bench.fault).not.toBe(null);
        expect(bench.seen).toEqual([]);
      }),
    );
  });

  test('and what follows it', () => {
    const bench = new Bench();
    bench.feed(Buffer.concat([wireFrame({ kind: 99 }), wireFrame({ kind: 4 })]));
    bench.feed(wireFrame({ kind: 4 }));
    expect(bench.fault).toContain('kind 99');
    expect(bench.seen).toEqual([]);
  });
});

describe('a stream that ends', () => {
  test('in the middle of a frame is known to, and gives the memory back', () => {
    const bytes = stream([dataFrame(0, 100, 1)]);
    for (const cut of [1, 63, 64, 65, 5000, bytes.length - 1]) {
      const bench = new Bench();
      bench.feed(bytes.subarray(0, cut));
      expect(bench.reader.betweenFrames).toBe(false);
      bench.reader.closed();
      expect(bench.pool.lentBytes).toBe(0);
      expect(bench.seen).toEqual([]);
    }
    const bench = new Bench();
    bench.feed(bytes);
    expect(bench.reader.betweenFrames).toBe(true);
  });

  test('keeps memory that may still be landed in until the connection is closed', () => {
    const bench = new Bench();
    bench.feed(stream([dataFrame(0, 100, 1)]).subarray(0, 5000));
    bench.reader.stop();
    expect(bench.pool.lentBytes).toBeGreaterThan(400_000);
    const other = bench.pool.take(100 * 4096 + 28);
    other.buffer.fill(7);
    bench.scribble();
    expect(other.buffer.every((byte) => byte === 7)).toBe(true);
    other.release();
    bench.reader.closed();
    expect(bench.pool.lentBytes).toBe(0);
  });

  test('is not read once it was stopped', () => {
    const bench = new Bench();
    bench.reader.stop();
    bench.feed(stream(MIXED));
    expect(bench.seen).toEqual([]);
    expect(bench.fault).toBe(null);
  });
});
