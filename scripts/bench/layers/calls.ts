/** What the rows about layers ask of a node, timed from the request to the answer. */
import { performance } from 'node:perf_hooks';
import { fio, type FioResult } from '../../../test/support/fio.ts';
import type { TestNode } from '../../../test/support/node.ts';
import { waitUntil } from '../../../test/support/wait.ts';

const FILL_MS_MAX = 600_000;
const FIO_MARGIN_MS = 60_000;
const MERGE_MS_MAX = 600_000;

const snapshots = (volume: string): string => `/v1/volumes/${volume}/snapshots`;

/** Milliseconds that `action` took. */
export async function timed(action: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await action();
  return performance.now() - began;
}

export async function snapshot(node: TestNode, volume: string, name: string): Promise<void> {
  await node.request('POST', snapshots(volume), { name });
}

export async function restore(node: TestNode, volume: string, name: string): Promise<void> {
  await node.request('POST', `${snapshots(volume)}/${name}/restore`, {});
}

export async function remove(node: TestNode, volume: string, name: string): Promise<void> {
  await node.request('DELETE', `${snapshots(volume)}/${name}`);
}

export async function isMerging(node: TestNode, volume: string): Promise<boolean> {
  const { merge } = await node.volume(volume);
  if (merge.state === 'failed') throw new Error(`a merge of ${volume}: ${merge.reason}`);
  return merge.state !== 'idle';
}

/** Waits until nothing is left to merge. */
export async function merged(node: TestNode, volume: string): Promise<void> {
  await waitUntil('the merge', async () => !(await isMerging(node, volume)), {
    timeoutMs: MERGE_MS_MAX,
    everyMs: 5,
  });
}

/** Writes random bytes from `offset` on, and makes them durable. */
export async function write(uri: string, offset: number, bytes: number): Promise<void> {
  const area = [`offset=${offset}`, `size=${bytes}`];
  const options = ['rw=write', 'bs=1m', 'iodepth=8', ...area, 'end_fsync=1'];
  await fio({ uri, name: 'fill', options, timeoutMs: FILL_MS_MAX });
}

/** 4k at random, depth 32, for a time. `words` say which way and where. */
export async function load(uri: string, ms: number, words: readonly string[]): Promise<FioResult> {
  const deep = ['bs=4k', 'iodepth=32', 'randrepeat=0', 'norandommap=1'];
  const options = [...deep, 'time_based=1', `runtime=${Math.round(ms)}ms`, ...words];
  return await fio({ uri, name: 'load', options, timeoutMs: ms + FIO_MARGIN_MS });
}
