/**
 * The oracle against a model of the thing it judges: a disk with a write cache that loses power at a
 * random moment under random concurrent requests. Whatever the model leaves must be accepted. Then one
 * fault is put into the image (a flushed block set back to an earlier version, a torn sector, a foreign
 * byte) and must be refused; each fault is one that the rules can see in that history.
 */
import { expect, test } from 'vitest';
import { seededRandom, type SeededRandom } from '../../scripts/drill/random.ts';
import { Scope } from '../support/scope.ts';
import { History, type MadeRequest } from './history.ts';

const SECTOR = 512;
const SECTORS = 256;
const STEPS = 400;
const ROUNDS = 25;

/** Per sector: what is durable, and what the cache may still add, in order of application. */
class CachedDisk {
  readonly durable: Buffer[] = Array.from({ length: SECTORS }, () => Buffer.alloc(SECTOR));
  readonly cached: Buffer[][] = Array.from({ length: SECTORS }, () => []);

  apply(request: MadeRequest): void {
    for (let at = 0; at < request.length; at += SECTOR) {
      const sector = (request.offset + at) / SECTOR;
      this.cached[sector]!.push(request.content.subarray(at, at + SECTOR));
    }
  }

  flush(): void {
    for (const [sector, versions] of this.cached.entries()) {
      const last = versions.at(-1);
      if (last !== undefined) this.durable[sector] = last;
      versions.length = 0;
    }
  }

  /** Power is lost: of each sector any of the cached versions made it, or none. */
  crash(random: SeededRandom, image: Buffer): void {
    const chance = random.fraction();
    for (let sector = 0; sector < SECTORS; sector++) {
      const versions = this.cached[sector]!;
      const survivor =
        random.fraction() < chance ? versions[random.below(versions.length + 1)] : undefined;
      (survivor ?? this.durable[sector]!).copy(image, sector * SECTOR);
    }
  }
}

interface Played {
  readonly history: History;
  readonly disk: CachedDisk;
  /** For faults: sectors with the durable content they had one flush before the last, if it changed. */
  readonly outdated: Map<number, Buffer>;
}

function play(random: SeededRandom, scope: Scope): Played {
  const history = new History(scope.tempDir('bf-oracle-'), SECTORS * SECTOR);
  scope.defer('close the log', () => history.close());
  const disk = new CachedDisk();
  const open: { request: MadeRequest; applied: boolean }[] = [];
  const outdated = new Map<number, Buffer>();
  const unit = random.fraction() < 0.5 ? SECTOR : 4096;
  for (let step = 0; step < STEPS; step++) {
    const action = random.fraction();
    if (action < 0.5) {
      const units = (SECTORS * SECTOR) / unit;
      const first = random.below(units);
      const count = 1 + random.below(Math.min(8, units - first));
      const content = random.bytes(count * unit);
      const request = history.issueWrite(first * unit, count * unit, { content });
      open.push({ request, applied: false });
    } else if (action < 0.9) {
      const [entry] = open.splice(random.below(open.length), 1);
      if (entry === undefined) continue;
      if (!entry.applied) disk.apply(entry.request);
      history.answer(entry.request);
    } else if (action < 0.95) {
      const entry = open[random.below(open.length)];
      if (entry === undefined || entry.applied) continue;
      disk.apply(entry.request);
      entry.applied = true;
    } else {
      const flush = history.issueFlush();
      const before = disk.durable.map((content) => content);
      disk.flush();
      history.answer(flush);
      // Nothing is in flight at this flush: what it covers is beyond doubt.
      if (open.length > 0) continue;
      outdated.clear();
      for (const [sector, content] of disk.durable.entries()) {
        if (!content.equals(before[sector]!)) outdated.set(sector, before[sector]!);
      }
    }
  }
  return { history, disk, outdated };
}

test('what a disk with a write cache leaves is accepted', async () => {
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const scope = new Scope();
    const random = seededRandom(seed);
    const { history, disk } = play(random, scope);
    disk.crash(random, history.image);
    const verdict = history.judge('async');
    expect(verdict.violations, `seed ${seed}`).toEqual([]);
    await scope.close();
  }
});

test('one byte changed anywhere is refused', async () => {
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const scope = new Scope();
    const random = seededRandom(seed);
    const { history, disk } = play(random, scope);
    disk.crash(random, history.image);
    const position = random.below(history.image.length);
    history.image[position] = (history.image[position]! + 1 + random.below(255)) % 256;
    expect(history.judge('async').ok, `seed ${seed}`).toBe(false);
    await scope.close();
  }
});

test('one flushed sector set back is refused when anything later survived', async () => {
  let shown = 0;
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const scope = new Scope();
    const random = seededRandom(seed);
    const { history, disk, outdated } = play(random, scope);
    // Play on from a flush with nothing in flight, so that the fault is beyond doubt.
    disk.flush();
    history.flush();
    const survivor = history.write(0, 4096, { content: random.bytes(4096) });
    disk.apply(survivor);
    disk.flush();
    disk.crash(random, history.image);
    expect(history.judge('async').ok, `seed ${seed}`).toBe(true);
    for (const [sector, content] of outdated) {
      if (sector < 8 || disk.durable[sector]!.equals(content)) continue;
      content.copy(history.image, sector * SECTOR);
      expect(history.judge('async').ok, `seed ${seed}, sector ${sector}`).toBe(false);
      disk.durable[sector]!.copy(history.image, sector * SECTOR);
      if (++shown % 3 === 0) break;
    }
    await scope.close();
  }
  expect(shown).toBeGreaterThan(ROUNDS / 4);
});
