/*
 * Raw files into volumes and out of them: byte for byte, with holes as holes on both sides and written zeroes
 * as holes too; a copy that was killed goes on where it was, and refuses to when an end is another one; what is
 * refused is refused before anything changes. Judges: cmp, st_blocks, and nbdkit's log of what was read.
 *
 * Copies are slowed down by nbdkit as a proxy of the node, whose rate filter limits what goes through.
 */
import {
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { parseNbdUri } from '../../src/nbd/uri/uri.ts';
import { open } from '../nbd-client/support/fake-server.ts';
import { nbdkit } from '../nbd-client/support/real-servers.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import {
  homeOf,
  interrupt,
  makeImage,
  MIB,
  refusal,
  spaceOf,
  transfer,
  transferred,
  type Home,
} from '../support/transfer.ts';

let scope: Scope;
let node: TestNode;
let home: Home;
let dir: string;
let image: string;
let back: string;

beforeEach(async (context) => {
  requireTools(context, 'nbdkit', 'nbdcopy');
  scope = testScope();
  node = await startNode(scope, { name: 'alpha' });
  home = homeOf(scope);
  dir = scope.tempDir();
  image = join(dir, 'image');
  back = join(dir, 'back');
});

/** The node behind a proxy that lets `rate` bits a second through, each way; for --nbd. */
async function slowly(volume: string, rate: string): Promise<string> {
  const proxy = await nbdkit(
    scope,
    ['--filter=rate'],
    ['nbd', `uri=${node.uri(volume)}`, `rate=${rate}`],
  );
  if (proxy.uri.address.kind !== 'unix') throw new Error('a unix socket');
  return `unix:${proxy.uri.address.path}`;
}

const bookmarkIn = (home: Home): string | undefined => {
  const state = join(home.env['XDG_STATE_HOME'] ?? '', 'blockferry', 'transfers');
  const [name] = existsSync(state) ? readdirSync(state) : [];
  return name === undefined ? undefined : join(state, name);
};

describe('a raw file', () => {
  it('comes back as it was, sparse on both sides, also when its end is no whole block', async () => {
    const size = 200 * MIB + 777;
    makeImage(image, size, {
      data: [
        [0, MIB],
        [1_000_001, 300_000],
        [77 * MIB + 512, 512],
        [size - 5000, 5000],
      ],
      zeroes: [[100 * MIB, 20 * MIB]],
    });
    expect(spaceOf(image)).toBeGreaterThan(20 * MIB);
    const imported = await transferred(node, home, ['import', 'disk', image]);
    const rounded = Math.ceil(size / 4096) * 4096;
    expect(imported).toMatchObject({ total_bytes: rounded, skipped_bytes: 0 });
    const volume = await node.volume('disk');
    expect(volume.size_bytes).toBe(rounded);
    expect(volume.allocated_bytes).toBeLessThan(2 * MIB);

    await transferred(node, home, ['export', 'disk', back]);
    await run('cmp', ['-n', String(size), image, back]);
    expect(readFileSync(back).length).toBe(rounded);
    expect(spaceOf(back)).toBeLessThan(2 * MIB);
    // Nothing of the way is left.
    expect(readdirSync(dir).toSorted()).toEqual(['back', 'image']);
    expect(bookmarkIn(home)).toBeUndefined();
    // Another program reads the same.
    await run('nbdcopy', [node.uri('disk'), join(dir, 'judge')]);
    await run('cmp', [back, join(dir, 'judge')]);
  });

  it('replaces all that a larger volume held, when it may', async () => {
    makeImage(image, 8 * MIB, { data: [[2 * MIB, MIB]] });
    makeImage(back, 16 * MIB, { data: [[0, 16 * MIB]] });
    await transferred(node, home, ['import', 'disk', back]);
    expect(await refusal(node, home, ['import', 'disk', image])).toBe('TARGET_NOT_EMPTY');
    await transferred(node, home, ['import', 'disk', image, '--force']);
    await transferred(node, home, ['export', 'disk', back, '--force']);
    truncateSync(image, 16 * MIB);
    await run('cmp', [image, back]);
    expect(spaceOf(back)).toBeLessThanOrEqual(2 * MIB);
    expect((await node.volume('disk')).allocated_bytes).toBeLessThan(2 * MIB);
  });

  it('tells how far it is in lines, and in JSON', async () => {
    makeImage(image, 6 * MIB, { data: [[0, 6 * MIB]] });
    const { stdout } = await transfer(node, home, ['import', 'disk', image]);
    expect(stdout).toMatch(/^imported .*image to volume disk: 6\.0 MiB, 6\.0 MiB of data, in /);
    const nbd = await slowly('disk', '16M');
    const slow = await transfer(node, home, ['export', 'disk', back, '--json', '--nbd', nbd]);
    const events = slow.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(events[0]).toMatchObject({ event: 'begun', total_bytes: 6 * MIB, skipped_bytes: 0 });
    const progress = events.filter(({ event }) => event === 'progress');
    expect(progress.length).toBeGreaterThan(0);
    const last = progress.at(-1) ?? {};
    expect(last['position_bytes']).toBeGreaterThan(0);
    expect(last['bytes_per_second']).toBeGreaterThan(0);
    expect(events.at(-1)).toMatchObject({ event: 'done', data_bytes: 6 * MIB });
  });
});

