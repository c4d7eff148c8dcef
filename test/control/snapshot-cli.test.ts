/**
 * Snapshots on the command line: a mistake undone, a range brought back, what changed as lines and as JSON, and
 * one line for whatever is refused. Real processes; content is written and read with qemu-io and nbdcopy.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ControlClient } from '../../src/cli/client.ts';
import type { MergeProgress, SnapshotStatus } from '../../src/control/status.ts';
import type { ChangedRange } from '../../src/volume/snapshots/snapshot-types.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { BLOCKFERRY_BIN } from '../support/root.ts';
import { Scope } from '../support/scope.ts';
import { requireTools } from '../support/tools.ts';

const KIB = 1024;
const scope = new Scope();
let node: TestNode;

beforeAll(async () => {
  node = await startNode(scope, { name: 'alpha' });
});
afterAll(() => scope.close());

const snapshot = (...args: string[]) => node.cli(['snapshot', ...args]);
const json = async <T>(...args: string[]): Promise<T> =>
  JSON.parse((await snapshot(...args, '--json')).stdout) as T;

/** `command` of qemu-io: `write -P 7 0 64k`. */
async function qemuIo(volume: string, command: string): Promise<void> {
  await run('qemu-io', ['-f', 'raw', '-c', command, '-c', 'flush', node.uri(volume)]);
}

async function contentOf(name: string): Promise<Buffer> {
  const file = join(scope.tempDir('bf-copy-'), 'copy.img');
  await run('nbdcopy', [node.uri(name), file]);
  return readFileSync(file);
}

/** Compared by `Buffer.equals`: the matchers of the test runner take seconds for a megabyte. */
async function expectContent(name: string, expected: Buffer): Promise<void> {
  expect((await contentOf(name)).equals(expected), `the content of ${name}`).toBe(true);
}

describe('blockferry snapshot', () => {
  test('undoes a mistake, whole or in part', async (context) => {
    requireTools(context, 'qemu-io', 'nbdcopy');
    await node.createVolume('demo', '1M');
    await qemuIo('demo', 'write -P 1 0 1M');
    expect((await snapshot('create', 'demo', 'before')).stdout).toBe(
      'snapshot demo@before created\n',
    );
    await qemuIo('demo', 'write -P 2 0 1M');
    await expectContent('demo@before', Buffer.alloc(1024 * KIB, 1));
    const part = await snapshot('restore', 'demo@before', '--offset', '64K', '--length', '4K');
    expect(part.stdout).toBe('volume demo restored in part from demo@before\n');
    const expected = Buffer.alloc(1024 * KIB, 2).fill(1, 64 * KIB, 68 * KIB);
    await expectContent('demo', expected);
    expect((await snapshot('restore', 'demo@before')).stdout).toBe(
      'volume demo restored from demo@before\n',
    );
    await expectContent('demo', Buffer.alloc(1024 * KIB, 1));
  });

  test('lists, copies, refreshes, synchronises and deletes', async (context) => {
    requireTools(context, 'qemu-io', 'nbdcopy');
    await node.createVolume('list', '8M');
    expect((await snapshot('list', 'list')).stdout).toBe(
      'no snapshots; keep one with: blockferry snapshot create list NAME\n',
    );
    await snapshot('create', 'list', 'a');
    await qemuIo('list', 'write -P 1 0 64k');
    expect((await snapshot('copy', 'list@a', 'b')).stdout).toBe(
      'snapshot list@b created of list@a\n',
    );
    expect((await snapshot('refresh', 'list@b')).stdout).toMatch(
      /^snapshot list@b has the present content, of \d{4}-.*Z\n$/,
    );
    await expectContent('list@b', Buffer.alloc(8 * 1024 * KIB).fill(1, 0, 64 * KIB));
    expect((await snapshot('list', 'list')).stdout).toMatch(
      /^SNAPSHOT +CREATED +SIZE +OWN +SHARED +CONNECTIONS\nlist@a +\S+Z +8\.0 MiB +0 B +0 B +0\nlist@b +\S+Z +8\.0 MiB +0 B +64\.0 KiB +0\n$/,
    );
    expect((await snapshot('sync', 'list@a', 'list@b')).stdout).toBe(
      'snapshot list@b has the content of list@a\n',
    );
    await expectContent('list@b', Buffer.alloc(8 * 1024 * KIB));
    expect((await node.cli(['status', 'list'])).stdout).toContain(', 2 snapshots');
    expect((await snapshot('delete', 'list@a')).stdout).toBe('snapshot list@a deleted\n');
    const { snapshots } = await json<{ snapshots: SnapshotStatus[] }>('list', 'list');
    expect(snapshots.map(({ name }) => name)).toEqual(['b']);
  });

  test('keeps several volumes at one instant', async () => {
    await node.createVolume('data', '1M');
    await node.createVolume('log', '1M');
    expect((await snapshot('create', 'data', 'log', 'both')).stdout).toBe(
      'snapshot data@both created\nsnapshot log@both created\n',
    );
  });

  test('says what changed, in bytes', async (context) => {
    requireTools(context, 'qemu-io', 'nbdcopy');
    await node.createVolume('diff', '16M');
    await qemuIo('diff', 'write -P 1 0 1M');
    await snapshot('create', 'diff', 'a');
    expect((await snapshot('diff', 'diff@a')).stdout).toBe('');
    await qemuIo('diff', 'write -P 2 8k 8k');
    await qemuIo('diff', 'write -P 2 15M 4k');
    await snapshot('create', 'diff', 'b');
    await qemuIo('diff', 'write -z -u 64k 4k');
    expect((await snapshot('diff', 'diff@a', 'diff@b')).stdout).toBe(
      '8192 8192 data\n15728640 4096 data\n',
    );
    expect((await snapshot('diff', 'diff@b')).stdout).toBe('65536 4096 zero\n');
    const lines = (await snapshot('diff', 'diff@a', '--json')).stdout.trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as ChangedRange)).toEqual([
      { offset: 8192, length: 8192, zero: false },
      { offset: 65536, length: 4096, zero: true },
      { offset: 15728640, length: 4096, zero: false },
    ]);
  });

  test('steers merging', async () => {
    await node.createVolume('merge', '1M');
    expect((await snapshot('merge', 'merge')).stdout).toBe('merge: nothing to merge\n');
    expect((await snapshot('merge', 'merge', '--limit', '50M')).stdout).toBe(
      'merge: nothing to merge, at most 50.0 MiB a second\n',
    );
    const paused = await snapshot('merge', 'merge', '--pause', '--limit', 'off');
    expect(paused.stdout).toBe('merge: merging is paused\n');
    expect((await node.cli(['status', 'merge'])).stdout).toContain('\n  merging is paused\n');
    expect(await json<MergeProgress>('merge', 'merge', '--resume')).toMatchObject({
      state: 'idle',
      limit: null,
    });
  });

  test.each([
    [['create', '--help'], 'blockferry snapshot create data log before-upgrade'],
    [['restore', '--help'], '--offset 1G --length 64M'],
    [['diff', '--help'], 'blockferry snapshot diff demo@monday demo@tuesday'],
    [['--help'], 'read-only NBD export'],
  ])('%s explains', async (args, words) => {
    const { stdout } = await run(process.execPath, [BLOCKFERRY_BIN, 'snapshot', ...args]);
    expect(stdout).toContain(words);
  });
});

