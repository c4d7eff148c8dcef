/**
 * The client against servers that nobody here wrote: nbdkit, qemu-nbd and nbd-server, with their
 * features taken away one by one, with failing and slow disks, and killed.
 *
 * Method: content is written by our client and judged by a second connection, or by the file behind the
 * server.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import type { NbdClient } from '../../src/nbd/client/client.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { consecutive, TestBatch } from './support/batches.ts';
import { closed, flush, pattern, read, rejection, write, zero } from './support/calls.ts';
import { open } from './support/fake-server.ts';
import { nbdkit, nbdServer, qemuNbd } from './support/real-servers.ts';

const MIB = 1024 * 1024;
const SIZE = 16 * MIB;

/** Requests of many sizes at odd offsets, zeroes over a part of them, a batch; then all is read back. */
async function exercise(client: NbdClient): Promise<void> {
  const expected = Buffer.alloc(SIZE);
  const writes: Promise<number>[] = [];
  for (const [index, length] of [1, 511, 4096, 65537, MIB, 3 * MIB + 5].entries()) {
    const payload = pattern(length, index);
    const offset = index * 2 * MIB + 77;
    payload.copy(expected, offset);
    writes.push(write(client, payload, offset));
  }
  expect(new Set(await Promise.all(writes))).toEqual(new Set([0]));
  expected.fill(0, 6 * MIB, 9 * MIB);
  expect(await zero(client, 6 * MIB, 3 * MIB)).toBe(0);
  expected.fill(0, 10 * MIB, 10 * MIB + 4096);
  expect(await zero(client, 10 * MIB, 4096, true)).toBe(0);
  const batch = new TestBatch(77, consecutive(200, 4096, 14 * MIB));
  Buffer.concat(batch.payloads).copy(expected, 14 * MIB);
  client.sendPrepared(batch, batch.chunks);
  await batch.finished;
  expect(new Set(batch.told.values())).toEqual(new Set([0]));
  expect(await flush(client)).toBe(0);
  const content = Buffer.alloc(SIZE, 0xcc);
  expect(await read(client, content, 0)).toBe(0);
  expect(content.equals(expected)).toBe(true);
}

