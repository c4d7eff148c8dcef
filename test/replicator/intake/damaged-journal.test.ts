/**
 * A promoted volume whose process ended before its journal was part of it, and a bit of that journal flipped: it is held, not failed,
 * nothing of the journal is applied, and an operator gives it up. Method: a mirror on the simulator's disk, killed or cut off from
 * power, a bit flipped in a record in the middle; then the journal is given up with the machine ended at each third disk call of
 * that. Contents are compared sector by sector with what each epoch and each write of the host made of them.
 */
import { describe, expect, test } from 'vitest';
import { Dice } from '../../../scripts/fuzz/dice.ts';
import type { Network } from '../../../src/io/network.ts';
import { giveUpJournal, releaseJournal } from '../../../src/replicator/intake/kept-journal.ts';
import { RECORD_MAGIC } from '../../../src/replicator/intake/journal-codec.ts';
import { ReplicatedVolume } from '../../../src/replicator/replicated-volume.ts';
import type { BlockDevice } from '../../../src/io/device.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { inlineExaminer } from '../../../src/workers/examiner.ts';
import { SECTOR } from '../../sim/sectors.ts';
import { answered, requestOf } from '../../volume/support/request.ts';
import { BLOCK, blockOf, tagsOf } from './support/copy-model.ts';
import { MirrorWorld } from './support/mirror-world.ts';

type Ending = 'kill' | 'cut';

const BLOCKS = 24;
const EPOCHS = 12;
const STRIDE = 3;
/** Of a machine that tells a kill from a power cut. */
const GIVEN_UP_SEED = 8;
const URI = 'nbd://127.0.0.1:10999/m';

class Damaged {
  readonly world: MirrorWorld;
  readonly events: string[] = [];
  /** What the host wrote, by block; it must be there when a flush covered it. */
  readonly own = new Map<number, number>();
  private flushed = false;
  after = 0;
  last = 0;
  device: ReplicatedVolume | null = null;

  constructor(seed: number) {
    this.world = new MirrorWorld(seed, BLOCKS);
  }

  get volume(): Volume {
    return this.world.store!.find('m')!;
  }

  /** Promoted, with a mirror, and writes of a host behind it; then its process ends. */
  async prepare(how: Ending): Promise<void> {
    const { world } = this;
    const dice = new Dice(7, 7);
    await world.create();
    world.model.write();
    await world.run((await world.connect())!);
    world.link!.control({ kind: 'stream-begin', generation: 1, after: world.model.last });
    await world.until('the stream', () => world.mirror!.sourceStatus().state === 'streaming');
    for (let count = 0; count < EPOCHS; count += 1) {
      world.model.write();
      world.sendEpoch(world.model.last);
      for (let steps = dice.below(12); steps > 0; steps -= 1) await world.step();
      if (count === EPOCHS - 4) await world.done(this.volume.snapshots.create('s'), 'a snapshot');
    }
    while (world.link!.queued > 0) world.link!.deliver();
    await world.until('all', () => world.mirror!.intake.received === world.model.last);
    const mirror = world.mirror!;
    await world.done(mirror.promote({ force: true, keptAs: null }), 'the promotion');
    await world.done(mirror.close(), 'the end of the mirror');
    const { metadata } = this.volume;
    const { kept, nextMirrorId } = metadata.state;
    ({ after: this.after, last: this.last } = kept!);
    expect(this.last).toBeGreaterThan(this.after + 2);
    const added = {
      mirror: nextMirrorId,
      uri: URI,
      mode: 'async',
      stallPolicy: 'degrade',
    } as const;
    metadata.append({ kind: 'mirror-added', ...added });
    for (const block of [1, 5, 9]) {
      this.own.set(block, (block + 5000) * 65_536 + 3);
      const request = requestOf(
        { offset: block * BLOCK, length: BLOCK },
        blockOf(this.own.get(block)!),
      );
      expect(
        await world.done(
          answered(request, (asked) => this.volume.write(asked)),
          'a write',
        ),
      ).toBe(0);
    }
    expect(await world.done(this.volume.commit(), 'the mirror')).toBe(0);
    this.flushed = how === 'cut';
    // Without a flush what a kill leaves is in the page cache alone.
    if (this.flushed) expect(await world.done(this.volume.flushed(), 'a flush')).toBe(0);
    world.disk.endNow(how);
    world.begin();
    this.flip(Math.floor((this.after + this.last) / 2) + 1);
  }

