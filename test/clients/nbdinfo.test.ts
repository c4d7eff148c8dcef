/*
 * What a volume says about itself to libnbd: its size and abilities, in the list and by name; and what
 * a client is told that asks for a volume that is not there. Judge: nbdinfo.
 */
import { expect, it } from 'vitest';
import { run } from '../support/process.ts';
import { startNode } from '../support/node.ts';
import { requireTools, testScope } from '../support/tools.ts';

interface Info {
  readonly exports: readonly (Record<string, unknown> & { 'export-name': string })[];
}

it('is listed and described as a writable disk with a cache', async (context) => {
  requireTools(context, 'nbdinfo');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '64M');
  await node.createVolume('Größe & co', '8M');

  const list = await run('nbdinfo', [
    '--list',
    '--json',
    node.uri('').replace('nbd+unix:///', 'nbd+unix://'),
  ]);
  const names = (JSON.parse(list.stdout) as Info).exports.map((entry) => entry['export-name']);
  expect(names.toSorted()).toEqual(['Größe & co', 'disk']);

  const info = await run('nbdinfo', ['--json', node.uri('disk')]);
  const [described] = (JSON.parse(info.stdout) as Info).exports;
  expect(described).toMatchObject({
    'export-name': 'disk',
    'export-size': 64 * 1024 * 1024,
    is_read_only: false,
    is_rotational: false,
    can_flush: true,
    can_fua: true,
    can_multi_conn: true,
    can_trim: true,
    can_zero: true,
  });

  const other = await run('nbdinfo', ['--size', node.uri('Größe & co')]);
  expect(other.stdout.trim()).toBe(String(8 * 1024 * 1024));
});

it('refuses a name that is not there', async (context) => {
  requireTools(context, 'nbdinfo');
  const node = await startNode(testScope(), { name: 'alpha' });
  const answer = await run('nbdinfo', [node.uri('nothing')], { allowFailure: true });
  expect(answer.code).not.toBe(0);
  expect(answer.stderr).toMatch(/No such file|not (found|exist)|unknown/i);
});
