/**
 * An export in the place of a file: histories of reads, writes, zeroes and flushes against a server that answers in any
 * order, loses its connection, and loses what it was not asked to flush; requests that nobody answers in time; a flush that is
 * refused; memory for what is not flushed. Method: a fake connection and a clock that the test moves, by seeds; judge: a plain
 * buffer that holds what was answered.
 */
import { describe, expect, it } from 'vitest';
import { ExportFile } from '../../src/control/containers/export-file.ts';
import type { ExportClient } from '../../src/control/containers/export-wire.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import {
  BLOCK_BYTES,
  CONTAINER_UNFLUSHED_BYTES_MAX,
  CONTAINER_WAIT_MS_MAX,
} from '../../src/io/limits.ts';
import { VirtualClock } from '../support/virtual-clock.ts';

const BLOCKS = 32;
const SIZE = BLOCKS * BLOCK_BYTES;
const EIO = 5;

type Callback = (errno: number) => void;

/** A server with a cache that a restart loses; it answers when it is told to. */
class FakeServer {
  readonly clock = new VirtualClock();
  durable = Buffer.alloc(SIZE);
  cached = Buffer.alloc(SIZE);
  minimumBlock = 1;
  up = true;
  connections = 0;
  flushes = 0;
  /** The number of the last one that is done. */
  flushed = 0;
  /** Errno of the next flush. */
  flushErrno = 0;
  client: FakeClient | null = null;

  connect = async (): Promise<ExportClient> => {
    if (!this.up) throw new BlockferryError('MIRROR_UNREACHABLE', 'nobody listens there');
    this.connections += 1;
    this.client = new FakeClient(this);
    return this.client;
  };

  /** The connection ends, and with `lossy` all that was not flushed is gone, or some of it. */
  cut(keep: (block: number) => boolean): void {
    for (let block = 0; block < BLOCKS; block += 1) {
      const [from, to] = [block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES];
      if (keep(block)) this.cached.copy(this.durable, from, from, to);
    }
    this.cached = Buffer.from(this.durable);
    const { client } = this;
    this.client = null;
    client?.lose();
  }
}

class FakeClient implements ExportClient {
  open = true;
  private listener: ((error: BlockferryError) => void) | null = null;
  readonly info: ExportClient['info'];
  readonly waiting: { run: () => number; callback: Callback }[] = [];
  private readonly server: FakeServer;

  constructor(server: FakeServer) {
    this.server = server;
    this.info = {
      sizeBytes: SIZE,
      readOnly: false,
      canFlush: true,
      canFua: true,
      canWriteZeroes: true,
      canTrim: true,
      canMultiConn: false,
      minimumBlock: server.minimumBlock,
      preferredBlock: 4096,
      maximumPayload: 32 * 2 ** 20,
    };
  }

  get onClosed(): ((error: BlockferryError) => void) | null {
    return this.listener;
  }

  /** Told soon after, if it was lost before. */
  set onClosed(listener: ((error: BlockferryError) => void) | null) {
    this.listener = listener;
    if (!this.open) this.server.clock.soon(() => this.tell());
  }

  read(buffer: Buffer, start: number, length: number, offset: number, callback: Callback): void {
    this.expectWhole(offset, length);
    this.take(callback, () => {
      this.server.cached.copy(buffer, start, offset, offset + length);
      return 0;
    });
  }

  write(buffer: Buffer, start: number, length: number, offset: number, callback: Callback): void {
    this.expectWhole(offset, length);
    this.take(callback, () => {
      buffer.copy(this.server.cached, offset, start, start + length);
      return 0;
    });
  }

  zero(offset: number, length: number, _options: unknown, callback: Callback): void {
    this.expectWhole(offset, length);
    this.take(callback, () => {
      this.server.cached.fill(0, offset, offset + length);
      return 0;
    });
  }

  flush(callback: Callback): void {
    const { server } = this;
    const seen = Buffer.from(server.cached);
    server.flushes += 1;
    const number = server.flushes;
    // What is done after it began need not be in it, and an older one takes nothing back.
    this.take(callback, () => {
      if (server.flushErrno !== 0) return server.flushErrno;
      if (number > server.flushed) seen.copy(server.durable);
      server.flushed = Math.max(server.flushed, number);
      return 0;
    });
  }

  async close(): Promise<void> {
    this.open = false;
  }

  destroy(): void {
    this.lose();
  }

  /** Answers the request at that place among those that wait. */
  answer(at: number): void {
    const [request] = this.waiting.splice(at, 1);
    if (request !== undefined) request.callback(request.run());
  }

  lose(): void {
    if (!this.open) return;
    this.open = false;
    for (const { callback } of this.waiting.splice(0)) callback(EIO);
    this.tell();
  }

