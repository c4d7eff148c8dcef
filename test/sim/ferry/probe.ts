/** What a mirror would be if it ended now: a copy of its disk is opened by the code itself, and read. */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import { SecondaryVolume } from '../../../src/replicator/intake/secondary.ts';
import type { LinkPosition } from '../../../src/replicator/link/messages.ts';
import { VolumeStore } from '../../../src/volume/store.ts';
import { answered } from '../../volume/support/request.ts';
import { filler } from '../arena.ts';
import { Wrong, wrongUnless } from '../failure.ts';
import type { Platter } from '../platter.ts';
import { SimDisk, type DiskTraits } from '../sim-disk.ts';
import { said } from '../scheduler.ts';
import { VOLUME } from './mirror-node.ts';
import { readOf, simExaminer } from './requests.ts';
import { Process, World } from './world.ts';

const STEPS_MAX = 20_000;

export interface Found {
  readonly position: LinkPosition | null;
  readonly bytes: Buffer;
}

/** Opens what is on `platter` as the node of a mirror does, and says what it serves. */
export async function openedOn(
  platter: Platter,
  { traits, journalFileBytes, dice }: { traits: DiskTraits; journalFileBytes: number; dice: Dice },
): Promise<Found> {
  const world = new World(dice);
  const process = new Process(world);
  platter.pagesMax = Infinity;
  const disk = new SimDisk(platter, traits, process, dice);
  const random = { fraction: () => 0, bytes: filler };
  const store = VolumeStore.open({ disk, clock: process, random, path: '/data' });
  const [damaged] = store.damaged;
  if (damaged !== undefined) throw new Wrong(`a copy of it does not open: ${damaged.reason}`);
  const volume = store.find(VOLUME)!;
  const errors: string[] = [];
  const secondary = new SecondaryVolume({
    volume,
    disk,
    clock: process,
    random,
    examiner: simExaminer,
    events: {
      emit: ({ kind, message }) => {
        if (kind === 'source-failed') errors.push(message);
      },
    },
    node: 'copy',
    journalFileBytes,
  });
  secondary.start();
  const request = readOf({ offset: 0, length: volume.sizeBytes });
  const answer: { status: number | null } = { status: null };
  const read = async (): Promise<void> => {
    answer.status = await answered(request, (asked) => secondary.read(asked));
  };
  void read();
  await said();
  for (let count = 0; answer.status === null; count += 1) {
    wrongUnless(count < STEPS_MAX && world.step(), 'a copy of it never answers a read');
    await said();
  }
  wrongUnless(answer.status === 0, `a copy of it cannot be read: ${errors.join(' ')}`);
  const held = secondary.intake.durable;
  process.abandon();
  return {
    position: held === null ? null : { generation: held.generation, epoch: held.epoch },
    bytes: request.bytes,
  };
}
