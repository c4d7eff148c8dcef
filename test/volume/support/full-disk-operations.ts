/** Every operation on a layered volume, as it is done on a disk that may be full, and what it does to the content. */
import { expect } from 'vitest';
import type { Volume } from '../../../src/volume/volume.ts';
import { BLOCK, SIZE } from './full-disk.ts';
import type { Model, World } from './full-disk.ts';
import { answered, flush, requestOf, write, zero } from './request.ts';

/** What is done on the full disk. */
export interface Operation {
  readonly name: string;
  /** Before the disk is full. */
  readonly before?: (world: World) => Promise<void>;
  /** Does it; throws when it fails. */
  readonly run: (world: World) => Promise<void>;
  /** What it does when it succeeds. */
  readonly effect: (model: Model) => void;
  /** One that failed may have done a part of it: a write. Any other has done nothing. */
  readonly partial?: boolean;
  /** What it did before it failed is known by its record alone, which is not durable: a kill takes it back. */
  readonly undone?: boolean;
  readonly compactBytes?: number;
}

export class Refused extends Error {}

export function need(status: number): void {
  if (status !== 0) throw new Refused(String(status));
}

const bytes = (length: number): Buffer => Buffer.alloc(length, 9);
const to9 =
  (offset: number, length: number) =>
  ({ head }: Model): void =>
    void head.fill(9, offset, offset + length);
const to0 =
  (offset: number, length: number) =>
  ({ head }: Model): void =>
    void head.fill(0, offset, offset + length);

function writing(name: string, offset: number, length: number): Operation {
  return {
    name,
    run: async ({ volume }) => need(await write(volume, offset, bytes(length))),
    effect: to9(offset, length),
    partial: true,
  };
}

function zeroing(name: string, offset: number, length: number, noHole = false): Operation {
  return {
    name,
    run: async ({ volume }) => need(await zero(volume, { offset, length }, noHole)),
    effect: to0(offset, length),
    partial: true,
    undone: true,
  };
}

function command(
  name: string,
  run: (snapshots: Volume['snapshots'], volume: Volume) => Promise<unknown>,
  effect: (model: Model) => void,
): Operation {
  return { name, run: async ({ volume }) => void (await run(volume.snapshots, volume)), effect };
}

/** Makes writes go to the pool: they wait for the first, which does. */
async function behindZeroes(world: World, change: () => Promise<number>): Promise<void> {
  const { volume } = world;
  const range = { offset: 40 * BLOCK, length: BLOCK };
  const earlier = answered(requestOf(range), (request) => volume.zero(request));
  const status = await change();
  need((await earlier) || status);
}

