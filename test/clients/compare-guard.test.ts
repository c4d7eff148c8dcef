/*
 * The judge of mirrors is judged: two exports that differ in one byte, or in length, are told apart,
 * and an empty export does not pass as content. Servers: nbdkit, so that nothing here is under test but
 * the comparison.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { expectContent, expectEqualExports } from '../support/compare.ts';
import { run, start } from '../support/process.ts';
import type { Scope } from '../support/scope.ts';
import { requireTools, testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';

const SIZE = 4 * 1024 * 1024;

async function serve(scope: Scope, content: Buffer): Promise<string> {
  const dir = scope.tempDir();
  const [file, socket] = [join(dir, 'image'), join(dir, 'nbd.sock')];
  writeFileSync(file, content);
  start(scope, 'nbdkit', ['-f', '-r', '-U', socket, 'file', file]);
  const uri = `nbd+unix:///?socket=${socket}`;
  await waitUntil('nbdkit', async () => (await run('nbdinfo', ['--size', uri])).code === 0);
  return uri;
}

it('tells apart what differs in one byte or in length', async (context) => {
  requireTools(context, 'nbdkit', 'nbdcopy', 'nbdinfo');
  const scope = testScope();
  const content = Buffer.alloc(SIZE, 7);
  const changed = Buffer.from(content);
  changed[SIZE - 1] = 8;
  const uri = await serve(scope, content);
  await expectEqualExports(scope, uri, await serve(scope, content));
  const other = await serve(scope, changed);
  await expect(expectEqualExports(scope, uri, other)).rejects.toThrow(/differ/);
  const longer = await serve(scope, Buffer.concat([content, Buffer.alloc(512)]));
  await expect(expectEqualExports(scope, uri, longer)).rejects.toThrow(/EOF/);
});

it('does not take zeroes for content', async (context) => {
  requireTools(context, 'nbdkit', 'nbdcopy', 'nbdinfo');
  const scope = testScope();
  await expectContent(scope, await serve(scope, Buffer.alloc(SIZE, 7)), SIZE);
  const empty = await serve(scope, Buffer.alloc(SIZE));
  await expect(expectContent(scope, empty, 1)).rejects.toThrow(/holds 0 bytes/);
});
