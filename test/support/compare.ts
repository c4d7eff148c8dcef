/** Whether two exports hold the same bytes, judged by nbdcopy and cmp. */
import { join } from 'node:path';
import { run } from './process.ts';
import type { Scope } from './scope.ts';

/** Reads a whole export into a file. */
export async function readExport(uri: string, file: string): Promise<void> {
  await run('nbdcopy', [uri, file], { timeoutMs: 120_000 });
}

/** Throws, with the first difference, unless both exports have equal size and content. */
export async function expectEqualExports(scope: Scope, left: string, right: string): Promise<void> {
  const dir = scope.tempDir('bf-cmp-');
  const files = [join(dir, 'left'), join(dir, 'right')] as const;
  await readExport(left, files[0]);
  await readExport(right, files[1]);
  await run('cmp', files);
}

/** Throws when an export holds nothing but zeroes: two empty sides are equal too. */
export async function expectContent(scope: Scope, uri: string, bytesMin: number): Promise<void> {
  const file = join(scope.tempDir('bf-content-'), 'image');
  await readExport(uri, file); // nbdcopy leaves zeroes as holes
  const { stdout } = await run('du', ['--block-size=1', file]);
  const bytes = Number.parseInt(stdout, 10);
  if (bytes < bytesMin) throw new Error(`${uri} holds ${bytes} bytes of data, not ${bytesMin}`);
}