describe('nbdkit', () => {
  beforeEach((context) => requireTools(context, 'nbdkit'));

  it.each<[string, readonly string[]]>([
    ['with all it has', []],
    ['without GO, as a newstyle server of old', ['--mask-handshake=0']],
    ['without leaving out the zeroes of EXPORT_NAME', ['--mask-handshake=1']],
    ['without WRITE_ZEROES', ['--filter=nozero']],
    ['with small payloads', ['--filter=blocksize-policy', 'blocksize-maximum=65536']],
  ])('%s takes everything', async (_what, options) => {
    const scope = testScope();
    const filters = options.filter((option) => option.startsWith('-'));
    const parameters = options.filter((option) => !option.startsWith('-'));
    const server = await nbdkit(scope, filters, ['memory', `size=${SIZE}`, ...parameters]);
    const client = await open(scope, server.uri);
    expect(client.info.sizeBytes).toBe(SIZE);
    await exercise(client);
    await client.close();
  });

  it('reports what the export can do', async () => {
    const scope = testScope();
    const writable = await open(scope, (await nbdkit(scope, [], ['memory', '1M'])).uri);
    expect(writable.info).toMatchObject({ readOnly: false, canFlush: true, canWriteZeroes: true });
    const kit = await nbdkit(scope, ['--readonly', '--filter=nozero'], ['memory', '1M']);
    const reading = await open(scope, kit.uri);
    expect(reading.info).toMatchObject({ readOnly: true, canMultiConn: true });
    expect(await write(reading, Buffer.alloc(512), 0)).toBe(1);
  });

  it('is refused by name when it speaks oldstyle', async () => {
    const scope = testScope();
    const server = await nbdkit(scope, ['--oldstyle'], ['memory', '1M']);
    const error = await rejection(open(scope, server.uri));
    expect(error.code).toBe('PROTOCOL');
    expect(error.message).toMatch(/oldstyle/);
  });

  it('is refused in its own words when it has no such export', async () => {
    const scope = testScope();
    const server = await nbdkit(scope, [], ['file', `dir=${scope.tempDir()}`], 'nothing');
    const error = await rejection(open(scope, server.uri));
    expect(error.code).toBe('MIRROR_REFUSED');
    expect(error.message).toMatch(/"nothing"|no export/);
  });

  it('passes the errors of its disk on, request by request', async () => {
    const scope = testScope();
    const options = ['memory', `size=${SIZE}`, 'error-pwrite=ENOSPC', 'error-pwrite-rate=100%'];
    const full = await open(scope, (await nbdkit(scope, ['--filter=error'], options)).uri);
    expect(await write(full, Buffer.alloc(4096), 0)).toBe(28);
    const batch = new TestBatch(1, consecutive(20, 4096));
    full.sendPrepared(batch, batch.chunks);
    await batch.finished;
    expect(new Set(batch.told.values())).toEqual(new Set([28]));
    expect(await read(full, Buffer.alloc(4096), 0)).toBe(0);
  });

  it('is given up when its disk hangs, and waited for when it is only slow', async () => {
    const scope = testScope();
    const slow = ['memory', '1M', 'rdelay=300ms'];
    const server = await nbdkit(scope, ['--filter=delay'], slow);
    const patient = await open(scope, server.uri, { replyMs: 2000 });
    expect(await read(patient, Buffer.alloc(512), 0)).toBe(0);
    const hasty = await open(scope, server.uri, { replyMs: 100 });
    const ending = closed(hasty);
    expect(await read(hasty, Buffer.alloc(512), 0)).toBe(5);
    expect((await ending).message).toMatch(/no reply for 0.1 s/);
  });

  it('may be killed in the middle of a batch', async () => {
    const scope = testScope();
    const server = await nbdkit(scope, ['--filter=delay'], ['memory', '64M', 'wdelay=20ms']);
    const client = await open(scope, server.uri);
    const ending = closed(client);
    const batch = new TestBatch(1, consecutive(2000, 4096));
    client.sendPrepared(batch, batch.chunks);
    const flushed = flush(client);
    await new Promise((resolve) => setTimeout(resolve, 60));
    await server.child.kill();
    const error = await ending;
    expect(error.code).toBe('MIRROR_UNREACHABLE');
    expect(await flushed).toBe(5);
    expect(batch.doneCalls).toBe(0);
    expect(batch.told.size).toBeLessThan(2000);
    const again = await rejection(open(scope, server.uri));
    expect(again.message).toMatch(/nobody listens there/);
  });
});

describe('qemu-nbd', () => {
  beforeEach((context) => requireTools(context, 'qemu-nbd'));

  it('takes everything, and zeroes beyond 4 GiB', async () => {
    const scope = testScope();
    const small = await open(scope, (await qemuNbd(scope, SIZE, 'vol')).uri);
    expect(small.info).toMatchObject({ sizeBytes: SIZE, canFlush: true, canFua: true });
    await exercise(small);
    const bytes = 9 * 2 ** 30;
    const large = await open(scope, (await qemuNbd(scope, bytes, 'vol')).uri);
    const edge = 2 ** 32 - 65536;
    expect(await write(large, pattern(131072, 5), edge - 65536)).toBe(0);
    expect(await zero(large, 0, bytes)).toBe(0);
    const target = Buffer.alloc(131072, 0xcc);
    expect(await read(large, target, edge - 65536)).toBe(0);
    expect(target.equals(Buffer.alloc(131072))).toBe(true);
  });

  it('refuses an export that it does not have', async () => {
    const scope = testScope();
    const server = await qemuNbd(scope, SIZE, 'vol');
    const uri = { ...server.uri, exportName: 'other' };
    const error = await rejection(open(scope, uri));
    expect(error.code).toBe('MIRROR_REFUSED');
    expect(error.message).toMatch(/has no export "other"/);
  });
});

describe('nbd-server', () => {
  beforeEach((context) => requireTools(context, 'nbd-server'));

  it.each([true, false])('takes everything, with FLUSH: %s; its file holds it', async (flush) => {
    const scope = testScope();
    const image = join(scope.tempDir(), 'image');
    writeFileSync(image, Buffer.alloc(SIZE, 0x33));
    const client = await open(scope, (await nbdServer(scope, image, 'vol', { flush })).uri);
    expect(client.info.canFlush).toBe(flush);
    expect(await zero(client, 0, SIZE)).toBe(0);
    await exercise(client);
    const content = Buffer.alloc(SIZE);
    expect(await read(client, content, 0)).toBe(0);
    expect(readFileSync(image).equals(content)).toBe(true);
  });
});
