/** How much goes over the link, and how fast: a comparison of equal data, and a delta run of scattered changes. */
import { performance } from 'node:perf_hooks';
import type { VerifyReport } from '../../../src/replicator/status.ts';
import { fio } from '../../../test/support/fio.ts';
import type { Comparison } from '../layers/comparison.ts';
import type { Bench, Part } from './part.ts';

const MIB = 2 ** 20;
const VOLUME = 'equal';
const BYTES = 4 * 2 ** 30;
const QUICK_BYTES = 256 * MIB;
/** Of all blocks, changed while the mirror is away. */
const CHANGED = 0.01;
const CHANGE_MS_MAX = 120_000;

const VERIFY = 'ferry: comparison of equal data by digest';
const VERIFY_WIRE = 'ferry: bytes on the wire for that';
const DELTA = 'ferry: delta run of 1 % scattered changes, bytes against changed blocks';

async function prepared({ pair, quick, options }: Bench): Promise<number> {
  const sizeBytes = quick ? QUICK_BYTES : BYTES;
  options.progress(`ferry: preparing a mirrored volume of ${sizeBytes / MIB} MiB`);
  await pair.volume(VOLUME, { sizeBytes, mode: 'async', far: true });
  return sizeBytes;
}

async function verify(bench: Bench): Promise<Comparison[]> {
  const { pair, options } = bench;
  const sizeBytes = await prepared(bench);
  const link = await pair.link();
  const rates: number[] = [];
  const shares: number[] = [];
  for (let round = 0; round < options.rounds; round++) {
    options.progress(`${VERIFY}: round ${round + 1} of ${options.rounds}`);
    const before = await link.count();
    const began = performance.now();
    const path = `/v1/volumes/${VOLUME}/mirrors/verify`;
    const found = await pair.alpha.request<VerifyReport>('POST', path, {});
    const ms = performance.now() - began;
    const after = await link.count();
    if (found.bytes_compared !== sizeBytes || found.bytes_differing !== 0) {
      throw new Error(`not a comparison of equal data: ${JSON.stringify(found)}`);
    }
    const wire = after.toMirror - before.toMirror + after.toPrimary - before.toPrimary;
    rates.push((sizeBytes / ms) * 1000);
    shares.push((wire / sizeBytes) * 100);
  }
  const common = { against: null, remarks: [] } as const;
  return [
    {
      ...common,
      name: VERIFY,
      unit: 'bytes',
      samples: rates,
      aim: { kind: 'least', atLeast: 1e9 },
    },
    {
      ...common,
      name: VERIFY_WIRE,
      unit: 'percent',
      samples: shares,
      aim: { kind: 'value', below: 0.5 },
    },
  ];
}

/** Changes so many bytes in blocks of 4k, none of them twice. */
async function scatter(uri: string, sizeBytes: number): Promise<void> {
  const bytes = Math.floor((sizeBytes * CHANGED) / 4096) * 4096;
  const where = [`size=${sizeBytes}`, `io_size=${bytes}`, 'randrepeat=0'];
  const options = ['rw=randwrite', 'bs=4k', 'iodepth=32', ...where];
  await fio({ uri, name: 'scatter', options, timeoutMs: CHANGE_MS_MAX });
}

async function delta(bench: Bench): Promise<Comparison[]> {
  const { pair, options } = bench;
  const sizeBytes = await prepared(bench);
  const link = await pair.link();
  const sent: number[] = [];
  const changed: number[] = [];
  const remarks: string[] = [];
  for (let round = 0; round < options.rounds; round++) {
    options.progress(`${DELTA}: round ${round + 1} of ${options.rounds}`);
    await pair.pause(VOLUME);
    await scatter(pair.alpha.uri(VOLUME), sizeBytes);
    changed.push((await pair.alpha.mirror(VOLUME)).dirty_bytes / MIB);
    const before = await link.count();
    const began = performance.now();
    await pair.resume(VOLUME);
    await pair.inSync(VOLUME);
    const seconds = (performance.now() - began) / 1000;
    sent.push(((await link.count()).toMirror - before.toMirror) / MIB);
    remarks.push(`round ${round + 1}: in stream again after ${seconds.toFixed(2)} s`);
  }
  const against = { name: 'changed blocks', samples: changed };
  const aim = { kind: 'ratio-most', atMost: 1.1 } as const;
  return [{ name: DELTA, unit: 'mib', samples: sent, against, aim, remarks }];
}

export const COPIES: readonly Part[] = [
  { names: [VERIFY, VERIFY_WIRE], measure: verify },
  { names: [DELTA], measure: delta },
];
