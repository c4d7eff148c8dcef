/**
 * Clients that nobody here wrote, over real sockets: libnbd, QEMU and fio against a device in memory,
 * which answers at once or late and in random order. Method: the server runs in this process, the
 * clients as processes of their own; what they read back, and the device's content, are compared.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { systemClock } from '../../src/io/clock.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { NbdServer } from '../../src/nbd/server/server.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { blockMap, MemoryDevice, sourceOf } from './support/memory-device.ts';

const MIB = 1024 * 1024;

interface Served {
  readonly device: MemoryDevice;
  readonly server: NbdServer;
  readonly uri: string;
  readonly directory: string;
}

async function serve(scope: Scope, sizeBytes: number, answers: 'now' | 'late'): Promise<Served> {
  const device = new MemoryDevice(sizeBytes);
  device.recordCalls = false;
  const server = new NbdServer({
    network: nodeNetwork,
    clock: systemClock,
    exports: sourceOf('disk', device),
    log: { info: () => {}, warn: () => {} },
  });
  const directory = scope.tempDir();
  const path = join(directory, 's');
  await server.listen({ kind: 'unix', path });
  scope.defer('close the server', () => server.close());
  if (answers === 'late') answerLate(scope, device);
  return { device, server, uri: `nbd+unix:///disk?socket=${path}`, directory };
}

/** Answers a random half of what is held, in reverse, every millisecond. */
function answerLate(scope: Scope, device: MemoryDevice): void {
  device.mode = 'hold';
  const timer = setInterval(() => {
    const indexes = Array.from({ length: device.heldCount }, (_, index) => index).toReversed();
    const half = indexes.filter(() => Math.random() < 0.5);
    device.release(half.length > 0 ? half : indexes);
  }, 1);
  scope.defer('stop answering', () => {
    clearInterval(timer);
    device.release();
  });
}

it('nbdinfo reads what the server promises', async (context) => {
  requireTools(context, 'nbdinfo');
  const { device, uri } = await serve(testScope(), 8 * MIB, 'now');
  device.description = 'eight megabytes';
  const info = JSON.parse((await run('nbdinfo', ['--json', uri])).stdout) as {
    protocol: string;
    exports: Record<string, unknown>[];
  };
  expect(info.protocol).toBe('newstyle-fixed');
  expect(info.exports[0]).toMatchObject({
    'export-name': 'disk',
    description: 'eight megabytes',
    'export-size': 8 * MIB,
    is_read_only: false,
    can_cache: true,
    can_df: true,
    can_fast_zero: true,
    contexts: ['base:allocation'],
    can_flush: true,
    can_fua: true,
    can_multi_conn: true,
    can_trim: true,
    can_zero: true,
    block_size_minimum: 1,
    block_size_preferred: 4096,
    block_size_maximum: 32 * MIB,
  });
  const listed = await run('nbdinfo', ['--list', uri]);
  expect(listed.stdout).toContain('export="disk"');
  const unknown = await run('nbdinfo', [uri.replace('disk', 'nobody')], { allowFailure: true });
  expect(unknown.code).not.toBe(0);
  expect(unknown.stderr).toContain('No such file');
});

