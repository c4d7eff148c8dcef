/**
 * A check finds no fault where there is none. Method: random histories of a volume with writes, zeroes, flushes, changes
 * of size, snapshots, restores and merges, on a disk that is sometimes full; at a random moment the volume is closed, or
 * killed, or the power goes, several times in the life of one disk. After each the directory is checked, and repaired, and
 * checked again.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import { checkDataDirectory } from '../../src/volume/check/check.ts';
import { systemRandom } from '../../src/io/random.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { findingsOf } from './support/check-world.ts';
import { MemoryDisk } from './support/memory-disk.ts';
import { flush, write, zero } from './support/request.ts';
import { openStore, turn } from './support/store.ts';

const BLOCKS = 48;
const SECTOR = 512;

const step = fc.record({
  kind: fc.constantFrom(
    ...(['write', 'write', 'write', 'zero', 'flush', 'turn', 'snapshot'] as const),
    ...(['delete', 'restore', 'range', 'resize', 'full', 'space'] as const),
  ),
  first: fc.nat(BLOCKS * 8 - 1),
  count: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 100 })),
  name: fc.constantFrom('a', 'b', 'c'),
});

type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never;

/** Begins a step. What it answers does not matter here: it may be refused, or fail on a full disk. */
function begin(
  volume: Volume,
  disk: MemoryDisk,
  { kind, first, count, name }: Step,
): Promise<unknown> {
  const { snapshots } = volume;
  const offset = first * SECTOR;
  const length = Math.min(count, BLOCKS * 8 - first) * SECTOR;
  const block = Math.floor(first / 8) * BLOCK_BYTES;
  switch (kind) {
    case 'write':
      return write(volume, offset, Buffer.alloc(length, 1 + (first % 250)));
    case 'zero':
      return zero(volume, { offset, length }, count % 3 === 0);
    case 'flush':
      return flush(volume);
    case 'turn':
      return turn();
    case 'snapshot':
      return snapshots.create(name);
    case 'delete':
      return snapshots.delete(name);
    case 'restore':
      return snapshots.restore(name);
    case 'range':
      return snapshots.restoreRange(name, block, BLOCK_BYTES);
    case 'resize':
      return volume.resize((BLOCKS - (first % 16)) * BLOCK_BYTES);
    case 'full':
      disk.pagesMax = disk.pagesUsed() + (first % 4);
      return turn();
    case 'space':
      disk.pagesMax = Number.POSITIVE_INFINITY;
      return turn();
  }
}

async function checked(disk: MemoryDisk, repair: boolean): Promise<string[]> {
  const options = {
    disk,
    clock: systemClock,
    random: systemRandom,
    path: '/data',
    volume: null,
    repair,
  };
  const report = await checkDataDirectory(options);
  return findingsOf(report)
    .filter(({ severity, code }) => severity !== 'info' && code !== 'data-missing')
    .map(({ code, what, place }) => `${code} ${JSON.stringify(place)} ${what}`);
}

/** What the pool had begun still ends, as in a real kernel; nothing more of the old process reaches the disk. */
async function killed(disk: MemoryDisk): Promise<MemoryDisk> {
  disk.holding = true;
  for (let turns = 0; turns < 4; turns += 1) await turn();
  return disk.kill();
}

describe('an undamaged volume', () => {
  test('has no fault, however it was left', async () => {
    let layers = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.tuple(
            fc.array(step, { maxLength: 20 }),
            fc.constantFrom('close', 'kill', 'cut'),
            fc.boolean(),
          ),
          {
            minLength: 1,
            maxLength: 4,
          },
        ),
        fc.infiniteStream(fc.boolean()),
        async (lives, coin) => {
          let disk = new MemoryDisk();
          let store = openStore(disk);
          let volume = await store.create('test', BLOCKS * BLOCK_BYTES);
          for (const [steps, end, repair] of lives) {
            const running: Promise<unknown>[] = [];
            for (const each of steps) {
              running.push(begin(volume, disk, each).catch(() => null));
              if (each.count % 2 === 0) await turn();
            }
            if (end === 'close') {
              await Promise.all(running);
              disk.pagesMax = Number.POSITIVE_INFINITY;
              await store.close();
              disk = disk.kill();
            } else {
              disk = end === 'kill' ? await killed(disk) : disk.crash(() => coin.next().value);
            }
            const directory = `/data/volumes/${volume.id}`;
            layers += disk.list(directory).filter((name) => name.endsWith('.data')).length - 1;
            expect(await checked(disk, false)).toEqual([]);
            expect(await checked(disk, repair)).toEqual([]);
            disk = disk.kill();
            store = openStore(disk);
            expect(store.damaged).toEqual([]);
            volume = store.find('test')!;
          }
        },
      ),
      { numRuns: Number(process.env['BLOCKFERRY_CHECK_RUNS'] ?? 60) },
    );
    // It was about layers that lie on each other.
    expect(layers).toBeGreaterThan(10);
  });
});
