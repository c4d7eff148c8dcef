/*
 * What a volume says about itself to libnbd: its size, abilities and contexts, in the list and by name,
 * also after a restart; its map with totals; and what a client is told that asks for a volume that is not
 * there. Judge: nbdinfo in all its modes.
 */
import { expect, it } from 'vitest';
import { nbdinfoMap } from '../support/maps.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import { requireTools, testScope } from '../support/tools.ts';

const MIB = 1024 * 1024;

type Described = Record<string, unknown> & { 'export-name': string };
interface Info {
  readonly protocol: string;
  readonly TLS: boolean;
  readonly structured: boolean;
  readonly exports: readonly Described[];
}

/** For questions about the node and not about one volume. */
const server = (node: TestNode): string => `nbd+unix://?socket=${node.nbdSocket}`;

async function info(...args: readonly string[]): Promise<Info> {
  return JSON.parse((await run('nbdinfo', ['--json', ...args])).stdout) as Info;
}

it('is listed and described as a writable disk with a cache', async (context) => {
  requireTools(context, 'nbdinfo');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  await node.createVolume('Größe & co', '8M');

  const list = await info('--list', server(node));
  const names = list.exports.map((entry) => entry['export-name']);
  expect(names.toSorted()).toEqual(['Größe & co', 'disk']);

  const one = await info(node.uri('disk'));
  expect(one).toMatchObject({ protocol: 'newstyle-fixed', TLS: false, structured: true });
  const [described] = one.exports;
  expect(described).toMatchObject({
    'export-name': 'disk',
    'export-size': 64 * MIB,
    contexts: ['base:allocation'],
    is_read_only: false,
    is_rotational: false,
    can_cache: true,
    can_df: true,
    can_fast_zero: true,
    can_flush: true,
    can_fua: true,
    can_multi_conn: true,
    can_trim: true,
    can_zero: true,
    block_size_minimum: 1,
    block_size_preferred: 4096,
    block_size_maximum: 32 * MIB,
  });
  // The list asks with INFO what the other asked with GO; `content` is what file(1) makes of the bytes.
  const { content: _, ...rest } = described ?? { content: '' };
  expect(list.exports.find((entry) => entry['export-name'] === 'disk')).toMatchObject(rest);

  await node.kill();
  await node.start();
  expect((await info(node.uri('disk'))).exports[0]).toEqual(described);

  const other = await run('nbdinfo', ['--size', node.uri('Größe & co')]);
  expect(other.stdout.trim()).toBe(String(8 * MIB));
});

it('can what it says when it is asked for one thing', async (context) => {
  requireTools(context, 'nbdinfo');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  const uri = node.uri('disk');
  const codeOf = async (...args: readonly string[]): Promise<number | null> =>
    (await run('nbdinfo', [...args, uri], { allowFailure: true })).code;
  const abilities = ['connect', 'read', 'write', 'flush', 'fua', 'trim', 'zero', 'fast-zero'];
  for (const ability of [...abilities, 'cache', 'df', 'multi-conn', 'structured-reply']) {
    expect([ability, await codeOf('--can', ability)]).toEqual([ability, 0]);
  }
  expect(await codeOf('--is', 'read-only')).toBe(2);
  expect(await codeOf('--is', 'rotational')).toBe(2);
  expect(await codeOf('--is', 'tls')).toBe(2);
});

it('shows a map of what was written, with totals', async (context) => {
  requireTools(context, 'nbdinfo', 'qemu-io');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  const uri = node.uri('disk');
  expect(await nbdinfoMap(uri)).toEqual([{ start: 0, length: 64 * MIB, flags: 3 }]);
  await qemuIo(uri, ['write 8M 4M', 'write 20M 1k', 'discard 9M 1M']);
  expect(await nbdinfoMap(uri, 'base:allocation')).toEqual([
    { start: 0, length: 8 * MIB, flags: 3 },
    { start: 8 * MIB, length: MIB, flags: 0 },
    { start: 9 * MIB, length: MIB, flags: 3 },
    { start: 10 * MIB, length: 2 * MIB, flags: 0 },
    { start: 12 * MIB, length: 8 * MIB, flags: 3 },
    { start: 20 * MIB, length: 4096, flags: 0 },
    { start: 20 * MIB + 4096, length: 44 * MIB - 4096, flags: 3 },
  ]);
  const { stdout } = await run('nbdinfo', ['--map', '--totals', '--json', uri]);
  const totals = JSON.parse(stdout) as { size: number; type: number }[];
  const sizes = totals.map(({ size, type }) => ({ size, type }));
  expect(sizes.toSorted((a, b) => a.type - b.type)).toEqual([
    { size: 3 * MIB + 4096, type: 0 },
    { size: 61 * MIB - 4096, type: 3 },
  ]);
  const missing = await run('nbdinfo', ['--map=qemu:dirty-bitmap:x', uri], { allowFailure: true });
  expect(missing.code).not.toBe(0);
});

it('refuses a name that is not there', async (context) => {
  requireTools(context, 'nbdinfo');
  const node = await startNode(testScope(), { name: 'alpha' });
  const answer = await run('nbdinfo', [node.uri('nothing')], { allowFailure: true });
  expect(answer.code).not.toBe(0);
  expect(answer.stderr).toMatch(/No such file|not (found|exist)|unknown/i);
});
