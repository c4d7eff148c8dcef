/** What a mirror would be if it ended now: a copy of its disk is opened by the code itself, and read. */
import type { Dice } from '../../../scripts/fuzz/dice.ts';
import { SecondaryVolume } from '../../../src/replicator/intake/secondary.ts';
import type { LinkPosition } from '../../../src/replicator/link/messages.ts';
import { VolumeStore } from '../../../src/volume/store.ts';
import { answered, type TestRequest } from '../../volume/support/request.ts';
import { filler } from '../arena.ts';
import { Wrong, wrongUnless } from '../failure.ts';
import type { Platter } from '../platter.ts';
import { SimDisk, type DiskTraits } from '../sim-disk.ts';
import { said } from '../scheduler.ts';
import { VOLUME } from './mirror-node.ts';
import { readOf, simExaminer } from './requests.ts';
import type { FoundSnapshot } from './snapshots.ts';
import { Process, World } from './world.ts';

interface Readable {
  read(request: TestRequest): number;
}

const STEPS_MAX = 20_000;

export interface Found {
  readonly position: LinkPosition | null;
  readonly bytes: Buffer;
  readonly snapshots: readonly FoundSnapshot[];
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
  const until = async (ready: () => boolean, what: string): Promise<void> => {
    await said();
    for (let count = 0; !ready(); count += 1) {
      wrongUnless(count < STEPS_MAX && world.step(), `a copy of it never ${what}`);
      await said();
    }
  };
  const readAll = async (device: Readable): Promise<Buffer> => {
    const request = readOf({ offset: 0, length: volume.sizeBytes });
    const answer: { status: number | null } = { status: null };
    void answered(request, (asked) => device.read(asked)).then(
      (status) => (answer.status = status),
    );
    await until(() => answer.status !== null, 'answers a read');
    wrongUnless(answer.status === 0, `a copy of it cannot be read: ${errors.join(' ')}`);
    return request.bytes;
  };
  const bytes = await readAll(secondary);
  const { intake } = secondary;
  await until(() => intake.applied?.epoch === intake.durable?.epoch, 'applies its journal');
  const snapshots: FoundSnapshot[] = [];
  for (const { id, name } of volume.snapshots.list()) {
    snapshots.push({ id, name, bytes: await readAll(volume.snapshots.device(name)!) });
  }
  const held = intake.durable;
  process.abandon();
  return {
    position: held === null ? null : { generation: held.generation, epoch: held.epoch },
    bytes,
    snapshots,
  };
}
