/**
 * A snapshot that its primary refreshes: the mirror has the new one at once, in the order of the writes, and the old one again when the
 * primary could not record the new one, or forgot it in a crash. Method: the commands of a primary to the snapshots of a mirror's volume
 * on a disk in memory, with another content before each; what is there is read.
 */
import { expect, test } from 'vitest';
import { PrimarySnapshots } from '../../../src/replicator/intake/primary-snapshots.ts';
import type { Volume } from '../../../src/volume/volume.ts';
import { answered, requestOf, write } from '../../volume/support/request.ts';
import { newVolume, reopen, type Fixture } from '../../volume/support/store.ts';

const BLOCK = 4096;
const [OLD, NEW, THIRD] = ['a', 'b', 'c'].map((digit) => digit.repeat(32)) as [
  string,
  string,
  string,
];

class World {
  epoch = 0;
  snapshots: PrimarySnapshots;
  fixture: Fixture;
  volume: Volume;

  constructor(fixture: Fixture) {
    this.fixture = fixture;
    this.volume = fixture.volume;
    this.volume.metadata.append({ kind: 'source-bound', node: 'p', volumeId: null });
    this.snapshots = new PrimarySnapshots({ volume: this.volume, tell: () => {} });
  }

  /** Content of its own, then the snapshot. */
  async take(id: string, replaces: string | null): Promise<void> {
    this.epoch += 1;
    expect(await write(this.volume, 0, Buffer.alloc(BLOCK, id))).toBe(0);
    const position = { generation: 1, epoch: this.epoch, time: 1 };
    const command = { kind: 'snapshot-create', id, name: 's', createdAt: 1, replaces } as const;
    expect(await this.snapshots.run(command, position)).toBeNull();
  }

  async delete(id: string): Promise<void> {
    this.epoch += 1;
    const position = { generation: 1, epoch: this.epoch, time: 1 };
    expect(await this.snapshots.run({ kind: 'snapshot-delete', id }, position)).toBeNull();
  }

  /** Its process is killed, and begins anew. */
  again(): void {
    const { volume } = reopen(this.fixture.disk.kill());
    this.volume = volume;
    this.snapshots = new PrimarySnapshots({ volume, tell: () => {} });
  }

  /** Ids, and the digit that their content is made of. */
  async shown(): Promise<[string, string][]> {
    const shown: [string, string][] = [];
    for (const { id, name } of this.volume.snapshots.list()) {
      const device = this.volume.snapshots.device(name)!;
      const request = requestOf({ offset: 0, length: BLOCK });
      expect(await answered(request, (asked) => device.read(asked))).toBe(0);
      shown.push([id, request.bytes.toString('latin1', 0, 1)]);
    }
    return shown;
  }

  get hidden(): readonly string[] {
    return this.volume.snapshots.hidden;
  }
}

async function refreshed(): Promise<World> {
  const world = new World(await newVolume(2 ** 20));
  await world.take(OLD, null);
  await world.take(NEW, OLD);
  expect(await world.shown()).toEqual([[NEW, 'b']]);
  return world;
}

test('the old one goes when the primary recorded the new one', async () => {
  const world = await refreshed();
  await world.delete(OLD);
  expect(await world.shown()).toEqual([[NEW, 'b']]);
  expect(world.hidden).toEqual([]);
  await world.delete(NEW);
  expect(await world.shown()).toEqual([]);
});

test('the old one is there again when the primary could not keep the new one', async () => {
  const world = await refreshed();
  await world.delete(NEW);
  expect(await world.shown()).toEqual([[OLD, 'a']]);
  expect(world.hidden).toEqual([]);
});

test.each([false, true])(
  'the old one is there again when a primary forgot the new one (the mirror too was killed: %s)',
  async (killed) => {
    const world = await refreshed();
    if (killed) world.again();
    expect(await world.snapshots.compare([OLD])).toEqual({ held: [OLD], refused: null });
    expect(await world.shown()).toEqual([[OLD, 'a']]);
    expect(world.hidden).toEqual([]);
  },
);

test('both go, or the old one alone, as the primary has them when it asks', async () => {
  const one = await refreshed();
  expect(await one.snapshots.compare([NEW])).toEqual({ held: [NEW], refused: null });
  expect(await one.shown()).toEqual([[NEW, 'b']]);
  expect(one.hidden).toEqual([]);
  const other = await refreshed();
  expect(await other.snapshots.compare([])).toEqual({ held: [], refused: null });
  expect([...(await other.shown()), ...other.hidden]).toEqual([]);
});

test('the old one is not given up while the policy keeps the new one, which the primary forgot', async () => {
  const world = await refreshed();
  world.volume.metadata.append({ kind: 'source-policy', refuses: ['snapshot-delete'] });
  expect((await world.snapshots.compare([OLD])).refused).toMatch(/policy/);
  expect(world.hidden.length).toBe(1);
});

test('of several refreshes only the last is in doubt', async () => {
  const world = await refreshed();
  await world.take(THIRD, NEW);
  expect(world.hidden.length).toBe(1);
  await world.delete(THIRD);
  expect(await world.shown()).toEqual([[NEW, 'b']]);
  expect(world.hidden).toEqual([]);
});