  /** A bit of the record of that epoch. */
  private flip(epoch: number): void {
    const { disk } = this.world;
    let flipped = 0;
    for (const name of ['journal-a', 'journal-b']) {
      const path = `${this.volume.directory}/${name}`;
      if (!disk.exists(path)) continue;
      const file = disk.open(path, { create: false });
      const bytes = Buffer.alloc(1024 * 1024);
      file.readBlocking(bytes, 0, bytes.length, 0);
      for (let at = 4096; at + 64 <= bytes.length; at += 8) {
        if (bytes.readUInt32BE(at) !== RECORD_MAGIC || bytes.readUInt32BE(at + 20) !== epoch)
          continue;
        bytes[at + 52]! ^= 4;
        expect(file.writeNow(bytes, at, 64, at)).toBe(64);
        flipped += 1;
      }
      file.closeNow();
    }
    expect(flipped).toBeGreaterThan(0);
  }

  /** The node starts with the volume as it is. */
  async host(): Promise<void> {
    const { world } = this;
    this.device = new ReplicatedVolume({
      node: 'two',
      volume: this.volume,
      clock: world.scheduler,
      random: world.random(),
      network: {} as Network,
      examiner: inlineExaminer,
      events: { emit: ({ kind, message }) => void this.events.push(`${kind}: ${message}`) },
      disk: world.disk,
    });
    this.device.start();
    await world.until('the journal to be read', () => this.volume.unusable !== null);
  }

  async unhost(): Promise<void> {
    await this.world.done(this.device!.close(), 'the end');
    this.device = null;
  }

  /** Of the volume, or of its snapshot. */
  async content(device: Pick<BlockDevice, 'read'> = this.volume): Promise<Buffer> {
    const request = requestOf({ offset: 0, length: BLOCKS * BLOCK });
    const asked = answered(request, (each) => device.read(each));
    expect(await this.world.done(asked, 'a read')).toBe(0);
    return request.bytes;
  }

  /** What the host flushed is there; else each sector is that of one of the epochs. */
  expectKnown(content: Buffer): void {
    const { states } = this.world.model;
    const wrong = new Set<number>();
    for (let start = 0; start < content.length; start += SECTOR) {
      const block = Math.floor(start / BLOCK);
      const found = content.subarray(start, start + SECTOR);
      const own = this.own.get(block);
      const old = states.slice(this.after, this.last + 1).map((state) => state[block]!);
      const tags = own === undefined ? old : this.flushed ? [own] : [...old, own];
      const from = start % BLOCK;
      if (!tags.some((tag) => found.equals(blockOf(tag).subarray(from, from + SECTOR))))
        wrong.add(block);
    }
    expect([...wrong]).toEqual([]);
  }

  /** One of the epochs, whole. */
  expectState(content: Buffer): void {
    const { model } = this.world;
    expect(model.states.some((_, epoch) => model.isAt(epoch, tagsOf(content)))).toBe(true);
  }

  /** It was taken among the epochs that the journal holds. */
  snapshot(): Promise<Buffer> {
    return this.content(this.volume.snapshots.device('s')!);
  }

  get suspect(): number {
    const [mirror] = this.volume.metadata.state.mirrors.values();
    return mirror!.suspect.count;
  }
}

