/*
 * What a volume tells of its allocation. A random history of writes, zeroes and trims goes to the volume
 * and to a model in the judge; block status must never call zero what is not, tells what was given back as
 * holes, keeps to the rules for its extents (order, ends, REQ_ONE, 32-bit edges), and reads come in chunks
 * that cover the range once, holes as holes, unfragmented where that is asked for. Judge: libnbd.
 */
import { expect, it } from 'vitest';
import { libnbd } from '../support/libnbd.ts';
import { startNode } from '../support/node.ts';
import { requireTools, testScope } from '../support/tools.ts';

const SEED = 20_240_811;

it('tells data from holes as they are', async (context) => {
  requireTools(context, 'python3-libnbd');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '6G');
  const args = [node.uri('disk'), String(SEED)];
  expect(await libnbd('block_status.py', args, { timeoutMs: 60_000 })).toBe('judged\n');
  await node.stop();
});
