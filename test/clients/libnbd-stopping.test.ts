/*
 * A node is stopped under a load of pipelined writes over four connections. Every request is answered:
 * done, refused because the server stops, or cut off with the connection; the node ends in good time; and
 * what was acknowledged is there when it is back. Judge: libnbd.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { readExport } from '../support/compare.ts';
import { startNode } from '../support/node.ts';
import { start } from '../support/process.ts';
import { LIBNBD_SCRIPTS } from '../support/libnbd.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { sleep, waitUntil } from '../support/wait.ts';

const CONNECTIONS = 4;
const BLOCK = 4096;
const REGION = 16 * 1024 * 1024;

it('a stop answers what is in flight, and keeps what was acknowledged', async (context) => {
  requireTools(context, 'python3-libnbd', 'nbdcopy');
  const scope = testScope();
  const node = await startNode(scope, { name: 'alpha' });
  await node.createVolume('disk', String(CONNECTIONS * REGION));
  const script = join(LIBNBD_SCRIPTS, 'stopping.py');
  const load = start(scope, '/usr/bin/python3', [
    '-B',
    script,
    node.uri('disk'),
    String(CONNECTIONS),
  ]);
  await waitUntil('the load', () => load.stdout.includes('writing'));
  await sleep(150);
  await node.stop();
  expect(await load.waitForExit(10_000)).toBe(true);
  expect([load.exitCode, load.stderr]).toEqual([0, '']);
  const lines = load.stdout.trim().split('\n');
  const acknowledged = JSON.parse(lines[1] ?? '') as number[][];
  expect(Math.min(...acknowledged.map((blocks) => blocks.length))).toBeGreaterThan(10);

  await node.start();
  const copy = join(scope.tempDir(), 'copy');
  await readExport(node.uri('disk'), copy);
  const content = readFileSync(copy);
  acknowledged.forEach((blocks, connection) => {
    for (const number of blocks) {
      const start = connection * REGION + number * BLOCK;
      const block = content.subarray(start, start + BLOCK);
      expect(block.equals(Buffer.alloc(BLOCK, (number % 255) + 1))).toBe(true);
    }
  });
  await node.stop();
});
