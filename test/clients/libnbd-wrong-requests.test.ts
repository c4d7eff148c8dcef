/*
 * Requests that are wrong on purpose: past the end up to the last offset that the wire can name, flags
 * and commands that do not belong, nobody defined or were not offered, no bytes, too many bytes, whole
 * gigabytes at once, a disconnect behind pipelined writes. Each must get the error that the decision
 * table names, change nothing, and leave the connection in step. Once with simple replies, once with
 * structured ones. Judge: libnbd with its own checks off, and for what it has no call for, bytes sent
 * through its socket between two of its requests.
 */
import { expect, it } from 'vitest';
import { libnbd } from '../support/libnbd.ts';
import { startNode } from '../support/node.ts';
import { requireTools, testScope } from '../support/tools.ts';

it.for(['simple', 'structured'])('wrong requests get %s errors', async (form, context) => {
  requireTools(context, 'python3-libnbd');
  const node = await startNode(testScope(), { name: 'alpha' });
  await node.createVolume('disk', '5G');
  expect(await libnbd('wrong_requests.py', [node.uri('disk'), form])).toBe('judged\n');
  await node.stop();
});