it('says so when its source was written to while it was read', async () => {
  makeImage(image, 8 * MIB, { data: [[0, 8 * MIB]] });
  await node.createVolume('disk', '8M');
  const nbd = await slowly('disk', '16M');
  const code = refusal(node, home, ['import', 'disk', image, '--nbd', nbd]);
  await waitUntil('the first blocks', async () => (await node.volume('disk')).allocated_bytes > 0);
  utimesSync(image, 1, 1);
  expect(await code).toBe('TRANSFER_CHANGED');
});

describe('a copy that was interrupted', () => {
  it.for(['SIGKILL', 'SIGTERM'] as const)(
    'into a volume by %s goes on where it was',
    async (signal) => {
      makeImage(image, 64 * MIB, { data: [[0, 40 * MIB]], zeroes: [[40 * MIB, 8 * MIB]] });
      await node.createVolume('disk', '64M');
      const nbd = await slowly('disk', '40M');
      const options = { bookmark: () => bookmarkIn(home), bytes: 8 * MIB, signal };
      const killed = await interrupt(
        scope,
        node,
        home,
        ['import', 'disk', image, '--nbd', nbd],
        options,
      );
      if (signal === 'SIGTERM') {
        expect(killed.child.exitCode).toBe(1);
        expect(killed.child.stderr).toMatch(/run the same command again \[TRANSFER_STOPPED\]\n$/);
      }
      expect(killed.position).toBeLessThan(40 * MIB);
      const done = await transferred(node, home, ['import', 'disk', image]);
      expect(done['skipped_bytes']).toBe(killed.position);
      expect(done['data_bytes']).toBe(40 * MIB - killed.position);
      await transferred(node, home, ['export', 'disk', back]);
      await run('cmp', [image, back]);
      expect((await node.volume('disk')).allocated_bytes).toBeLessThan(41 * MIB);
      expect(bookmarkIn(home)).toBeUndefined();
    },
  );

  it('to a file by SIGKILL goes on where it was, and the file has its name only when it is whole', async () => {
    makeImage(image, 64 * MIB, { data: [[0, 40 * MIB]] });
    await transferred(node, home, ['import', 'disk', image]);
    const nbd = await slowly('disk', '40M');
    const bookmark = `${back}.blockferry-part.json`;
    const options = { bookmark: () => bookmark, bytes: 8 * MIB, signal: 'SIGKILL' } as const;
    const { position } = await interrupt(
      scope,
      node,
      home,
      ['export', 'disk', back, '--nbd', nbd],
      options,
    );
    expect(existsSync(back)).toBe(false);
    const done = await transferred(node, home, ['export', 'disk', back]);
    expect(done).toMatchObject({ skipped_bytes: position, data_bytes: 40 * MIB - position });
    await run('cmp', [image, back]);
    expect(spaceOf(back)).toBeLessThan(41 * MIB);
    expect(readdirSync(dir).toSorted()).toEqual(['back', 'image']);
  });

  it('does not go on from another source, or into another volume; it begins again when told to', async () => {
    makeImage(image, 64 * MIB, { data: [[0, 40 * MIB]] });
    await node.createVolume('disk', '64M');
    const nbd = await slowly('disk', '40M');
    const options = {
      bookmark: () => bookmarkIn(home),
      bytes: 4 * MIB,
      signal: 'SIGKILL',
    } as const;
    await interrupt(scope, node, home, ['import', 'disk', image, '--nbd', nbd], options);
    const again = ['import', 'disk', image];

    utimesSync(image, 1, 1);
    expect(await refusal(node, home, again)).toBe('TRANSFER_CHANGED');
    renameSync(image, `${image}.was`);
    makeImage(image, 64 * MIB, { data: [[0, 40 * MIB]] });
    expect(await refusal(node, home, again)).toBe('TRANSFER_CHANGED');
    // What was begun is nobody's loss: no --force.
    await transferred(node, home, [...again, '--restart']);
    await transferred(node, home, ['export', 'disk', back]);
    await run('cmp', [image, back]);
  });

  it('does not go on when what was copied is not there any more', async () => {
    makeImage(image, 64 * MIB, { data: [[0, 40 * MIB]] });
    await transferred(node, home, ['import', 'disk', image]);
    const nbd = await slowly('disk', '40M');
    const part = `${back}.blockferry-part`;
    const options = { bookmark: () => `${part}.json`, bytes: 8 * MIB, signal: 'SIGKILL' } as const;
    await interrupt(scope, node, home, ['export', 'disk', back, '--nbd', nbd], options);
    truncateSync(part, 0);
    truncateSync(part, 64 * MIB);
    expect(await refusal(node, home, ['export', 'disk', back])).toBe('TRANSFER_CHANGED');
    await transferred(node, home, ['export', 'disk', back, '--restart']);
    await run('cmp', [image, back]);
  });
});