const WRONG_REQUESTS = `
import errno, nbd, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
size = h.get_size()
def fails(expected, call):
    try:
        call()
    except nbd.Error as e:
        assert e.errnum == expected, (e.errnum, expected)
        return
    raise AssertionError("no error, expected %d" % expected)
for offset in (size, size - 1, 2**32, 2**53, 2**63 - 512):
    fails(errno.EINVAL, lambda: h.pread(512, offset))
    fails(errno.ENOSPC, lambda: h.pwrite(b"x" * 512, offset))
    fails(errno.ENOSPC, lambda: h.zero(512, offset))
    fails(errno.EINVAL, lambda: h.trim(512, offset))
    fails(errno.EINVAL, lambda: h.cache(512, offset))
fails(errno.EINVAL, lambda: h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_NO_HOLE))
fails(errno.EINVAL, lambda: h.pread(512, 0, nbd.CMD_FLAG_FAST_ZERO))
fails(errno.EINVAL, lambda: h.block_status(512, 0, lambda *a: 0))
h.cache(512, 0)
h.zero(512, 0, nbd.CMD_FLAG_FAST_ZERO)
h.pwrite(b"abcdefgh", 1001, nbd.CMD_FLAG_FUA)
assert h.pread(10, 1000) == b"\\0abcdefgh\\0"
h.zero(3, 1002, nbd.CMD_FLAG_NO_HOLE)
h.flush()
assert h.pread(10, 1000) == b"\\0a\\0\\0\\0efgh\\0"
h.trim(4096, 0)
# Pipelined writes with a disconnect right behind them: every one of them counts.
done = []
for i in range(100):
    buffer = nbd.Buffer.from_bytearray(bytearray([i + 1]) * 4096)
    h.aio_pwrite(buffer, i * 4096, lambda *a: done.append(1) or 1)
h.shutdown()
assert len(done) == 100, len(done)
`;

const isData = (block: number): boolean => block % 16 >= 8;

const SPARSE_READS = `
import nbd, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
assert h.get_structured_replies_negotiated()
size = h.get_size()
block = 4096
def expected(at):
    return bytes([at // block % 251 + 1]) if at // block % 16 >= 8 else b"\\0"
def check(offset, length, flags=0):
    chunks = []
    def chunk(data, at, kind, error):
        chunks.append((at, len(data), kind))
        return 0
    data = h.pread_structured(length, offset, chunk, flags)
    at = offset
    while at < offset + length:
        end = min(offset + length, at // block * block + block)
        assert data[at - offset:end - offset] == expected(at) * (end - at), at
        at = end
    assert sum(length for _, length, _ in chunks) == length
    return chunks
for offset, length in ((0, size), (1, size - 2), (40000, 100000), (3 * block + 7, 100), (9 * block, block)):
    kinds = [kind for _, _, kind in check(offset, length)]
    assert all(a != b for a, b in zip(kinds, kinds[1:])), kinds
    assert [kind for _, _, kind in check(offset, length, nbd.CMD_FLAG_DF)] == [nbd.READ_DATA]
assert [kind for _, _, kind in check(0, 8 * block)] == [nbd.READ_HOLE]
found = []
h.block_status(size, 0, lambda name, offset, entries, error: found.append((name, offset, entries)) or 0)
runs = [(8 * block, 3), (8 * block, 0)] * (size // block // 16)
assert found == [("base:allocation", 0, [n for run in runs for n in run])], found
one = []
h.block_status(size - 100, 100, lambda name, offset, entries, error: one.append(entries) or 0, nbd.CMD_FLAG_REQ_ONE)
assert one == [[8 * block - 100, 3]], one
try:
    h.block_status(size, 4096, lambda *a: 0)
    raise AssertionError("no error past the end")
except nbd.Error as e:
    assert e.errnum == 22, e.errnum
h.shutdown()
`;

