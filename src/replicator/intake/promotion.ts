/**
 * The step from a mirror to a volume that takes writes while what it holds is not durable yet, but for its journal.
 *
 * Invariants:
 * - All that came is durable in the journal, and applied, before the commit. No sync of the content is waited for.
 * - One commit names the top that takes the new writes, opens the generation and keeps the journal (kept-journal.ts). What the
 *   log has no space for is taken back by what follows it into the same later commit.
 */
import assert from 'node:assert';
import type { TimedPosition } from '../../volume/log/metadata-state.ts';
import type { MetadataRecord } from '../../volume/log/records.ts';
import { beginAbove } from '../../volume/snapshots/late-snapshot.ts';
import type { Volume } from '../../volume/volume.ts';
import { isBefore } from '../../volume/log/metadata-copy.ts';
import { Status } from '../../io/device.ts';
import { dropForks, keepFork } from '../failover/fork.ts';
import type { DeltaIntake } from './delta-intake.ts';
import { refusal, type EpochIntake } from './epoch-intake.ts';
import { noteWhole } from './kept-journal.ts';
import { openGeneration, shippedAgain, shippedIds } from './open-generation.ts';
import type { Twins } from './twins.ts';

/** A mirror whose link is over. */
export interface PromotionParts {
  readonly volume: Volume;
  readonly intake: EpochIntake;
  readonly delta: DeltaIntake;
  readonly twins: Twins;
  /** Of the generation that is opened: random. */
  readonly id: string;
}

/** At what is applied and in the journal, without a wait for its sync. Answers what it holds. Throws as `promoteKeeping`. */
export async function promoteNow(parts: PromotionParts): Promise<TimedPosition> {
  const { volume, intake, delta, twins, id } = parts;
  const status = await intake.drain();
  if (status !== Status.OK) throw intake.trouble ?? refusal(volume.name, status);
  await delta.abandon();
  await twins.discardAll();
  const { position } = volume.metadata.state;
  // A run that was given up, or took effect late: what is held is what the log says.
  const isBehind = position !== null && isBefore(intake.applied ?? position, position);
  if (isBehind) intake.rebase(position);
  return await promoteAbove(volume, intake, id);
}

/**
 * What it holds is durable first, and a snapshot of that name. Answers what that is.
 * @throws BlockferryError METADATA_WRITE_FAILED: it is a mirror as before; VOLUME_FAILED
 */
export async function promoteKeeping(parts: PromotionParts, name: string): Promise<TimedPosition> {
  const { volume, intake, delta, twins, id } = parts;
  const status = await intake.finish();
  if (status !== Status.OK) throw intake.trouble ?? refusal(volume.name, status);
  await delta.abandon();
  await twins.discardAll();
  const { position, generation } = volume.metadata.state;
  assert(position, 'a mirror that holds something');
  await keepFork(volume, generation + 1);
  await volume.snapshots.create(name);
  await openGeneration(volume, id, []);
  return position;
}

/**
 * Opens a generation of that id behind what is applied, which is the answer. The link is over, and no run is open.
 * @throws BlockferryError METADATA_WRITE_FAILED: it is a mirror as before; VOLUME_FAILED
 */
async function promoteAbove(
  volume: Volume,
  intake: EpochIntake,
  id: string,
): Promise<TimedPosition> {
  const { metadata, snapshots } = volume;
  await dropForks(volume);
  const { generations, generation, position, source } = metadata.state;
  const held = intake.applied;
  assert(held !== null && position !== null && source !== null, 'a mirror that holds something');
  // What a sync under way records until then counts: behind that the journal may forget.
  let recorded = position;
  const records = (layer: number): MetadataRecord[] => {
    recorded = metadata.state.position ?? position;
    intake.letGo();
    return [
      { kind: 'source-cleared' },
      {
        kind: 'generation-opened',
        number: generation + 1,
        id,
        firstEpoch: held.epoch + 1,
      },
      {
        kind: 'journal-kept',
        layer,
        generation: generation + 1,
        after: recorded.epoch,
        last: held.epoch,
      },
    ];
  };
  const shipped = shippedIds(volume);
  const undo = (): MetadataRecord[] => {
    intake.takeBack();
    return [
      { kind: 'journal-released' },
      { kind: 'history-set', generations },
      { kind: 'source-bound', ...source },
      ...shippedAgain(volume, shipped),
      { kind: 'position', ...recorded },
    ];
  };
  await volume.exclusive(() => beginAbove(snapshots, { records, undo }));
  noteWhole(volume);
  return held;
}