describe('a journal with a damaged record', () => {
  test('holds the volume, says why and what to do, and is not taken for a failed disk', async () => {
    const damaged = new Damaged(5);
    await damaged.prepare('kill');
    const before = await damaged.content();
    const layers = damaged.volume.metadata.state.layers.size;
    await damaged.host();
    const { device, volume, world, after, last } = damaged;
    const read = (): Promise<number> =>
      answered(requestOf({ offset: 0, length: BLOCK }), (asked) => device!.read(asked));
    expect(await world.done(read(), 'a read')).not.toBe(0);
    expect(volume.unusable).toMatchObject({ code: 'JOURNAL_UNUSABLE' });
    const text = volume.unusable!.message;
    expect(text).toContain(`epochs ${after + 1} to ${last} of generation 1`);
    expect(text).toContain('blockferry promote m --force');
    expect(damaged.events).toEqual([`journal-unusable: ${text}`]);
    const refused = [
      device!.resize(2 * BLOCKS * BLOCK),
      device!.removeMirror(URI),
      volume.snapshots.create('s'),
      releaseJournal(volume),
    ];
    for (const each of refused) await expect(each).rejects.toThrow(text);
    expect(volume.failed).toBe(false);
    // What could be read of it is older than what the system still has.
    expect(volume.metadata.state.layers.size).toBe(layers);
    expect((await damaged.content()).equals(before)).toBe(true);
    world.disk.endNow('kill');
    world.begin();
    await damaged.host();
    expect(damaged.volume.failed).toBe(false);
    expect(damaged.events).toHaveLength(2);
  });

  test.each(['kill', 'cut'] as const)(
    'is given up: what the layers have after a %s is there for good',
    async (how) => {
      const damaged = new Damaged(GIVEN_UP_SEED);
      // Else a kill leaves of the layers what a power cut does, also what an epoch makes zero before it writes there.
      expect(damaged.world.traits).toMatchObject({ knowsBoot: true, knowsExtents: true, grain: 1 });
      await damaged.prepare(how);
      await damaged.host();
      const { world, after, last } = damaged;
      await damaged.unhost();
      const before = await damaged.content();
      damaged.expectKnown(before);
      expect(damaged.suspect).toBe(0);
      const lost = await world.done(giveUpJournal(damaged.volume), 'giving it up');
      expect(lost).toEqual({ generation: 1, first: after + 1, last });
      expect(await world.done(giveUpJournal(damaged.volume), 'once more')).toBe(null);
      expect(damaged.volume.unusable).toBe(null);
      // The snapshot, what came since, and the top. What a kill left is durable without that.
      const merged = (): boolean => damaged.volume.metadata.state.layers.size <= 3;
      if (how === 'cut') await world.until('the merge', merged);
      world.disk.endNow('cut');
      world.begin();
      expect(damaged.volume.metadata.state.kept).toBe(null);
      expect(damaged.suspect).toBe(BLOCKS);
      expect((await damaged.content()).equals(before)).toBe(true);
    },
  );

  test('is kept or given up, wherever that ends', { timeout: 120_000 }, async () => {
    const outcomes = { kept: 0, givenUp: 0 };
    for (let calls = 0, came = true; came; calls += STRIDE) {
      const damaged = new Damaged(7);
      await damaged.prepare('cut');
      await damaged.host();
      await damaged.unhost();
      const { world } = damaged;
      world.disk.endAfter(calls % 2 === 0 ? 'kill' : 'cut', calls);
      await world.done(giveUpJournal(damaged.volume), 'giving it up');
      came = world.disk.ended !== null;
      world.disk.endNow('kill');
      world.begin();
      if (damaged.volume.metadata.state.kept === null) {
        outcomes.givenUp += 1;
      } else {
        outcomes.kept += 1;
        expect(damaged.suspect).toBe(0);
        await damaged.host();
        await damaged.unhost();
        await world.done(giveUpJournal(damaged.volume), 'giving it up again');
      }
      expect(damaged.suspect).toBe(BLOCKS);
      damaged.expectKnown(await damaged.content());
    }
    expect(outcomes.kept).toBeGreaterThan(1);
    expect(outcomes.givenUp).toBeGreaterThan(0);
  });
});
