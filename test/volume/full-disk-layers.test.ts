/**
 * A disk that fills up in the middle of any operation on a layered volume: the operation fails, or it is done; nothing else
 * changes, no snapshot, no block outside a write that failed; and with space again it is done. Method: a disk in memory
 * that has 0, 1, 2... more pages than it needs, up to where the operation finds enough, once with room in the log's last
 * page and once without. Then the process goes on, or is killed, or the power goes.
 */
import { describe, expect, test } from 'vitest';
import { BlockferryError } from '../../src/io/errors.ts';
import { expectSame, isMix, World } from './support/full-disk.ts';
import type { Model } from './support/full-disk.ts';
import { OPERATIONS, Refused } from './support/full-disk-operations.ts';
import type { Operation } from './support/full-disk-operations.ts';
import { flush } from './support/request.ts';

const PAGES_MAX = 80;

/** What a disk leaves of the page that finds no room, and whether the log's last page is full. */
const DISKS = [
  { leaves: 'nothing of the page that does not fit', partBytes: 0, fullLog: true },
  { leaves: 'a part of it, and room in the log', partBytes: 1024, fullLog: false },
] as const;
type FullDisk = (typeof DISKS)[number];

/** Does it; false when it was refused for want of space. */
async function attempt(operation: Operation, world: World): Promise<boolean> {
  try {
    await operation.run(world);
    return true;
  } catch (thrown) {
    if (thrown instanceof BlockferryError) expect(thrown.code).toBe('METADATA_WRITE_FAILED');
    else if (!(thrown instanceof Refused)) throw thrown;
    return false;
  }
}

async function prepared(operation: Operation, full: FullDisk): Promise<World> {
  const { compactBytes } = operation;
  const world = await World.create(compactBytes === undefined ? {} : { compactBytes });
  await operation.before?.(world);
  if (full.fullLog) await world.fillLog();
  world.disk.partBytes = full.partBytes;
  return world;
}

function after(operation: Operation, model: Model): Model {
  const changed = model.copy();
  operation.effect(changed);
  return changed;
}

/** The disk has `pages` left, and the operation is tried. What is there then; whether it wanted more. */
async function onFullDisk(operation: Operation, full: FullDisk, pages: number) {
  const world = await prepared(operation, full);
  const old = world.model;
  const done = after(operation, old);
  world.disk.refused = 0;
  world.leave(pages);
  const succeeded = await attempt(operation, world);
  await world.settled();
  expect(world.volume.failed).toBe(false);
  const found = await world.content();
  if (succeeded || operation.partial !== true) expectSame(found, succeeded ? done : old);
  else {
    expectSame(found.withHead(old.head), old);
    expect(isMix(found.head, old.head, done.head)).toBe(true);
  }
  return { world, old, done, found, succeeded, enough: world.disk.refused === 0 };
}

/** With space again everything works, and nothing takes more than it should. */
async function goOn(
  operation: Operation,
  world: World,
  done: Model,
  again: boolean,
): Promise<void> {
  world.addSpace();
  if (again) expect(await attempt(operation, world)).toBe(true);
  expectSame(await world.content(), done);
  world.model = done;
  await world.put(3, 2, 8);
  await world.clear(6, 1);
  await world.snapshot('end');
  await world.volume.snapshots.delete('end');
  world.model.snapshots.delete('end');
  world.volume.snapshots.resumeMerge();
  await world.settled();
  expect(await flush(world.volume)).toBe(0);
  expectSame(await world.content(), done);
  await world.volume.close();
  world.reopen();
  expect(world.volume.metadata.unclean).toBe(false);
  expectSame(await world.content(), done);
  world.expectAllocated();
}

/** Every number of pages up to the one that is enough. */
async function every(operation: Operation, run: (pages: number) => Promise<boolean>) {
  let pages = 0;
  while (!(await run(pages))) {
    pages += 1;
    expect(pages, operation.name).toBeLessThan(PAGES_MAX);
  }
}

/** Half of what was not synced. */
function dice(): () => boolean {
  let seed = 1;
  return () => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % 2 === 0;
  };
}

describe.each(DISKS)('a disk fills up and leaves $leaves', (full) => {
  test.each(OPERATIONS)('$name: goes on when there is space', async (operation) => {
    await every(operation, async (pages) => {
      const { world, done, succeeded, enough } = await onFullDisk(operation, full, pages);
      await goOn(operation, world, done, !succeeded);
      return enough;
    });
  });

  test.each(OPERATIONS)('$name: what is there is there after a kill', async (operation) => {
    await every(operation, async (pages) => {
      const tried = await onFullDisk(operation, full, pages);
      const { world, old, done, found, succeeded, enough } = tried;
      await world.kill();
      await world.settled();
      const left = await world.content();
      if (operation.undone === true && !succeeded) {
        expect(isMix(left.head, old.head, found.head)).toBe(true);
        left.head = found.head;
      }
      expectSame(left, found);
      world.volume.snapshots.pauseMerge();
      await goOn(operation, world, done, !succeeded);
      return enough;
    });
  });

  test.each(OPERATIONS)('$name: what was flushed outlasts a power cut', async (operation) => {
    const survives = dice();
    await every(operation, async (pages) => {
      const { world, found, enough } = await onFullDisk(operation, full, pages);
      const flushed = Buffer.alloc(found.head.length);
      world.flushed.copy(flushed);
      await world.cut(survives);
      await world.settled();
      const left = await world.content();
      expectSame(left.withHead(found.head), found);
      expect(isMix(left.head, flushed, found.head)).toBe(true);
      world.volume.snapshots.pauseMerge();
      return enough;
    });
  });
});
