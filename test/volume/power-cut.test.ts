/**
 * After a power cut every sector holds what the last acknowledged flush made durable, or something written since.
 * Method: random writes, zeroes and flushes with a cut at a random moment, where the disk keeps any part of what was
 * not synced; checked against a list of allowed contents for each sector, in several lives of the same disk.
 */
import * as fc from 'fast-check';
import { describe, test } from 'vitest';
import type { MemoryDisk } from './support/memory-disk.ts';
import { newVolume, reopen, turn } from './support/store.ts';
import { flush, read, write, zero } from './support/request.ts';

const SECTOR = 512;
const SECTORS = 256;
const SIZE = SECTOR * SECTORS;

const step = fc.record({
  kind: fc.constantFrom('write', 'write', 'zero', 'flush', 'turn'),
  first: fc.nat(SECTORS - 1),
  count: fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 100 })),
});

/** For each sector the tags that it may hold; the last is the newest. */
type Allowed = Set<number>[];

const FILLED = Array.from({ length: 256 }, (_, tag) => Buffer.alloc(SECTOR, tag));
function filled(tag: number): Buffer {
  return FILLED[tag]!;
}

describe('after a power cut', () => {
  test('every sector is as flushed, or newer', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(step, { maxLength: 15 }), { minLength: 1, maxLength: 4 }),
        fc.infiniteStream(fc.boolean()),
        async (lives, coin) => {
          const created = await newVolume(SIZE);
          let disk: MemoryDisk = created.disk;
          let volume = created.volume;
          let tag = 0;
          let allowed: Allowed = Array.from({ length: SECTORS }, () => new Set([0]));
          for (const steps of lives) {
            const running: Promise<unknown>[] = [];
            for (const each of steps) {
              const count = Math.min(each.count, SECTORS - each.first);
              const range = { offset: each.first * SECTOR, length: count * SECTOR };
              if (each.kind === 'flush') {
                // What is still in flight may land on either side of the flush.
                const pending = await Promise.race([Promise.all(running), turn().then(() => null)]);
                const newest = allowed.map((tags) => new Set([[...tags].at(-1)!]));
                const status = flush(volume);
                if (pending === null) await status;
                else if ((await status) === 0) allowed = newest;
              } else if (each.kind === 'turn') {
                await turn();
              } else {
                tag = (tag % 250) + 1;
                const value = each.kind === 'zero' ? 0 : tag;
                for (let sector = each.first; sector < each.first + count; sector += 1) {
                  allowed[sector]!.delete(value);
                  allowed[sector]!.add(value);
                }
                const change =
                  each.kind === 'zero'
                    ? zero(volume, range)
                    : write(volume, range.offset, Buffer.alloc(range.length, tag));
                running.push(change);
              }
            }
            disk = disk.crash(() => coin.next().value);
            volume = reopen(disk).volume;
            const content = await read(volume, 0, SIZE);
            allowed = allowed.map((tags, sector) => {
              const bytes = content.subarray(sector * SECTOR, (sector + 1) * SECTOR);
              const found = bytes[0]!;
              if (!bytes.equals(filled(found))) {
                throw new Error(`sector ${sector} is torn`);
              }
              if (!tags.has(found)) {
                throw new Error(`sector ${sector} holds ${found}, not one of ${[...tags].join()}`);
              }
              return new Set([found]);
            });
          }
        },
      ),
      { numRuns: 400 },
    );
  });
});
