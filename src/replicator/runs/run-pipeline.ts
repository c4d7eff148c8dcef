/**
 * The batches of a set, made ready side by side and handed on in their order.
 *
 * Invariants:
 * - At most DELTA_BATCHES_IN_FLIGHT_MAX batches are being made ready.
 * - When it is over, for whatever reason, no read of it is on its way.
 */
import { DELTA_BATCHES_IN_FLIGHT_MAX } from '../../io/limits.ts';
import type { BlockSet } from '../../volume/maps/block-set.ts';
import { RunFailed } from './delta-run.ts';
import type { FrozenSource } from './frozen-source.ts';
import { nextBatch, type RunBatch } from './run-batches.ts';
import type { RunPace } from './run-pace.ts';
import type { RunBuffer, RunReader } from './run-reader.ts';

export interface RunTools {
  readonly source: FrozenSource;
  readonly pace: RunPace;
  readonly reader: RunReader;
}

export interface RunSteps<Ready> {
  /** The buffer was filled, and is the callee's to give back. Null for a batch without data. */
  prepare(batch: RunBatch, buffer: RunBuffer | null): Promise<Ready>;
  handOn(batch: RunBatch, ready: Ready): Promise<void>;
}

type Outcome<Ready> = { readonly ready: Ready } | { readonly thrown: unknown };

interface Slot<Ready> {
  readonly batch: RunBatch;
  readonly outcome: Promise<Outcome<Ready>>;
}

/** Takes every block of `set` from block `from` on. Throws RunFailed when the source cannot be read, or why `pace` ended. */
export async function runThrough<Ready>(
  tools: RunTools,
  range: { readonly set: BlockSet; readonly from: number },
  steps: RunSteps<Ready>,
): Promise<void> {
  try {
    await passAll(tools, range, steps);
  } finally {
    await tools.reader.stop();
  }
}

async function passAll<Ready>(
  tools: RunTools,
  { set, from }: { readonly set: BlockSet; readonly from: number },
  steps: RunSteps<Ready>,
): Promise<void> {
  const { source, pace, reader } = tools;
  const slots: Slot<Ready>[] = [];
  let cursor: number | null = from;
  while (cursor !== null || slots.length > 0) {
    await pace.until(() => slots.length > 0 || reader.hasBuffer);
    while (cursor !== null && slots.length < DELTA_BATCHES_IN_FLIGHT_MAX && reader.hasBuffer) {
      const batch = nextBatch(source, set, cursor);
      cursor = batch?.end ?? null;
      if (batch === null) break;
      slots.push({ batch, outcome: outcomeOf(madeReady(tools, batch, steps)) });
      // Nothing but looks at the map: enough of them for one turn.
      if (batch.blocks === 0) break;
    }
    const slot = slots.shift();
    if (slot === undefined) continue;
    if (slot.batch.blocks === 0) await pace.turn();
    const outcome = await slot.outcome;
    pace.check();
    if ('thrown' in outcome) throw outcome.thrown;
    await steps.handOn(slot.batch, outcome.ready);
  }
}

async function madeReady<Ready>(
  { reader }: RunTools,
  batch: RunBatch,
  steps: RunSteps<Ready>,
): Promise<Ready> {
  if (batch.blocks === 0) return steps.prepare(batch, null);
  const buffer = reader.take();
  const status = await reader.read(batch, buffer);
  if (status === 0) return steps.prepare(batch, buffer);
  reader.give(buffer);
  throw new RunFailed('the volume cannot be read', { errno: status, local: true });
}

/** A promise that is never rejected: it may be looked at late, or not at all. */
async function outcomeOf<Ready>(made: Promise<Ready>): Promise<Outcome<Ready>> {
  try {
    return { ready: await made };
  } catch (thrown) {
    return { thrown };
  }
}
