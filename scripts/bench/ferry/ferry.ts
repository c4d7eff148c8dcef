/** The rows about a mirror on another node; what that does to both nodes' memory comes last. */
import type { Contender, Ground, Maker } from '../contenders.ts';
import type { Place } from '../footprint.ts';
import type { Comparison } from '../layers/comparison.ts';
import type { RoundOptions } from '../measure.ts';
import type { Runtime } from '../runtimes.ts';
import { COPIES } from './copies.ts';
import { LAG } from './lag.ts';
import { OUTAGE } from './outage.ts';
import { Pair, type Peak } from './pair.ts';
import type { Bench, Part } from './part.ts';
import { PROMOTION } from './promotion.ts';
import { STREAMS } from './streams.ts';

const MIB = 2 ** 20;
const RSS_MIB_MAX = 400;
const PARTS: readonly Part[] = [...STREAMS, ...COPIES, ...LAG, ...OUTAGE, ...PROMOTION];

/** Shown with whatever of the others ran. */
const MEMORY = { alpha: 'ferry: greatest RSS, primary', beta: 'ferry: greatest RSS, mirror' };

export const FERRY: readonly string[] = PARTS.flatMap(({ names }) => names);

function memoryOf(peaks: readonly Peak[], side: 'alpha' | 'beta'): Comparison {
  const heaviest = peaks.reduce((most, peak) => (peak[side] > most[side] ? peak : most));
  return {
    name: MEMORY[side],
    unit: 'mib',
    samples: [heaviest[side] / MIB],
    against: null,
    aim: { kind: 'value', below: RSS_MIB_MAX },
    remarks: [`in "${heaviest.row}"`],
  };
}

export async function measureFerry(
  runtime: Runtime,
  place: Place,
  ground: Ground,
  { options, quick, rows }: { options: RoundOptions; quick: boolean; rows: RegExp },
): Promise<Comparison[]> {
  const peers = new Map<Maker, Contender>();
  const peer = async (make: Maker): Promise<Contender> => {
    const known = peers.get(make) ?? (await make(ground));
    peers.set(make, known);
    return known;
  };
  const pair = await Pair.start(place, runtime);
  const bench: Bench = { pair, options, quick, peer, dir: place.dir };
  const results: Comparison[] = [];
  for (const part of PARTS) {
    if (!part.names.some((name) => rows.test(name))) continue;
    results.push(
      ...(await pair.watched(part.names[0] ?? '', async () => await part.measure(bench))),
    );
  }
  return [...results, memoryOf(pair.peaks, 'alpha'), memoryOf(pair.peaks, 'beta')];
}