  private tell(): void {
    this.listener?.(new BlockferryError('MIRROR_UNREACHABLE', 'the connection was lost'));
  }

  private take(callback: Callback, run: () => number): void {
    this.waiting.push({ run, callback });
  }

  private expectWhole(offset: number, length: number): void {
    const unit = this.info.minimumBlock;
    if (offset % unit !== 0 || length % unit !== 0) throw new Error(`${length} at ${offset}`);
  }
}

class World {
  readonly clock: VirtualClock;
  readonly server: FakeServer;
  readonly troubles: (string | null)[] = [];
  readonly losses: string[] = [];
  readonly file: ExportFile;

  constructor(server = new FakeServer()) {
    this.server = server;
    this.clock = server.clock;
    this.file = new ExportFile({
      clock: this.clock,
      path: 'nbd://host:10809/disk',
      sizeBytes: SIZE,
      connect: server.connect,
      client: null,
      troubled: (why) => this.troubles.push(why),
      lost: (reason) => this.losses.push(reason),
    });
  }

  async turn(ms = 0): Promise<void> {
    await this.clock.run(ms);
    await this.clock.settle();
  }

  answerAll(): void {
    while ((this.server.client?.waiting.length ?? 0) > 0) this.server.client?.answer(0);
  }

  write(position: number, bytes: Buffer): Promise<number> {
    return new Promise((resolve) =>
      this.file.write(bytes, 0, bytes.length, position, (result) => resolve(result)),
    );
  }

  sync(): Promise<number> {
    return new Promise((resolve) => this.file.datasync(resolve));
  }
}

/** Small, fast and the same everywhere. */
function randomOf(seed: number): (below: number) => number {
  let state = seed * 2654435761 + 1;
  return (below) => {
    state = (Math.imul(state ^ (state >>> 15), 2246822519) + 0x9e3779b9) | 0;
    return (state >>> 8) % below;
  };
}

/** Returns how many blocks were found on the disk of the server after a flush. */
async function playHistory(seed: number): Promise<number> {
  const random = randomOf(seed);
  const server = new FakeServer();
  server.minimumBlock = [1, 512, 4096][random(3)] ?? 1;
  const world = new World(server);
  const expected = Buffer.alloc(SIZE);
  const busy = new Set<number>();
  /** Changes of each block so far. */
  const versions = new Map<number, number>();
  let unanswered = 0;
  let checks = 0;
  const change = (): void => {
    const block = random(BLOCKS);
    if (busy.has(block)) return;
    busy.add(block);
    versions.set(block, (versions.get(block) ?? 0) + 1);
    unanswered += 1;
    const start = block * BLOCK_BYTES;
    const done = (result: number): void => {
      expect(result).toBeGreaterThanOrEqual(0);
      unanswered -= 1;
      busy.delete(block);
    };
    if (random(4) === 0) {
      expected.fill(0, start, start + BLOCK_BYTES);
      world.file.punchHole(start, BLOCK_BYTES, done);
      return;
    }
    const from = random(BLOCK_BYTES);
    const length = 1 + random(BLOCK_BYTES - from);
    const bytes = Buffer.alloc(length, 1 + random(255));
    bytes.copy(expected, start + from);
    world.file.write(bytes, 0, length, start + from, done);
  };
  const read = (): void => {
    const block = random(BLOCKS);
    if (busy.has(block)) return;
    busy.add(block);
    unanswered += 1;
    const into = Buffer.alloc(BLOCK_BYTES);
    const [from, length] = [random(64), 1 + random(BLOCK_BYTES - 64)];
    const at = block * BLOCK_BYTES + from;
    world.file.read(into, 0, length, at, (result) => {
      expect(result).toBe(length);
      expect(into.subarray(0, length).equals(expected.subarray(at, at + length))).toBe(true);
      unanswered -= 1;
      busy.delete(block);
    });
  };
  /** What a flush that was answered covers is on the disk of the server, but for what was changed since it began. */
  const sync = (): void => {
    const covered = new Map<number, { bytes: Buffer; version: number | undefined }>();
    for (let block = 0; block < BLOCKS; block += 1) {
      if (busy.has(block)) continue;
      const bytes = Buffer.from(expected.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES));
      covered.set(block, { bytes, version: versions.get(block) });
    }
    unanswered += 1;
    world.file.datasync((result) => {
      expect(result).toBe(0);
      unanswered -= 1;
      for (const [block, { bytes, version }] of covered) {
        if (versions.get(block) !== version) continue;
        checks += 1;
        const at = block * BLOCK_BYTES;
        const found = server.durable.subarray(at, at + BLOCK_BYTES);
        if (!found.equals(bytes)) throw new Error(`seed ${seed}: block ${block} was not flushed`);
      }
    });
  };
  for (let step = 0; step < 300; step += 1) {
    const dice = random(100);
    if (dice < 40) change();
    else if (dice < 50) read();
    else if (dice < 55) sync();
    else if (dice < 90) server.client?.answer(random(Math.max(1, server.client.waiting.length)));
    else if (dice < 94) server.cut(() => random(2) === 0);
    else await world.turn(random(300));
  }
  for (let round = 0; round < 10; round += 1) {
    await world.turn(2_000);
    world.answerAll();
  }
  expect(unanswered).toBe(0);
  // Now it loses all that it may, and has to be told again.
  server.cut(() => false);
  await world.turn(2_000);
  world.answerAll();
  const flushed = world.sync();
  world.answerAll();
  expect(await flushed).toBe(0);
  expect(server.durable.equals(expected)).toBe(true);
  expect(world.losses).toEqual([]);
  world.file.closeNow();
  expect(world.clock.pendingTimers).toBe(0);
  return checks;
}