describe.each(['now', 'late'] as const)('a device that answers %s', (answers) => {
  it('libnbd gets the right errors for wrong requests, and the right bytes', async (context) => {
    requireTools(context, 'python3-libnbd');
    const { device, uri } = await serve(testScope(), 2 * MIB, answers);
    await run('/usr/bin/python3', ['-c', WRONG_REQUESTS, uri]);
    const blocks = Array.from({ length: 100 }, (_, index) =>
      device.content.readUInt8(index * 4096),
    );
    expect(blocks).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
    expect(device.openedCount).toBeGreaterThan(0);
  });

  it('libnbd gets holes as holes, data as data, and the map', async (context) => {
    requireTools(context, 'python3-libnbd');
    const { device, uri } = await serve(testScope(), 2 * MIB, answers);
    device.allocation.map = blockMap((block) => (isData(block) ? 0 : 3));
    for (let block = 0; block < 512; block++) {
      device.content.fill(isData(block) ? (block % 251) + 1 : 0, block * 4096, (block + 1) * 4096);
    }
    await run('/usr/bin/python3', ['-c', SPARSE_READS, uri]);
  });

  it('qemu-io writes, reads and verifies patterns', async (context) => {
    requireTools(context, 'qemu-io');
    const { uri } = await serve(testScope(), 48 * MIB, answers);
    const commands = [
      'write -P 1 1000 33000',
      'write -f -P 2 40960 65536',
      'write -P 3 1M 33M',
      'write -z 1M 64k',
      'write -z -u 2M 64k',
      'discard 3M 1M',
      'flush',
      'read -P 1 1000 33000',
      'read -P 2 40960 65536',
      'read -P 0 1M 64k',
      'read -P 0 2M 64k',
      'read -P 3 4M 30M',
    ];
    const { stdout } = await run('qemu-io', [
      '-f',
      'raw',
      ...commands.flatMap((c) => ['-c', c]),
      uri,
    ]);
    expect(stdout).not.toMatch(/fail|error/i);
    expect(stdout.match(/ops/g)).toHaveLength(11 * 2);
  });

  it('nbdcopy brings an image in and out over several connections', async (context) => {
    requireTools(context, 'nbdcopy');
    const scope = testScope();
    const { device, server, uri, directory } = await serve(scope, 32 * MIB, answers);
    const image = randomBytes(32 * MIB);
    image.fill(0, 4 * MIB, 12 * MIB);
    writeFileSync(join(directory, 'in'), image);
    device.content.fill(0xff);
    await run('nbdcopy', ['--connections=4', '--flush', join(directory, 'in'), uri]);
    expect(device.content.equals(image)).toBe(true);
    await run('nbdcopy', ['--connections=4', uri, join(directory, 'out')]);
    expect(readFileSync(join(directory, 'out')).equals(image)).toBe(true);
    expect(device.openedCount).toBeGreaterThanOrEqual(4);
    await server.close();
    expect(server.bufferBytes.lent).toBe(0);
    expect(device.closedCount).toBe(device.openedCount);
  });

  it('fio verifies random writes of all sizes at depth', async (context) => {
    requireTools(context, 'fio');
    const { uri, directory } = await serve(testScope(), 16 * MIB, answers);
    const load = ['--rw=randwrite', '--bsrange=512-256k', '--iodepth=32', '--size=16m'];
    const verify = ['--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--norandommap=0'];
    const common = ['--name=load', '--ioengine=nbd', `--uri=${uri}`, '--output-format=terse'];
    await run('fio', [...common, ...load, ...verify], { cwd: directory });
  });
});

it('libnbd is refused writes on a read-only device', async (context) => {
  requireTools(context, 'python3-libnbd');
  const { device, uri } = await serve(testScope(), MIB, 'now');
  device.readOnly = true;
  const script = `
import errno, nbd, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
assert h.is_read_only()
for call in (lambda: h.pwrite(b"x" * 512, 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0)):
    try:
        call()
        raise AssertionError("no error")
    except nbd.Error as e:
        assert e.errnum == errno.EPERM, e.errnum
h.pread(512, 0)
h.shutdown()
`;
  await run('/usr/bin/python3', ['-c', script, uri]);
});

it('a client that is killed under load leaves nothing', async (context) => {
  requireTools(context, 'fio');
  const scope = testScope();
  const { device, server, uri, directory } = await serve(scope, 16 * MIB, 'late');
  // One process: a forked job would outlive the kill.
  const args = [
    '--name=x',
    '--thread',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--rw=randrw',
    '--bs=64k',
  ];
  const load = run('fio', [...args, '--iodepth=32', '--size=16m', '--time_based', '--runtime=60'], {
    cwd: directory,
    timeoutMs: 1500,
  });
  await expect(load).rejects.toThrow('took over');
  await waitUntil('the connection to be gone', () => server.connections === 0);
  expect(server.bufferBytes.lent).toBe(0);
  expect(device.openedCount).toBeGreaterThan(0);
  expect(device.closedCount).toBe(device.openedCount);
});