async function everything(): Promise<unknown> {
  const events: string[] = [];
  const client = new ControlClient({ kind: 'unix', path: node.controlSocket });
  await client.stream('/v1/events', (line) => events.push(line));
  return [
    await node.volume('kept'),
    await node.request('GET', '/v1/volumes/kept/snapshots'),
    events,
  ];
}

describe('what is refused', () => {
  beforeAll(async () => {
    await node.createVolume('kept', '1M');
    await snapshot('create', 'kept', 'one');
  });

  test.each<[string, readonly string[], RegExp, number]>([
    ['a name with an @', ['create', 'kept', 'a@b'], /\[SNAPSHOT_NAME_INVALID\]$/, 1],
    ['a name that is taken', ['create', 'kept', 'one'], /\[SNAPSHOT_EXISTS\]$/, 1],
    ['an unknown volume', ['create', 'kept', 'gone', 'new'], /"gone".*\[VOLUME_NOT_FOUND\]$/, 1],
    [
      'no snapshot at all',
      ['delete', 'kept'],
      /names no snapshot; .*\[SNAPSHOT_NAME_INVALID\]$/,
      1,
    ],
    ['an unknown snapshot', ['delete', 'kept@gone'], /"kept@gone"; .*\[SNAPSHOT_NOT_FOUND\]$/, 1],
    ['half a block', ['restore', 'kept@one', '--length', '2K'], /\[RANGE_INVALID\]$/, 1],
    ['two volumes', ['sync', 'kept@one', 'demo@before'], /different volumes; .*\[USAGE\]$/, 2],
    ['both of two', ['merge', 'kept', '--pause', '--resume'], /'--resume'/, 2],
    ['a limit of words', ['merge', 'kept', '--limit', 'fast'], /\[RANGE_INVALID\]$/, 1],
    ['no name', ['create', 'kept'], /missing required argument/, 2],
  ])('%s', async (_what, args, line, code) => {
    const before = await everything();
    const refused = await node.cli(['snapshot', ...args], { allowFailure: true });
    expect(refused.stdout).toBe('');
    expect(refused.stderr.trimEnd()).toMatch(line);
    expect(refused.stderr).toMatch(/^blockferry: .*\n$/);
    expect(refused.code).toBe(code);
    expect(await everything()).toEqual(before);
  });
});
