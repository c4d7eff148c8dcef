/**
 * The command line as people and scripts use it: pages, JSON, watching, pipes that close. Real processes.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { VERSION } from '../../src/control/version.ts';
import type { NodeStatus, VolumeStatus } from '../../src/control/status.ts';
import type { BlockferryEvent } from '../../src/replicator/status.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run, start } from '../support/process.ts';
import { BLOCKFERRY_BIN, ROOT } from '../support/root.ts';
import { Scope } from '../support/scope.ts';
import { waitUntil } from '../support/wait.ts';

const scope = new Scope();
let node: TestNode;

beforeAll(async () => {
  node = await startNode(scope, { name: 'alpha' });
});
afterAll(() => scope.close());

const blockferry = (...args: string[]) => run(process.execPath, [BLOCKFERRY_BIN, ...args]);

describe('blockferry', () => {
  test('knows its version', async () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
      version: string;
    };
    expect(VERSION).toBe(version);
    expect((await blockferry('--version')).stdout).toBe(`${version}\n`);
  });

  test.each([
    [['--help'], 'A first session'],
    [['serve', '--help'], 'log_level = "info"'],
    [['volume', 'create', '--help'], 'blockferry volume create demo 10G'],
    [['mirror', 'add', '--help'], '--mode sync --on-stall block'],
    [['mirror', 'resync', '--help'], 'URI may be left out'],
    [['status', '--help'], 'not-converging'],
  ])('%s explains', async (args, words) => {
    expect((await blockferry(...args)).stdout).toContain(words);
  });

  test('does what it says, in words and in JSON', async () => {
    expect((await node.cli(['volume', 'create', 'demo', '1G'])).stdout).toBe(
      'volume demo created, 1.0 GiB\n',
    );
    const grown = await node.cli(['volume', 'resize', 'demo', '2G', '--json']);
    expect((JSON.parse(grown.stdout) as VolumeStatus).size_bytes).toBe(2 ** 31);
    expect((await node.cli(['volume', 'list'])).stdout).toMatch(
      /^NAME +SIZE .*\ndemo +2\.0 GiB +0 B +standalone +0 +0 +- +ok\n$/,
    );
    expect((await node.cli(['volume', 'show', 'demo'])).stdout).toMatch(
      /^demo  2\.0 GiB, 0 B allocated, standalone, 0 connections, position \d+:\d+\n$/,
    );
    const status = JSON.parse((await node.cli(['status', '--json'])).stdout) as NodeStatus;
    // The disk is looked at between the two, now and then.
    expect({ ...status, space: null }).toEqual({ ...(await node.status()), space: null });
    expect((await node.cli(['volume', 'delete', 'demo'])).stdout).toBe('volume demo deleted\n');
    expect((await node.cli(['status'])).stdout).toMatch(
      /^node alpha\ndisk ok  .+ free, 0 B of 0 B in volumes, over-provisioning 0\.00\nno volumes\n$/,
    );
  });

  test('finds the node by BLOCKFERRY_CONTROL, or where its data is by default', async () => {
    const environment = { BLOCKFERRY_CONTROL: `unix:${node.controlSocket}` };
    const found = await run(process.execPath, [BLOCKFERRY_BIN, 'status'], { env: environment });
    expect(found.stdout).toContain('node alpha');
    const lost = await run(process.execPath, [BLOCKFERRY_BIN, 'status'], {
      env: { BLOCKFERRY_CONTROL: '', HOME: '/nonexistent', XDG_DATA_HOME: '' },
      allowFailure: true,
    });
    const data = process.getuid?.() === 0 ? '/var/lib' : '/nonexistent/.local/share';
    expect(lost.stderr).toContain(`unix:${data}/blockferry/control.sock`);
  });

  test('follows events until Ctrl-C', async () => {
    const control = `unix:${node.controlSocket}`;
    const args = [BLOCKFERRY_BIN, 'events', '--follow', '--json', '--control', control];
    const follower = start(scope, process.execPath, args);
    const seen = (): BlockferryEvent[] =>
      follower.stdout
        .trimEnd()
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as BlockferryEvent);
    await waitUntil('the first event', () => seen()[0]?.kind === 'node-started');
    await node.createVolume('seen', '1M');
    await waitUntil('the new event', () => seen().at(-1)?.volume === 'seen');
    follower.signal('SIGINT');
    expect(await follower.waitForExit(5_000)).toBe(true);
    expect(follower.exitCode).toBe(0);
  });

  test('watches until Ctrl-C, also while the node is away', async () => {
    const own = await startNode(scope, { name: 'beta' });
    const control = `unix:${own.controlSocket}`;
    const args = [BLOCKFERRY_BIN, 'status', '--watch', '--control', control];
    const watcher = start(scope, process.execPath, args);
    await waitUntil('a first page', () => watcher.stdout.includes('node beta'));
    await own.stop();
    await waitUntil('its absence', () => watcher.stdout.includes('[CONTROL_UNREACHABLE]'));
    await own.start();
    const pages = watcher.stdout.length;
    await waitUntil('its return', () => watcher.stdout.slice(pages).includes('node beta'));
    expect(watcher.stdout).not.toContain('\u001b');
    watcher.signal('SIGINT');
    expect(await watcher.waitForExit(5_000)).toBe(true);
    expect(watcher.exitCode).toBe(0);
  });

  test('ends quietly when nobody reads on', async () => {
    const control = `--control unix:${node.controlSocket}`;
    const script = `set -o pipefail; ${process.execPath} ${BLOCKFERRY_BIN} events --follow ${control} | head -n 1`;
    const follower = start(scope, 'bash', ['-c', script]);
    await waitUntil('one line', () => follower.stdout.includes('node-started'));
    // The follower learns at its next line that nobody reads.
    for (const name of ['x1', 'x2', 'x3']) await node.createVolume(name, '1M');
    expect(await follower.waitForExit(5_000)).toBe(true);
    expect([follower.exitCode, follower.stderr]).toEqual([0, '']);
  });
});
