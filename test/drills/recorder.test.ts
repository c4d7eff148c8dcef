/**
 * The drill's witness: an image put together from its log equals the disk behind it, for clients of
 * others (fio with several connections, nbdcopy, nbdinfo) in front of a disk of others (qemu-nbd). Then the
 * disk is killed under load, and the log still explains every byte that it holds.
 */
import { copyFileSync, openSync, closeSync, readSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, test, type TestContext } from 'vitest';
import { judge } from '../../scripts/drill/oracle.ts';
import { Recorder } from '../../scripts/drill/recorder.ts';
import {
  blocksTouched,
  Command,
  readRequestLog,
  RequestLogWriter,
} from '../../scripts/drill/request-log.ts';
import { nbdUri } from '../../scripts/drill/sockets.ts';
import { type ManagedProcess, run, start } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const SIZE = 32 * 1024 * 1024;

interface Setup {
  readonly scope: Scope;
  readonly directory: string;
  readonly disk: string;
  readonly uri: string;
  readonly server: ManagedProcess;
  readonly recorder: Recorder;
  readonly log: RequestLogWriter;
}

let setup: Setup;

beforeEach(async (context: TestContext) => {
  requireTools(context, 'qemu-nbd', 'fio', 'nbdinfo', 'nbdcopy', 'qemu-io');
  const scope = testScope();
  const directory = scope.tempDir('bf-rec-');
  const disk = join(directory, 'disk');
  writeFileSync(disk, '');
  truncateSync(disk, SIZE);
  const socket = join(directory, 'disk.sock');
  const server = start(scope, 'qemu-nbd', [
    '--persistent',
    '--shared=8',
    '--format=raw',
    '--discard=unmap',
    '--cache=writeback',
    '--export-name=vol',
    `--socket=${socket}`,
    disk,
  ]);
  await waitUntil('qemu-nbd', () => run('nbdinfo', [nbdUri(`unix:${socket}`, 'vol')]));
  const log = new RequestLogWriter(join(directory, 'log'));
  scope.defer('close the log', () => log.close());
  const recorder = await Recorder.start({
    listen: `unix:${join(directory, 'recorder.sock')}`,
    target: `unix:${socket}`,
    log,
  });
  scope.defer('close the recorder', () => recorder.close());
  const uri = nbdUri(recorder.address, 'vol');
  setup = { scope, directory, disk, uri, server, recorder, log };
});

function fioArguments(uri: string, extra: readonly string[]): string[] {
  return [
    '--name=load',
    '--ioengine=nbd',
    `--uri=${uri}`,
    `--size=${SIZE}`,
    '--iodepth=16',
    '--rw=randwrite',
    '--bsrange=512-64k',
    '--bs_unaligned=0',
    '--blockalign=512',
    '--randrepeat=0',
    '--refill_buffers',
    ...extra,
  ];
}

/** Writes every answered request into an image, in the order of the issues. */
function replay(directory: string): Buffer {
  const log = readRequestLog(join(directory, 'log'));
  const image = Buffer.alloc(SIZE);
  const payload = openSync(log.payloadPath, 'r');
  for (const request of log.requests) {
    if (request.command === Command.WRITE) {
      readSync(payload, image, request.offset, request.length, request.payloadPosition);
    } else if (request.command === Command.WRITE_ZEROES) {
      image.fill(0, request.offset, request.offset + request.length);
    }
  }
  closeSync(payload);
  return image;
}

test('an image made from the log equals the disk', async () => {
  const { uri, directory, recorder } = setup;
  await run('nbdinfo', [uri]);
  // One request at a time: then the order of issues is the order of application.
  await run('fio', fioArguments(uri, ['--iodepth=1', '--fsync=8', '--io_size=8m']));
  await run('qemu-io', [
    '--format',
    'raw',
    '-c',
    'write -P 7 -f 1M 3M',
    '-c',
    'write -z 2M 1M',
    uri,
  ]);
  const copy = join(directory, 'copy');
  await run('nbdcopy', [uri, copy]);
  const image = replay(directory);
  writeFileSync(join(directory, 'replayed'), image);
  await run('cmp', [join(directory, 'replayed'), copy]);
  const log = readRequestLog(join(directory, 'log'));
  const commands = new Set(log.requests.map((request) => request.command));
  expect(commands).toEqual(new Set([Command.WRITE, Command.FLUSH, Command.WRITE_ZEROES]));
  expect(log.requests.some((request) => (request.flags & 1) === 1)).toBe(true);
  expect(log.requests.every((request) => request.ackEvent > request.issueEvent)).toBe(true);
  expect(log.requests.every((request) => request.error === 0)).toBe(true);
  expect(recorder.failure).toBeNull();
});

test('the oracle accepts the disk under concurrent requests, and no other', async () => {
  const { uri, directory, disk, recorder } = setup;
  await run('fio', fioArguments(uri, ['--numjobs=3', '--fsync=32', '--io_size=8m']));
  const log = readRequestLog(join(directory, 'log'));
  const judged = { log, imagePath: disk, sizeBytes: SIZE, mode: 'sync' } as const;
  expect(judge(judged)).toMatchObject({ ok: true, writesLost: 0 });
  expect(recorder.counters.connections).toBeGreaterThanOrEqual(3);
  // The same disk without the last eighth of what was written.
  const cut = {
    ...log,
    requests: log.requests.slice(0, Math.floor((log.requests.length * 7) / 8)),
  };
  expect(judge({ ...judged, log: cut }).ok).toBe(false);
});

test('a server that is killed under load leaves a log that explains its disk', async () => {
  const { uri, directory, disk, server, scope, recorder, log: writer } = setup;
  const early = join(directory, 'early');
  const load = start(
    scope,
    'fio',
    fioArguments(uri, ['--numjobs=2', '--fsync=16', '--time_based', '--runtime=30']),
  );
  await waitUntil('some load', () => recorder.counters.acknowledged > 500);
  const marked = writer.mark(1);
  copyFileSync(disk, early);
  const soon = recorder.counters.acknowledged + 1000;
  await waitUntil('more load', () => recorder.counters.acknowledged > soon);
  await server.kill();
  expect(await load.waitForExit(20_000)).toBe(true);
  expect(recorder.failure).toBeNull();
  const log = readRequestLog(join(directory, 'log'));
  // The page cache outlives the process: nothing that was answered may be missing.
  expect(judge({ log, imagePath: disk, sizeBytes: SIZE, mode: 'sync' }).violations).toEqual([]);
  expect(judge({ log, imagePath: early, sizeBytes: SIZE, mode: 'sync' }).ok).toBe(false);
  expect(log.marks.get(1)).toBe(marked);
  const all = blocksTouched(log, 0, Infinity);
  const since = blocksTouched(log, marked, Infinity);
  expect(since.size).toBeGreaterThan(0);
  expect(since.size).toBeLessThanOrEqual(all.size);
});