export const OPERATIONS: Operation[] = [
  writing('a write of whole blocks over lower layers', 18 * BLOCK, 6 * BLOCK),
  writing('a write of whole blocks over nothing', 33 * BLOCK, 6 * BLOCK),
  writing('a write over blocks of the top', 10 * BLOCK, 3 * BLOCK),
  writing('a write that begins and ends within blocks', 16 * BLOCK + 100, 5 * BLOCK + 300),
  writing('a write within a block', 17 * BLOCK + 512, 512),
  {
    name: 'a write on the pool',
    run: (world) => behindZeroes(world, () => write(world.volume, 39 * BLOCK, bytes(4 * BLOCK))),
    effect: to9(39 * BLOCK, 4 * BLOCK),
    partial: true,
  },
  zeroing('zeroes over lower layers', 18 * BLOCK, 8 * BLOCK),
  zeroing('zeroes over blocks of the top and of others', 9 * BLOCK, 4 * BLOCK),
  zeroing('zeroes that begin and end within blocks', 17 * BLOCK + 100, 4 * BLOCK),
  zeroing('zeroes that are provisioned', 16 * BLOCK, 8 * BLOCK, true),
  {
    name: 'a write and a flush',
    run: async ({ volume }) => {
      need(await write(volume, 20 * BLOCK, bytes(8 * BLOCK)));
      need(await flush(volume));
    },
    effect: to9(20 * BLOCK, 8 * BLOCK),
    partial: true,
  },
  {
    name: 'a flush that compacts the log',
    compactBytes: 2 * BLOCK,
    before: async ({ volume }) => {
      while (volume.metadata.durableBytes < 2 * BLOCK - 200) {
        volume.metadata.append({ kind: 'regions-hot', regions: [0] });
        need(await volume.commit());
      }
    },
    run: async ({ volume }) => {
      for (let index = 0; index < 8; index += 1) {
        need(await write(volume, (20 + index) * BLOCK, bytes(BLOCK)));
        need(await flush(volume));
      }
    },
    effect: to9(20 * BLOCK, 8 * BLOCK),
    partial: true,
  },
  command(
    'a snapshot',
    (snapshots) => snapshots.create('new'),
    ({ head, snapshots }) => void snapshots.set('new', Buffer.from(head)),
  ),
  {
    name: 'a snapshot of what is not flushed',
    before: async (world) => {
      await world.put(20, 4, 5);
      await world.put(44, 2, 6);
    },
    run: async ({ volume }) => void (await volume.snapshots.create('new')),
    effect: ({ head, snapshots }) => void snapshots.set('new', Buffer.from(head)),
  },
  command(
    'a copy of a snapshot',
    (snapshots) => snapshots.copy('lower', 'copy'),
    ({ snapshots }) => void snapshots.set('copy', snapshots.get('lower')!),
  ),
  command(
    'a refresh',
    (snapshots) => snapshots.refresh('lower'),
    ({ head, snapshots }) => void snapshots.set('lower', Buffer.from(head)),
  ),
  command(
    'to synchronise two snapshots',
    (snapshots) => snapshots.synchronise('upper', 'lower'),
    ({ snapshots }) => void snapshots.set('lower', snapshots.get('upper')!),
  ),
  command(
    'to delete a snapshot',
    (snapshots) => snapshots.delete('upper'),
    ({ snapshots }) => void snapshots.delete('upper'),
  ),
  command(
    'to restore a snapshot',
    (snapshots) => snapshots.restore('lower'),
    (model) => void (model.head = Buffer.from(model.snapshots.get('lower')!)),
  ),
  command(
    'to restore a range',
    (snapshots) => snapshots.restoreRange('lower', 4 * BLOCK, 14 * BLOCK),
    ({ head, snapshots }) =>
      void snapshots.get('lower')!.copy(head, 4 * BLOCK, 4 * BLOCK, 18 * BLOCK),
  ),
  {
    name: 'a merge upwards',
    before: async (world) => {
      await world.put(0, 20, 7);
      await world.snapshot('last');
      await world.volume.snapshots.delete('upper');
      world.model.snapshots.delete('upper');
    },
    run: merge,
    effect: () => {},
  },
  {
    name: 'a merge downwards',
    before: async (world) => {
      await world.volume.snapshots.delete('lower');
      world.model.snapshots.delete('lower');
    },
    run: merge,
    effect: () => {},
  },
  command(
    'to grow',
    (_, volume) => volume.resize(2 * SIZE),
    (model) => void (model.head = Buffer.concat([model.head, Buffer.alloc(SIZE)])),
  ),
  command(
    'to shrink',
    (_, volume) => volume.resize(20 * BLOCK),
    (model) => void (model.head = model.head.subarray(0, 20 * BLOCK)),
  ),
  {
    name: 'to close and open again',
    before: async (world) => {
      await world.put(20, 4, 5);
      await world.clear(12, 1);
    },
    run: async (world) => {
      await world.volume.close();
      world.reopen();
    },
    effect: () => {},
  },
];

async function merge(world: World): Promise<void> {
  world.volume.snapshots.resumeMerge();
  await world.settled();
  const { state, reason } = world.volume.snapshots.merge;
  world.volume.snapshots.pauseMerge();
  if (state === 'failed') throw new Refused(reason ?? '');
  expect(state).toBe('idle');
}
