/**
 * A mirror is promoted while much of what it holds is in its journal alone, and takes writes at once; its process is killed, or its
 * machine loses power, at every step of that, and again while the next process takes up what is left. Method: a mirror on the
 * simulator's disk, ended at each ninth disk call, others each day. What is read afterwards is the promoted epoch with the new writes over
 * it, block by block: none that was flushed is missing, and none of the epochs that the mirror acknowledged.
 */
import { describe, expect, test } from 'vitest';
import { Dice } from '../../../scripts/fuzz/dice.ts';
import { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import type { Network } from '../../../src/io/network.ts';
import { inlineExaminer } from '../../../src/workers/examiner.ts';
import { answered, requestOf } from '../../volume/support/request.ts';
import { SECTOR } from '../../sim/sectors.ts';
import { ENOSPC } from '../../sim/sim-disk.ts';
import { BLOCK, blockOf } from './support/copy-model.ts';
import { MirrorWorld } from './support/mirror-world.ts';

type Ending = 'kill' | 'cut';

const BLOCKS = 24;
const SECTORS = (BLOCKS * BLOCK) / SECTOR;
const EPOCHS = 12;
const OWN_WRITES = 14;
const STRIDE = 9;
const TODAY = Math.floor(Date.now() / 86_400_000);

/** What a host wrote to the promoted volume: of each sector its values in their order, and which of them a flush covered. */
class OwnWrites {
  readonly values: number[][] = Array.from({ length: SECTORS }, () => []);
  /** Of each sector, how many of its values were written when the last flush that was answered began; and were answered. */
  flushed: number[] = Array.from({ length: SECTORS }, () => 0);
  readonly answered: number[] = Array.from({ length: SECTORS }, () => 0);

  /**
   * Blocks that hold what they must not after that ending. What was not flushed may be there in part: sectors are what a disk
   * writes whole.
   */
  wrongIn(content: Buffer, under: Buffer, how: Ending): number[] {
    const wrong = new Set<number>();
    for (let start = 0; start < content.length; start += SECTOR) {
      const block = Math.floor(start / BLOCK);
      const sector = start / SECTOR;
      const found = content.subarray(start, start + SECTOR);
      const least = (how === 'kill' ? this.answered : this.flushed)[sector]!;
      const tags = this.values[sector]!.slice(Math.max(0, least - 1));
      const inBlock = start % BLOCK;
      const isKnown =
        tags.some((tag) => found.equals(blockOf(tag).subarray(inBlock, inBlock + SECTOR))) ||
        (least === 0 && found.equals(under.subarray(start, start + SECTOR)));
      if (!isKnown) wrong.add(block);
    }
    return [...wrong];
  }
}

class Promoted {
  readonly world: MirrorWorld;
  own = new OwnWrites();
  /** What is below them; null: the epoch that was promoted. */
  private under: Buffer | null = null;
  readonly dice: Dice;
  device: ReplicatedVolume | null = null;
  /** The command was answered. */
  told = false;
  /** Epochs that the mirror had acknowledged as durable. */
  acknowledged = 0;
  private tag = 0;

  constructor(seed: number) {
    this.world = new MirrorWorld(seed, BLOCKS);
    this.dice = new Dice(seed, 77);
  }

  /** A mirror in the stream, and epochs on their way to it, the last of them in part. */
  async prepare(snapshot: boolean): Promise<void> {
    const { world } = this;
    await world.create();
    world.model.write();
    await world.run((await world.connect())!);
    if (snapshot) {
      // The layer that the epochs go to lies above another one.
      const made = world.mirror!.volume.snapshots.create('before');
      await world.done(made, 'a snapshot');
    }
    world.link!.control({ kind: 'stream-begin', generation: 1, after: world.model.last });
    await world.until('the stream', () => world.mirror!.sourceStatus().state === 'streaming');
    for (let count = 0; count < EPOCHS; count += 1) {
      world.model.write();
      world.sendEpoch(world.model.last);
      for (let steps = this.dice.below(12); steps > 0; steps -= 1) await world.step();
    }
    for (let left = this.dice.below(6); world.link!.queued > left;) world.link!.deliver();
  }

  /** What the node does: the promotion, and the device that takes its place. Null: the process ended. */
  async promote(): Promise<void> {
    const { world } = this;
    const mirror = world.mirror!;
    this.acknowledged = world.link!.acknowledged;
    const promotion = await world.done(
      mirror.promote({ force: true, keptAs: null }),
      'the promotion',
    );
    if (promotion === null) return;
    this.told = true;
    await world.done(mirror.close(), 'the end of the mirror');
    if (world.disk.ended !== null) return;
    this.host();
  }

  /** A volume that takes writes, in whatever state it is. */
  host(): void {
    const { world } = this;
    this.device = new ReplicatedVolume({
      node: 'two',
      volume: world.store!.find('m')!,
      clock: world.scheduler,
      random: world.random(),
      network: {} as Network,
      examiner: inlineExaminer,
      events: { emit: () => {} },
      disk: world.disk,
    });
    this.device.start();
  }

  /** A host writes, zeroes and flushes; several at a time. */
  async write(): Promise<void> {
    const { world, dice } = this;
    for (let count = 0; count < OWN_WRITES && world.disk.ended === null; count += 1) {
      if (dice.chance(20)) this.flush();
      else this.change();
      for (let steps = dice.below(8); steps > 0; steps -= 1) await world.step();
    }
  }

  private change(): void {
    const { own, dice, device, world } = this;
    const { disk } = world;
    // Half of them are whole blocks; of the others what they leave of a block is copied up.
    const unit = dice.chance(50) ? BLOCK / SECTOR : 1;
    const first = dice.below(SECTORS / unit) * unit;
    const count = Math.min(SECTORS - first, dice.between(1, 3) * unit);
    this.tag += 1;
    const tag = dice.chance(75) ? (this.tag + 5000) * 65_536 + 3 : 0;
    const whole = Buffer.concat(Array.from({ length: BLOCKS }, () => blockOf(tag)));
    const bytes = whole.subarray(first * SECTOR, (first + count) * SECTOR);
    const request = requestOf({ offset: first * SECTOR, length: bytes.length }, bytes);
    const places: number[] = [];
    for (let sector = first; sector < first + count; sector += 1) {
      own.values[sector]!.push(tag);
      places.push(own.values[sector]!.length);
    }
    const call = tag === 0 ? 'zero' : 'write';
    void (async () => {
      const status = await answered(request, (asked) => device![call](asked));
      if (status !== 0 || disk.ended !== null) return;
      for (const [index, place] of places.entries()) {
        own.answered[first + index] = Math.max(own.answered[first + index]!, place);
      }
    })();
  }

  private flush(): void {
    const { own, device, world } = this;
    const { disk } = world;
    const covered = [...own.answered];
    const request = requestOf({ offset: 0, length: 0 });
    void (async () => {
      const status = await answered(request, (asked) => device!.flush(asked));
      if (status !== 0 || disk.ended !== null) return;
      own.flushed = own.flushed.map((before, sector) => Math.max(before, covered[sector]!));
    })();
  }

  /** The next process; false: its volume is a mirror as before. `how`: the one before it ends now, and so. */
  reopen(how: Ending | null = null): boolean {
    this.device = null;
    if (how !== null) this.world.disk.endNow(how);
    this.world.begin();
    if (this.world.mirror !== null) return false;
    this.host();
    return true;
  }

  async content(): Promise<Buffer | null> {
    const request = requestOf({ offset: 0, length: BLOCKS * BLOCK });
    const status = await this.world.done(
      answered(request, (asked) => this.device!.read(asked)),
      'a read',
    );
    if (status === null) return null;
    expect(status).toBe(0);
    return request.bytes;
  }

  get epoch(): number {
    const { generations } = this.world.store!.find('m')!.metadata.state;
    return generations.at(-1)!.firstEpoch - 1;
  }

  /** After its process ended that way. What is there now stays. */
  expectSound(content: Buffer, how: Ending): void {
    const { epoch, world, own } = this;
    const { knowsExtents, knowsBoot, grain } = world.traits;
    // Where that is not known, what was not recorded counts as lost after a kill too.
    const isKept = how === 'kill' && knowsExtents && knowsBoot && grain === 1;
    expect(epoch).toBeGreaterThanOrEqual(this.acknowledged);
    const promoted = Buffer.concat([...world.model.states[epoch]!].map(blockOf));
    const wrong = own.wrongIn(content, this.under ?? promoted, isKept ? 'kill' : 'cut');
    expect(wrong, `blocks of epoch ${epoch}`).toEqual([]);
    this.under = content;
    this.own = new OwnWrites();
  }
}

/** Ends the first process at disk call `calls`. True: it came to that. */
async function play(
  seed: number,
  { how, calls, snapshot }: { how: Ending; calls: number; snapshot: boolean },
): Promise<boolean> {
  const promoted = new Promoted(seed);
  const { world } = promoted;
  await promoted.prepare(snapshot);
  world.disk.endAfter(how, calls);
  await promoted.promote();
  if (promoted.device !== null && world.disk.ended === null) await promoted.write();
  const came = world.disk.ended !== null;
  if (!came) world.disk.endNow(how);
  let last = world.disk.ended!;
  // The next one ends as well, at some moment, and is ended the other way.
  let isOpen = promoted.reopen();
  if (!isOpen) {
    expect(promoted.told).toBe(false);
    const content = await world.content();
    const epoch = world.mirror!.position().epoch;
    expect(epoch).toBeGreaterThanOrEqual(promoted.acknowledged);
    expect(world.model.isAt(epoch, content!)).toBe(true);
    return came;
  }
  for (let ends = promoted.dice.below(3); ends > 0 && isOpen; ends -= 1) {
    world.disk.endAfter(promoted.dice.pick(['kill', 'cut']), promoted.dice.below(40));
    for (let steps = promoted.dice.below(60); steps > 0; steps -= 1) await world.step();
    world.disk.endNow('kill');
    if (world.disk.ended === 'cut') last = 'cut';
    isOpen = promoted.reopen();
  }
  expect(isOpen).toBe(true);
  const content = await promoted.content();
  promoted.expectSound(content!, last);
  // It goes on as any volume, and a later end loses nothing of the old.
  await promoted.write();
  await world.until('the release', () => world.store!.find('m')!.metadata.state.kept === null);
  world.disk.endNow('cut');
  promoted.reopen();
  const later = await promoted.content();
  promoted.expectSound(later!, 'cut');
  return came;
}

/** A mirror that was promoted a moment ago, and its journal is part of it in part only. */
async function promotedAndNotUsed(): Promise<Promoted> {
  const promoted = new Promoted(5);
  const { world } = promoted;
  await promoted.prepare(false);
  const mirror = world.mirror!;
  await world.done(mirror.promote({ force: true, keptAs: null }), 'the promotion');
  await world.done(mirror.close(), 'the end of the mirror');
  return promoted;
}

const CASES = [
  { seed: 1, how: 'kill', snapshot: false },
  { seed: 2, how: 'cut', snapshot: false },
  { seed: 3, how: 'cut', snapshot: true },
  { seed: 4, how: 'kill', snapshot: true },
] as const;

describe('a promotion with a journal that is not part of the volume yet', () => {
  test.each(CASES)(
    'loses nothing at any step: seed $seed, $how, layers below: $snapshot',
    { timeout: 120_000 },
    async ({ seed, how, snapshot }) => {
      let calls = TODAY % STRIDE;
      for (; await play(seed, { how, calls, snapshot }); calls += STRIDE);
      expect(calls).toBeGreaterThan(40);
    },
  );

  test('waits for no sync that is under way, and is followed by no word of the mirror', async () => {
    const promoted = new Promoted(5);
    const { world } = promoted;
    await promoted.prepare(false);
    const { intake, volume } = world.mirror!;
    await world.until(
      'all',
      () => intake.received > 1 && intake.applied?.epoch === intake.received,
    );
    const flushed = volume.flushed.bind(volume);
    const syncs: (() => void)[] = [];
    const held = async (): Promise<number> => {
      await new Promise<void>((resolve) => syncs.push(resolve));
      return await flushed();
    };
    Object.assign(volume, { flushed: held });
    const checkpoint = intake.checkpoint();
    Object.assign(volume, { flushed });
    await promoted.promote();
    expect(promoted.told).toBe(true);
    for (const end of syncs) end();
    expect(await world.done(checkpoint, 'the late sync')).toBe(0);
    expect(volume.metadata.state).toMatchObject({ source: null, position: null });
  });

  test('that finds no space is taken back to what was recorded meanwhile', async () => {
    const promoted = new Promoted(5);
    const { world } = promoted;
    await promoted.prepare(false);
    const mirror = world.mirror!;
    const { intake, volume } = mirror;
    await world.until(
      'all',
      () => intake.received > 1 && intake.applied?.epoch === intake.received,
    );
    const last = intake.received;
    const { layers } = volume;
    const prepare = layers.prepare.bind(layers);
    const commit = volume.commit.bind(volume);
    const whileRecorded = async (): ReturnType<typeof prepare> => {
      expect(volume.metadata.state.position!.epoch).toBeLessThan(last);
      expect(await intake.checkpoint()).toBe(0);
      Object.assign(volume, { commit: () => Promise.resolve(ENOSPC) });
      return await prepare();
    };
    Object.assign(layers, { prepare: whileRecorded });
    const promotion = world.done(mirror.promote({ force: true, keptAs: null }), 'the promotion');
    await expect(promotion).rejects.toMatchObject({ code: 'METADATA_WRITE_FAILED' });
    Object.assign(layers, { prepare });
    Object.assign(volume, { commit });
    // Behind it the journal may forget: a position before it would ask for what is there no more.
    expect(volume.metadata.state.position!.epoch).toBe(last);
    expect(volume.metadata.state).toMatchObject({ source: { node: 'one' }, kept: null });
  });

  test('is put aside by an end before it is taken up, with what its mirrors lack', async () => {
    const promoted = await promotedAndNotUsed();
    const { world } = promoted;
    const { metadata } = world.store!.find('m')!;
    const { nextMirrorId: mirror } = metadata.state;
    const uri = 'nbd://127.0.0.1:10999/m';
    metadata.append({ kind: 'mirror-added', mirror, uri, mode: 'async', stallPolicy: 'degrade' });
    metadata.append({ kind: 'regions-hot', regions: [0] });
    await world.done(new Promise((resolve) => metadata.commit(resolve)), 'the mirror');
    expect(promoted.reopen('kill')).toBe(true);
    const { device } = promoted;
    await expect(device!.resize(BLOCK)).rejects.toThrow(/journal/);
    await world.done(device!.close(), 'the end');
    const { state } = world.store!.find('m')!.metadata;
    expect([...state.hot]).toEqual([0]);
  });

  test('leaves no more layers than any crash does when it is taken up', async () => {
    const promoted = await promotedAndNotUsed();
    const { world } = promoted;
    world.disk.endNow('kill');
    world.begin();
    // What a volume tidies up when it is opened comes too early.
    for (let turn = 0; turn < 10; turn += 1) await world.step();
    promoted.host();
    const { metadata } = world.store!.find('m')!;
    await world.until('it is taken up', () => metadata.state.kept === null);
    await world.until('the merge', () => metadata.state.layers.size <= 2);
  });
});
