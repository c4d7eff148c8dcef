/** The rows about layered volumes: snapshots, restores and merges, each held against the same node without them. */
import { join } from 'node:path';
import type { TestNode } from '../../../test/support/node.ts';
import { blockferryNode } from '../contenders.ts';
import type { Place } from '../footprint.ts';
import type { RoundOptions } from '../measure.ts';
import type { Runtime } from '../runtimes.ts';
import { CHAIN_OVERWRITE, CHAIN_READ, measureChains } from './chains.ts';
import type { Comparison } from './comparison.ts';
import { BESIDE, measureBeside, measureMerge, MERGE } from './merges.ts';
import { measurePauses, PAUSES } from './pauses.ts';

/** What `--rows` selects among; some give several lines of the table. */
export const LAYERED: readonly string[] = [
  CHAIN_READ.name,
  CHAIN_OVERWRITE.name,
  PAUSES,
  MERGE,
  BESIDE,
];

export async function measureLayered(
  runtime: Runtime,
  place: Place,
  options: RoundOptions,
  rows: RegExp,
): Promise<Comparison[]> {
  const node = await blockferryNode(place.servers, runtime, join(place.dir, 'layers'));
  const wanted = (row: string): boolean => rows.test(row);
  const parts: [string, (node: TestNode, options: RoundOptions) => Promise<Comparison[]>][] = [
    [PAUSES, measurePauses],
    [MERGE, measureMerge],
    [BESIDE, measureBeside],
  ];
  const results = await measureChains(node, options, wanted);
  for (const [row, part] of parts) {
    if (wanted(row)) results.push(...(await part(node, options)));
  }
  return results;
}
