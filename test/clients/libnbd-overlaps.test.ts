/*
 * Writes, zeroes and trims that overlap, many in flight over four connections: every read gives what a disk
 * could give, every connection reads the same at the end, and so does the mirror. Judge: libnbd with a model
 * of each sector's history; nbdcopy and cmp for the mirror.
 */
import { expect, it } from 'vitest';
import { expectContent, expectEqualExports } from '../support/compare.ts';
import { libnbd } from '../support/libnbd.ts';
import { startNode } from '../support/node.ts';
import { requireTools, testScope } from '../support/tools.ts';

const OPERATIONS = 5000;

it('overlapping requests of four connections end the same everywhere', async (context) => {
  requireTools(context, 'python3-libnbd', 'nbdcopy');
  const scope = testScope();
  const beta = await startNode(scope, { name: 'beta' });
  const alpha = await startNode(scope, { name: 'alpha' });
  await beta.createVolume('disk', '4M');
  await alpha.createVolume('disk', '4M');
  await alpha.addMirror('disk', beta.uri('disk'));
  for (const seed of ['1', '2']) {
    const args = [alpha.uri('disk'), seed, String(OPERATIONS)];
    expect(await libnbd('overlaps.py', args, { timeoutMs: 60_000 })).toBe('judged\n');
    await alpha.waitInSync('disk');
    await expectContent(scope, beta.uri('disk'), 256 * 1024);
    await expectEqualExports(scope, alpha.uri('disk'), beta.uri('disk'));
  }
  await alpha.stop();
});