describe('an export that comes and goes', () => {
  it('holds what was answered, whatever the server forgets', async () => {
    let checks = 0;
    for (let seed = 1; seed <= 100; seed += 1) checks += await playHistory(seed);
    expect(checks).toBeGreaterThan(3_000);
  });

  it('lets requests wait for a bound, then answers EIO, and serves again when it is back', async () => {
    const world = new World();
    world.server.up = false;
    await world.turn(10);
    world.server.cut(() => true);
    await world.turn(10);
    const results: number[] = [];
    world.file.read(Buffer.alloc(512), 0, 512, 0, (result) => results.push(result));
    await world.turn(CONTAINER_WAIT_MS_MAX - 1_000);
    expect(results).toEqual([]);
    await world.turn(2_000);
    expect(results).toEqual([-EIO]);
    world.file.read(Buffer.alloc(512), 0, 512, 0, (result) => results.push(result));
    expect(results).toEqual([-EIO]);
    await world.turn(1);
    expect(results).toEqual([-EIO, -EIO]);
    expect(world.troubles.at(-1)).toContain('nobody listens');
    world.server.up = true;
    await world.turn(5_000);
    expect(world.troubles.at(-1)).toBeNull();
    world.file.read(Buffer.alloc(512), 0, 512, 0, (result) => results.push(result));
    world.answerAll();
    expect(results).toEqual([-EIO, -EIO, 512]);
    expect(world.losses).toEqual([]);
  });

  it('keeps what was answered through an outage that was too long for others', async () => {
    const world = new World();
    await world.turn();
    const written = world.write(0, Buffer.alloc(4096, 7));
    world.answerAll();
    expect(await written).toBe(4096);
    world.server.up = false;
    world.server.cut(() => false);
    const refused = world.write(8192, Buffer.alloc(4096, 8));
    await world.turn(CONTAINER_WAIT_MS_MAX + 1);
    expect(await refused).toBe(-EIO);
    world.server.up = true;
    await world.turn(5_000);
    world.answerAll();
    const synced = world.sync();
    world.answerAll();
    expect(await synced).toBe(0);
    expect(world.server.durable.subarray(0, 4096).equals(Buffer.alloc(4096, 7))).toBe(true);
  });
});

describe('a flush that the server refuses', () => {
  it('is final, also when nobody asked for it', async () => {
    const world = new World();
    await world.turn();
    world.server.flushErrno = EIO;
    const synced = world.sync();
    world.answerAll();
    expect(await synced).toBe(-EIO);
    expect(world.losses).toEqual([expect.stringContaining('flush')]);
    const results: number[] = [];
    world.file.read(Buffer.alloc(1), 0, 1, 0, (result) => results.push(result));
    world.file.datasync((result) => results.push(result));
    await world.turn(10_000);
    expect(results).toEqual([-EIO, -EIO]);
    expect(world.server.connections).toBe(1);
    world.file.closeNow();
  });
});

describe('what is not flushed', () => {
  it('is bounded: the export is flushed for the room, and writes wait for that', async () => {
    const world = new World();
    await world.turn();
    const piece = Buffer.alloc(SIZE, 3);
    const count = Math.ceil((CONTAINER_UNFLUSHED_BYTES_MAX * 1.5) / SIZE);
    let done = 0;
    const client = world.server.client;
    for (let index = 0; index < count; index += 1) {
      world.file.write(piece, 0, SIZE, 0, () => (done += 1));
      // Writes are answered, flushes are not.
      const { waiting = [] } = client ?? {};
      if (world.server.flushes === 0 || waiting.length > 1) client?.answer(waiting.length - 1);
    }
    const most = CONTAINER_UNFLUSHED_BYTES_MAX / SIZE;
    expect(done).toBeLessThanOrEqual(most);
    expect(done).toBeGreaterThan(most / 2);
    expect(world.server.flushes).toBe(1);
    world.answerAll();
    expect(done).toBe(count);
  });
});
