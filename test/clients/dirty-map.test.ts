/*
 * Which blocks a mirror may lack, as a client sees it. In contact and in sync there are none; while the
 * mirror is paused every byte that really differs is marked, and nothing far beyond what was touched; after
 * the mirror caught up there are none again, also after a restart in between. Judges: nbdinfo's map, and cmp
 * over two copies by nbdcopy for what differs.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readExport } from '../support/compare.ts';
import { nbdinfoMap, type Run } from '../support/maps.ts';
import { startNode, type TestNode } from '../support/node.ts';
import { run } from '../support/process.ts';
import { qemuIo } from '../support/qemu-io.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const BLOCK = 4096;
const MIB = 1024 * 1024;
const SIZE = 64 * MIB;

/** Numbers of the blocks that differ between two exports. */
async function differing(scope: Scope, left: string, right: string): Promise<number[]> {
  const dir = scope.tempDir();
  const files = [join(dir, 'left'), join(dir, 'right')] as const;
  await readExport(left, files[0]);
  await readExport(right, files[1]);
  const [a, b] = [readFileSync(files[0]), readFileSync(files[1])];
  const blocks = Array.from({ length: SIZE / BLOCK }, (_, index) => index);
  return blocks.filter((i) => a.compare(b, i * BLOCK, (i + 1) * BLOCK, i * BLOCK, (i + 1) * BLOCK));
}

function marked(map: readonly Run[]): number[] {
  return map
    .filter(({ flags }) => (flags & 1) !== 0)
    .flatMap(({ start, length }) =>
      Array.from({ length: Math.ceil(length / BLOCK) }, (_, i) => start / BLOCK + i),
    );
}

async function dirtyContext(node: TestNode): Promise<string> {
  const { stdout } = await run('nbdinfo', ['--json', node.uri('disk')]);
  const { exports } = JSON.parse(stdout) as { exports: { contexts: string[] }[] };
  const names = exports[0]?.contexts ?? [];
  expect(names).toEqual(['base:allocation', expect.stringMatching(/^x-blockferry:dirty\/\d+$/)]);
  return names[1] ?? '';
}

it('marks what a mirror may lack, and nothing when it lacks nothing', async (context) => {
  requireTools(context, 'nbdinfo', 'nbdcopy', 'qemu-io');
  const scope = testScope();
  const beta = await startNode(scope, { name: 'beta' });
  const alpha = await startNode(scope, { name: 'alpha' });
  await beta.createVolume('disk', String(SIZE));
  await alpha.createVolume('disk', String(SIZE));
  await qemuIo(alpha.uri('disk'), ['write -P 1 0 4M']);
  await alpha.addMirror('disk', beta.uri('disk'));
  await alpha.waitInSync('disk');
  const name = await dirtyContext(alpha);
  const clean = [{ start: 0, length: SIZE, flags: 0 }];
  expect(await nbdinfoMap(alpha.uri('disk'), name)).toEqual(clean);

  await alpha.cli(['mirror', 'pause', 'disk']);
  await qemuIo(alpha.uri('disk'), [
    'write -P 2 1M 64k',
    'write -P 3 10000001 3',
    'write -P 4 20M 1M',
    'write -z 2M 512k',
    'discard 3M 512k',
    'flush',
  ]);
  const touched = [
    [1 * MIB, 65_536],
    [2 * MIB, MIB / 2],
    [3 * MIB, MIB / 2],
    [10_000_001 - (10_000_001 % BLOCK), BLOCK],
    [20 * MIB, MIB],
  ].flatMap(([start = 0, length = 0]) =>
    Array.from({ length: length / BLOCK }, (_, i) => start / BLOCK + i),
  );
  const blocks = marked(await nbdinfoMap(alpha.uri('disk'), name));
  const really = await differing(scope, alpha.uri('disk'), beta.uri('disk'));
  expect(really.length).toBe(touched.length);
  expect(really.filter((block) => !blocks.includes(block))).toEqual([]);
  expect(blocks).toEqual(touched);

  // What a restart cannot know for sure it marks; it forgets nothing, and the name stays the same.
  await alpha.kill();
  await alpha.start();
  expect(await dirtyContext(alpha)).toBe(name);
  const kept = marked(await nbdinfoMap(alpha.uri('disk'), name));
  expect(really.filter((block) => !kept.includes(block))).toEqual([]);

  await alpha.cli(['mirror', 'resume', 'disk']);
  await alpha.waitInSync('disk');
  await waitUntil('a clean map', async () => {
    return marked(await nbdinfoMap(alpha.uri('disk'), name)).length === 0;
  });
  expect(await differing(scope, alpha.uri('disk'), beta.uri('disk'))).toEqual([]);
  await alpha.stop();
});
