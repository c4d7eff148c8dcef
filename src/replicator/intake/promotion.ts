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
import { dropForks } from '../fork.ts';
import type { EpochIntake } from './epoch-intake.ts';
import { noteWhole } from './kept-journal.ts';

/**
 * Opens a generation of that id behind what is applied, which is the answer. The link is over, and no run is open.
 * @throws BlockferryError METADATA_WRITE_FAILED: it is a mirror as before; VOLUME_FAILED
 */
export async function promoteAbove(
  volume: Volume,
  intake: EpochIntake,
  id: string,
): Promise<TimedPosition> {
  const { metadata, snapshots } = volume;
  await dropForks(volume);
  const { generations, generation, position, source } = metadata.state;
  const held = intake.applied;
  assert(held !== null && position !== null && source !== null, 'a mirror that holds something');
  const records = (layer: number): MetadataRecord[] => {
    const recorded = metadata.state.position;
    assert(recorded !== null, 'a position stays');
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
  const undo = (): MetadataRecord[] => {
    intake.takeBack();
    return [
      { kind: 'journal-released' },
      { kind: 'history-set', generations },
      { kind: 'source-bound', ...source },
      { kind: 'position', ...position },
    ];
  };
  await volume.exclusive(() => beginAbove(snapshots, { records, undo }));
  noteWhole(volume);
  return held;
}
