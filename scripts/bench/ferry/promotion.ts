/**
 * How long a mirror takes from the command that promotes it until it is a volume that takes writes, when its primary dies in the
 * middle of a load and the journal is as full as that makes it. The nodes are a pair of their own: one of them is killed each time.
 */
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { ControlError, type TestNode } from '../../../test/support/node.ts';
import type { MirrorStatus } from '../../../src/replicator/status.ts';
import { load } from '../layers/calls.ts';
import type { Comparison } from '../layers/comparison.ts';
import type { Bench, Part } from './part.ts';

const MIB = 2 ** 20;
const NAME = 'ferry: promote while the journal is full, its primary just killed';
const LIMIT_MS = 200;
/** What counts as full: the other of its two files was begun. */
const FULL_BYTES = 160 * MIB;
const FILL_MS_MAX = 20_000;
const LOAD_MS: number = 2 * FILL_MS_MAX;
const PROMOTE_MS_MAX = 10_000;

/** Bytes of the journal when that is full, or the time is over. */
async function filled(beta: TestNode, volume: string): Promise<number> {
  const end = performance.now() + FILL_MS_MAX;
  for (;;) {
    const bytes = (await beta.volume(volume)).source?.journal_bytes ?? 0;
    if (bytes >= FULL_BYTES || performance.now() > end) return bytes;
    await sleep(2);
  }
}

/** Milliseconds until the command is done; it is refused until the end of the link is noticed. */
async function promote(beta: TestNode, volume: string): Promise<number> {
  const end = performance.now() + PROMOTE_MS_MAX;
  for (;;) {
    const began = performance.now();
    try {
      await beta.request('POST', `/v1/volumes/${volume}/promote`, {});
      return performance.now() - began;
    } catch (thrown) {
      const isAlive = thrown instanceof ControlError && thrown.code === 'PRIMARY_ALIVE';
      if (!isAlive || performance.now() > end) throw thrown;
      await sleep(1);
    }
  }
}

async function measure({ pair, options }: Bench): Promise<Comparison[]> {
  const { rounds, sizeBytes } = options;
  const { alpha, beta } = await pair.another('doomed');
  const samples: number[] = [];
  const remarks: string[] = [];
  for (let round = 0; round < rounds; round++) {
    options.progress(`${NAME}: round ${round + 1} of ${rounds}`);
    const volume = `promoted${round}`;
    await alpha.createVolume(volume, String(sizeBytes));
    await beta.request('POST', '/v1/volumes', {
      name: volume,
      size: String(sizeBytes),
      mirror_of: alpha.name,
    });
    await alpha.addMirror(volume, beta.uri(volume));
    await alpha.waitInSync(volume);
    const words = ['rw=randwrite', 'bs=64k', `size=${sizeBytes}`];
    const running = load(alpha.uri(volume), LOAD_MS, words).catch(() => undefined);
    const journal = await filled(beta, volume);
    const { state }: MirrorStatus = await alpha.mirror(volume);
    await alpha.kill();
    await running;
    samples.push(await promote(beta, volume));
    remarks.push(`round ${round + 1}: ${(journal / MIB).toFixed(0)} MiB in the journal, ${state}`);
    await beta.request('DELETE', `/v1/volumes/${volume}`);
    await alpha.start();
    await alpha.request('POST', `/v1/volumes/${volume}/mirrors/remove`, {});
  }
  const aim = { kind: 'p99', below: LIMIT_MS } as const;
  return [{ name: NAME, unit: 'ms', samples, against: null, aim, remarks }];
}

export const PROMOTION: readonly Part[] = [{ names: [NAME], measure }];
