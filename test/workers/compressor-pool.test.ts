/**
 * Payloads are compressed and expanded by worker threads; what is no compressed payload is told from what is, without
 * harm; and a pool that fails answers everybody. Method: the compiled task file, and task files of the test that break.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { brotliCompressSync, constants } from 'node:zlib';
import { describe, expect, it, onTestFinished } from 'vitest';

import { COMPRESS_QUEUE_MAX, LINK_FRAME_BYTES_MAX } from '../../src/io/limits.ts';
import { compressNow, expandNow } from '../../src/workers/codec.ts';
import { inlineCompressor, type Compressor } from '../../src/workers/compressor.ts';
import {
  createCompressor,
  type PooledCompressorOptions,
} from '../../src/workers/compressor-pool.ts';
import { builtModule } from '../io/built.ts';

const realTask = new URL(builtModule('src/workers/compress-task.js'));

function made(options: PooledCompressorOptions = {}): Compressor {
  const compressor = createCompressor({ threads: 1, taskFile: realTask, ...options });
  onTestFinished(() => compressor.close());
  return compressor;
}

function taskFile(source: string): URL {
  const directory = mkdtempSync(join(tmpdir(), 'blockferry-task-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  writeFileSync(join(directory, 'task.mjs'), source);
  return pathToFileURL(join(directory, 'task.mjs'));
}

/** Bytes of which a quarter is not to be guessed. */
function compressible(bytes: number, seed = 1): Buffer {
  const data = Buffer.alloc(bytes, seed);
  for (let at = 0; at < bytes; at += 4096) randomBytes(Math.min(1024, bytes - at)).copy(data, at);
  return data;
}

describe.each([
  ['the pool', () => made({ threads: 2 })],
  ['the stand-in', () => inlineCompressor(1e9)],
])('%s', (_name, make) => {
  it('brings back what it compressed, side by side and of any length', async () => {
    const compressor = make();
    const lengths = [1, 63, 4096, 70_001, 262_144, LINK_FRAME_BYTES_MAX];
    const done = [...lengths, ...lengths].map(async (bytes, index) => {
      const data = compressible(bytes, index);
      const half = data.length >> 1;
      const chunks = [data.subarray(0, half), data.subarray(half)];
      const packed = await compressor.compress(chunks, bytes, bytes);
      if (bytes <= 4096) return;
      expect(packed?.bytes?.length).toBeLessThan(bytes / 2);
      expect(packed?.ms).toBeGreaterThan(0);
      const plain = Buffer.alloc(bytes);
      expect(await compressor.expand(packed!.bytes!, plain)).toBe('whole');
      expect(plain.equals(data)).toBe(true);
    });
    await Promise.all(done);
  });

  it('says that random bytes do not shrink', async () => {
    const data = randomBytes(100_000);
    const packed = await make().compress([data], data.length, 90_000);
    expect(packed?.bytes).toBe(null);
    expect(packed?.ms).toBeGreaterThan(0);
  });

  it('tells what is nothing compressed, or of another length, from what was announced', async () => {
    const compressor = make();
    const packed = brotliCompressSync(compressible(20_000));
    const bomb = brotliCompressSync(Buffer.alloc(64_000_000), {
      params: { [constants.BROTLI_PARAM_QUALITY]: 2 },
    });
    expect(bomb.length).toBeLessThan(1000);
    const hostile: readonly (readonly [Buffer, number])[] = [
      [bomb, LINK_FRAME_BYTES_MAX],
      [bomb, 1],
      [packed, 19_999],
      [packed, 20_001],
      [packed.subarray(0, packed.length >> 1), 20_000],
      [randomBytes(5000), 20_000],
      [Buffer.alloc(0), 4096],
      [Buffer.alloc(LINK_FRAME_BYTES_MAX, 0xff), 4096],
    ];
    for (const [bytes, length] of hostile) {
      expect(await compressor.expand(bytes, Buffer.alloc(length))).toBe('broken');
    }
    expect(await compressor.expand(packed, Buffer.alloc(20_000))).toBe('whole');
  });
});

describe('the codec', () => {
  it('never writes past what it was given', () => {
    const data = compressible(50_000);
    const room = Buffer.alloc(60_000, 0xee);
    const length = compressNow(data, room.subarray(0, 30_000), 30_000);
    expect(length).toBeGreaterThan(0);
    expect(room.subarray(30_000).every((byte) => byte === 0xee)).toBe(true);
    expect(compressNow(data, room, length - 1)).toBe(0);
    const plain = Buffer.alloc(60_000, 0xee);
    expect(expandNow(room.subarray(0, length), plain.subarray(0, 49_000))).toBe(false);
    expect(plain.every((byte) => byte === 0xee)).toBe(true);
  });
});

describe('a pool', () => {
  it('refuses what would wait too long', async () => {
    const compressor = made();
    const data = compressible(LINK_FRAME_BYTES_MAX);
    const calls = Array.from({ length: COMPRESS_QUEUE_MAX + 4 }, () =>
      compressor.compress([data], data.length, data.length),
    );
    const answers = await Promise.all(calls);
    expect(answers.filter((answer) => answer === null)).toHaveLength(2);
    expect(compressor.usable).toBe(true);
  });

  it.each([
    ['has no task file', () => new URL('file:///nonexistent/task.js')],
    ['does not load', () => taskFile('throw new Error("broken");')],
    ['throws', () => taskFile('export default () => { throw new Error("broken"); };')],
    ['ends', () => taskFile('export default () => process.exit(3);')],
  ])('that %s answers everybody, and is not asked again', async (_how, file) => {
    const compressor = made({ taskFile: file() });
    const data = compressible(10_000);
    const packed = brotliCompressSync(data);
    const [first, second, ...more] = await Promise.all([
      compressor.compress([data], data.length, data.length),
      compressor.expand(packed, Buffer.alloc(10_000)),
      compressor.compress([data], data.length, data.length),
      compressor.expand(packed, Buffer.alloc(10_000)),
    ]);
    expect([first, second, ...more]).toEqual([null, 'failed', null, 'failed']);
    expect(compressor.usable).toBe(false);
    expect(await compressor.compress([data], data.length, data.length)).toBe(null);
    expect(await compressor.expand(packed, Buffer.alloc(10_000))).toBe('failed');
  });

  it('answers what is under way when it is closed', async () => {
    const compressor = made();
    const data = compressible(LINK_FRAME_BYTES_MAX);
    const calls = Array.from({ length: 10 }, () =>
      compressor.compress([data], data.length, data.length),
    );
    await compressor.close();
    await Promise.all(calls);
    expect(await compressor.expand(brotliCompressSync(data), data)).toBe('failed');
  });
});
