/**
 * A merge changes nothing that anybody can see: not at any step, not to a reader who remembers where a block was, and
 * not after a power cut or a kill at any moment, from which it goes on to the end.
 * Method: random trees of layers on a memory disk; before and after each piece of work of the disk every snapshot and
 * the head are compared with what they showed in the beginning. A failure prints the seed of its history.
 */
import { describe, expect, test } from 'vitest';
import { mergeable } from '../../src/volume/layers/layer-tree.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import {
  World,
  buildWorld,
  difference,
  readBlock,
  seeded,
  turns,
  until,
} from './support/merge-world.ts';
import type { LayerPlan, Shown, WorldPlan } from './support/merge-world.ts';

/** Where runs begin: ends of regions, and of what is copied at once. */
const STARTS = [0, 1, 5, 40, 61, 255, 257, 700, 1020, 1023, 1024, 1027, 1500, 2040, 2048, 2051];
const SIZES = [1024, 1030, 1600, 2048, 2055, 2100];
const SEEDS = Array.from({ length: 120 }, (_, seed) => seed + 1);

type Chance = () => number;
const pick = <Item>(chance: Chance, items: readonly Item[]): Item =>
  items[Math.floor(chance() * items.length)]!;

function randomRuns(chance: Chance, most: number): [number, number][] {
  return Array.from({ length: Math.floor(chance() * (most + 1)) }, () => [
    pick(chance, STARTS),
    chance() < 0.05 ? 300 : 1 + Math.floor(chance() * 6),
  ]);
}

function randomPlan(chance: Chance): WorldPlan {
  const count = 3 + Math.floor(chance() * 4);
  const layers: LayerPlan[] = [];
  for (let place = 0; place < count; place += 1) {
    const named = layers.flatMap(({ names }, at) => (names === undefined ? [] : [at]));
    const restored = named.length > 0 && chance() < 0.25;
    layers.push({
      ...(restored ? { parent: pick(chance, named) } : {}),
      ...(chance() < 0.3 ? { size: pick(chance, SIZES) } : {}),
      ...(place < count - 1 && chance() < 0.35 ? { names: [`s${place}`] } : {}),
      data: randomRuns(chance, 7),
      zero: randomRuns(chance, 4),
    });
  }
  return { size: pick(chance, SIZES), layers };
}

/** The blocks where something may go wrong. */
const BLOCKS = [
  ...new Set(
    [...STARTS, ...SIZES].flatMap((at) => [-1, 0, 1, 3, 6].map((by) => Math.max(0, at + by))),
  ),
  100,
  400,
  555,
];

/** One life of the disk: merges go on, watched at each step, until `steps` pieces of work of the disk were done. */
async function live(world: World, before: Shown, steps: number): Promise<boolean> {
  const disk = world.disk as MemoryDisk;
  const owners = world.owners(BLOCKS);
  let left = steps;
  const look = (): void => {
    const wrong = difference(BLOCKS, before, world.shown(BLOCKS));
    if (wrong !== null) throw new Error(`${wrong.name} shows something else at ${wrong.block}`);
    for (const [name, files] of owners) {
      for (const [index, file] of files.entries()) {
        const expected = before.get(name)![index]!;
        if (file === null || readBlock(file, BLOCKS[index]!).equals(expected)) continue;
        throw new Error(`a reader of ${name} lost block ${BLOCKS[index]!}`);
      }
    }
  };
  let failure: unknown = null;
  disk.later = (_kind, _path, _position, run): void => {
    setImmediate(() => {
      if (left === 0) return;
      left -= 1;
      try {
        run();
        look();
      } catch (thrown) {
        failure = thrown;
      }
    });
  };
  world.collect();
  world.merger.kick();
  world.clock.hurry = true;
  const ended = (): boolean => world.merger.status.state === 'idle' && !world.metadata.committing;
  await until(() => failure !== null || left === 0 || ended());
  if (failure !== null) throw failure;
  // What was on its way comes to where it waits for the disk.
  await turns(3);
  look();
  world.checkMaps();
  return left > 0 && ended();
}

async function history(seed: number): Promise<number> {
  const chance = seeded(seed);
  let disk = new MemoryDisk();
  await buildWorld(disk, randomPlan(chance));
  let world = new World(disk, { ownMaps: chance() < 0.5 });
  const before = world.shown(BLOCKS);
  let merges = 0;
  const gentle = chance() < 0.3;
  for (let life = 0; life < 40; life += 1) {
    if (gentle) world.hostInFlight = 1;
    const ended = await live(world, before, life === 39 ? Infinity : Math.floor(chance() * 40));
    merges += world.mergedPairs.length;
    if (ended) break;
    const survive = chance();
    const killed = chance() < 0.3;
    disk = killed ? disk.kill() : disk.crash(() => chance() < survive);
    world = new World(disk, {
      ownMaps: chance() < 0.5,
      ...(chance() < 0.2 ? { compactBytes: 512 } : {}),
    });
    const wrong = difference(BLOCKS, before, world.shown(BLOCKS));
    if (wrong !== null) throw new Error(`after the cut ${wrong.name} differs at ${wrong.block}`);
  }
  expect(mergeable(world.metadata.state)).toEqual([]);
  expect(disk.list('/volume').filter((name) => name.endsWith('.data')).length).toBe(
    world.metadata.state.layers.size,
  );
  return merges;
}

describe('while layers merge', () => {
  test('nobody sees a difference, through power cuts and kills', async () => {
    let merges = 0;
    for (const seed of SEEDS) {
      try {
        merges += await history(seed);
      } catch (thrown) {
        throw new Error(`seed ${seed}: ${String(thrown)}`, { cause: thrown });
      }
    }
    // The histories are about something.
    expect(merges).toBeGreaterThan(SEEDS.length / 2);
  });
});
