/*
 * What a client may ask before it opens an export: lists, infos and contexts in any order and number, for
 * names that are there and names that are not. GO says what INFO said, every connection is told the same,
 * and eight connections see each other's writes. Judge: libnbd in its negotiating mode.
 */
import { expect, it } from 'vitest';
import { libnbd } from '../support/libnbd.ts';
import { startNode } from '../support/node.ts';
import { requireTools, testScope } from '../support/tools.ts';

it('answers every question before an export is opened, and the same afterwards', async (context) => {
  requireTools(context, 'python3-libnbd');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '8M');
  await node.createVolume('Größe & co', '10489856'); // a whole number of blocks alone
  const server = `nbd+unix://?socket=${node.nbdSocket}`;
  expect(await libnbd('negotiation.py', [server, 'disk', 'Größe & co'])).toBe('judged\n');
  await node.stop();
});