/** A command on the snapshots of the volume. */
const take = (method: string, path: string, body: object): Promise<unknown> =>
  node.request(method, `/v1/volumes/disk/snapshots${path}`, body);

describe('a snapshot', () => {
  it('is copied as it was, whatever is written meanwhile', async () => {
    makeImage(image, 64 * MIB, { data: [[0, 8 * MIB]] });
    makeImage(`${image}2`, 64 * MIB, { data: [[4 * MIB, 8 * MIB]] });
    await transferred(node, home, ['import', 'disk', image]);
    await take('POST', '', { name: 'monday' });
    await transferred(node, home, ['import', 'disk', `${image}2`, '--force']);
    await transferred(node, home, ['export', 'disk@monday', back]);
    await run('cmp', [image, back]);
    expect(spaceOf(back)).toBeLessThan(9 * MIB);
    await transferred(node, home, ['export', 'disk', back, '--force']);
    await run('cmp', [`${image}2`, back]);
  });

  it('that took another content is not taken for the one whose copy was interrupted', async () => {
    makeImage(image, 64 * MIB, { data: [[0, 40 * MIB]] });
    await transferred(node, home, ['import', 'disk', image]);
    await take('POST', '', { name: 'monday' });
    const nbd = await slowly('disk@monday', '40M');
    const bookmark = `${back}.blockferry-part.json`;
    const options = { bookmark: () => bookmark, bytes: 4 * MIB, signal: 'SIGKILL' } as const;
    const args = ['export', 'disk@monday', back];
    await interrupt(scope, node, home, [...args, '--nbd', nbd], options);
    await take('POST', '/monday/refresh', { force: true });
    expect(await refusal(node, home, args)).toBe('TRANSFER_CHANGED');
    await transferred(node, home, [...args, '--restart']);
    await run('cmp', [image, back]);
  });
});

describe('refused before anything changes', () => {
  it('is a source that cannot be read, or a volume that cannot take it', async () => {
    await node.createVolume('small', '4M');
    makeImage(image, 8 * MIB, { data: [[0, MIB]] });
    writeFileSync(join(dir, 'empty'), '');
    const codes = [];
    for (const args of [
      ['import', 'new', join(dir, 'nothing')],
      ['import', 'new', dir],
      ['import', 'new', join(dir, 'empty')],
      ['import', 'a/b', image],
      ['import', 'small', image],
    ]) {
      codes.push(await refusal(node, home, args));
    }
    expect(codes).toEqual([
      'FILE_UNUSABLE',
      'FILE_UNUSABLE',
      'FILE_UNUSABLE',
      'VOLUME_NAME_INVALID',
      'TARGET_TOO_SMALL',
    ]);
    const { volumes } = await node.status();
    expect(volumes.map(({ name, allocated_bytes: bytes }) => [name, bytes])).toEqual([
      ['small', 0],
    ]);
  });

  it('is a volume that somebody uses', async () => {
    makeImage(image, 8 * MIB, { data: [[0, MIB]] });
    await node.createVolume('disk', '8M');
    await open(scope, parseNbdUri(node.uri('disk')));
    expect(await refusal(node, home, ['import', 'disk', image, '--force'])).toBe('VOLUME_BUSY');
    expect((await node.volume('disk')).allocated_bytes).toBe(0);
  });

  it('is a file that exists, a place where none can be, and a volume that is not there', async () => {
    await node.createVolume('disk', '4M');
    writeFileSync(back, 'mine');
    const codes = [];
    for (const args of [
      ['export', 'disk', back],
      ['export', 'disk', dir, '--force'],
      ['export', 'disk', join(dir, 'no', 'where')],
      ['export', 'nodisk', join(dir, 'new')],
      ['export', 'disk@nosnapshot', join(dir, 'new')],
    ]) {
      codes.push(await refusal(node, home, args));
    }
    expect(codes).toEqual([
      'FILE_EXISTS',
      'FILE_UNUSABLE',
      'FILE_UNUSABLE',
      'VOLUME_NOT_FOUND',
      'SNAPSHOT_NOT_FOUND',
    ]);
    expect(readFileSync(back, 'utf8')).toBe('mine');
    expect(readdirSync(dir)).toEqual(['back']);
  });
});
