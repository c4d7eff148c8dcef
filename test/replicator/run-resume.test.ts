/**
 * A run from a real volume: host writes while it is under way do not appear in it, and after a loss of the link, a kill or a
 * power cut of the primary it goes on and ends with the frozen content; the run after it brings the present one. Method: the
 * model of a mirror, a volume on a disk in memory with whole-block writes, and only what a log would have kept of the marks.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Status } from '../../src/io/device.ts';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import { frozenSource, type FrozenSource } from '../../src/replicator/runs/frozen-source.ts';
import { PeerRun } from '../../src/replicator/runs/peer-run.ts';
import { resumeBlocks } from '../../src/replicator/runs/run-resume.ts';
import { BlockSet } from '../../src/volume/maps/block-set.ts';
import type { Volume } from '../../src/volume/volume.ts';
import { inlineExaminer } from '../../src/workers/examiner.ts';
import type { MemoryDisk } from '../volume/support/memory-disk.ts';
import { flush, read, write, zero } from '../volume/support/request.ts';
import { newVolume, reopen } from '../volume/support/store.ts';
import { seeded } from './support/host.ts';
import { MemoryLink, ModelClock, ModelMirror, type Tags } from './support/run-model.ts';

const BLOCKS = 700;
const SNAPSHOT = '.ferry-1';

interface Primary {
  readonly volume: Volume;
  readonly disk: MemoryDisk;
  readonly store: { close(): Promise<void> };
}

interface Marks {
  dirty: BlockSet;
  inFlight: BlockSet;
  suspect: BlockSet;
}

function noMarks(): Marks {
  const [dirty, inFlight, suspect] = [0, 1, 2].map(() => new BlockSet(BLOCKS));
  return { dirty: dirty!, inFlight: inFlight!, suspect: suspect! };
}

async function contentOf(volume: Volume): Promise<Tags> {
  const bytes = await read(volume, 0, BLOCKS * BLOCK_BYTES);
  return Uint8Array.from({ length: BLOCKS }, (_, block) => bytes[block * BLOCK_BYTES]!);
}

/** One change of the host, marked when it was applied. */
async function change(volume: Volume, marks: Marks, random: () => number): Promise<void> {
  const first = Math.floor(random() * BLOCKS);
  const count = Math.min(BLOCKS - first, 1 + Math.floor(random() ** 4 * 60));
  const range = { offset: first * BLOCK_BYTES, length: count * BLOCK_BYTES };
  if (random() < 0.3) await zero(volume, range);
  else {
    const payload = Buffer.alloc(range.length);
    for (let block = 0; block < count; block += 1) {
      const tag = 1 + Math.floor(random() * 200);
      payload.fill(tag, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    }
    await write(volume, range.offset, payload);
  }
  marks.dirty.add(first, count);
}

async function changes(volume: Volume, marks: Marks, random: () => number): Promise<void> {
  const count = Math.floor(random() * 25);
  for (let index = 0; index < count; index += 1) await change(volume, marks, random);
  if (random() < 0.5) await flush(volume);
}

/** The moment of a run: its content, in full. */
async function freeze(volume: Volume, marks: Marks): Promise<Tags> {
  await volume.snapshots.freeze(SNAPSHOT, () => {
    marks.inFlight.addSet(marks.dirty);
    marks.dirty.clear();
  });
  return contentOf(volume);
}

function sourceOf(volume: Volume): FrozenSource {
  return frozenSource(volume.snapshots.device(SNAPSHOT)!);
}

interface Attempt {
  readonly mirror: ModelMirror;
  readonly volume: Volume;
  readonly marks: Marks;
  readonly random: () => number;
  readonly breakAt?: number;
  readonly id?: string;
}

function begin({ mirror, volume, marks, random, breakAt, id = 'a' }: Attempt): PeerRun {
  const clock = new ModelClock();
  const options = { mirror, random, clock, messageMs: 400 };
  const link = new MemoryLink(breakAt === undefined ? options : { ...options, breakAt });
  const run = new PeerRun({
    link,
    clock,
    source: sourceOf(volume),
    blocks: marks,
    examiner: inlineExaminer,
    limiter: null,
    run: {
      number: 1,
      run: id.repeat(32),
      generation: 1,
      epoch: 1,
      time: 0,
      generations: [],
      full: false,
      resumed: mirror.run?.id === id.repeat(32),
      groups: true,
    },
    hooks: { compared: () => {}, durable: () => {} },
  });
  link.talk = run;
  return run;
}

async function settled(volume: Volume, marks: Marks): Promise<void> {
  marks.inFlight.clear();
  await volume.snapshots.discard(SNAPSHOT);
}

/** What a log has after a restart: one set of marks, and what was hot as suspects. */
function logged(marks: Marks, random: () => number): Marks {
  const after = noMarks();
  after.dirty.addSet(marks.inFlight);
  for (let block = 0; block < BLOCKS; block += 1) {
    if (!marks.dirty.has(block)) continue;
    if (random() < 0.5) after.dirty.add(block, 1);
    else after.suspect.add(block, 1);
  }
  after.suspect.addSet(marks.suspect);
  return after;
}

const INTERRUPTIONS = ['link', 'kill', 'power cut'] as const;
type Interruption = (typeof INTERRUPTIONS)[number];

/** The primary and its marks after an interruption. */
async function interrupted(
  primary: Primary,
  marks: Marks,
  how: Interruption,
  random: () => number,
): Promise<{ primary: Primary; marks: Marks }> {
  if (how === 'link') return { primary, marks };
  const disk = how === 'kill' ? primary.disk.kill() : primary.disk.crash(() => random() < 0.5);
  return { primary: { ...reopen(disk), disk }, marks: logged(marks, random) };
}

describe('a run from a volume', () => {
  it('brings the content of its moment, whatever the host writes meanwhile', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), async (seed) => {
        const random = seeded(seed);
        const { volume, store } = await newVolume(BLOCKS * BLOCK_BYTES);
        const mirror = new ModelMirror(new Uint8Array(BLOCKS));
        const marks = noMarks();
        for (let round = 0; round < 3; round += 1) {
          await changes(volume, marks, random);
          const frozen = await freeze(volume, marks);
          const progress = { over: false };
          const running = begin({ mirror, volume, marks, random, id: `${round}` }).run();
          void running.finally(() => {
            progress.over = true;
          });
          while (!progress.over) {
            await change(volume, marks, random);
            await new Promise((next) => setImmediate(next));
          }
          await running;
          expect(mirror.faults).toEqual([]);
          expect(Buffer.compare(mirror.base, frozen)).toBe(0);
          await settled(volume, marks);
        }
        await store.close();
      }),
      { numRuns: 12, seed: 1 },
    );
  });

  it('goes on after a loss, and the next one brings what changed since', async () => {
    let resumed = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.integer(),
        fc.constantFrom(...INTERRUPTIONS),
        fc.nat({ max: 12 }),
        async (seed, how, breakAt) => {
          const random = seeded(seed);
          let primary: Primary = await newVolume(BLOCKS * BLOCK_BYTES);
          let marks = noMarks();
          // The mirror has an older content, and some of it is only suspected to be another.
          await changes(primary.volume, marks, random);
          const mirror = new ModelMirror(await contentOf(primary.volume));
          marks = noMarks();
          await changes(primary.volume, marks, random);
          for (let block = 0; block < BLOCKS; block += 1) {
            if (random() < 0.2) marks.suspect.add(block, 1);
            if (marks.dirty.has(block) && random() < 0.2) {
              marks.dirty.remove(block, 1);
              marks.suspect.add(block, 1);
            }
          }
          const frozen = await freeze(primary.volume, marks);
          // Of the comparison nothing is recorded before the restart.
          const before = marks.suspect.clone();
          const first = begin({ mirror, volume: primary.volume, marks, random, breakAt });
          const outcome = first.run().catch(() => null);
          await changes(primary.volume, marks, random);
          await outcome;
          if (how !== 'link') marks.suspect.addSet(before);
          await flush(primary.volume);
          await changes(primary.volume, marks, random);
          ({ primary, marks } = await interrupted(primary, marks, how, random));
          const { volume } = primary;
          if (mirror.run !== null) {
            resumed += 1;
            resumeBlocks(marks, volume.snapshots.changed(SNAPSHOT, null));
            await begin({ mirror, volume, marks, random }).run();
          } else if (mirror.position === null) {
            marks.inFlight.addSet(marks.dirty);
            marks.dirty.clear();
            for (const { offset, length } of volume.snapshots.changed(SNAPSHOT, null)) {
              marks.dirty.add(offset / BLOCK_BYTES, length / BLOCK_BYTES);
            }
            await begin({ mirror, volume, marks, random }).run();
          }
          expect(mirror.faults).toEqual([]);
          expect(Buffer.compare(mirror.base, frozen)).toBe(0);
          await settled(volume, marks);
          const present = await freeze(volume, marks);
          await begin({ mirror, volume, marks, random, id: 'b' }).run();
          expect(Buffer.compare(mirror.base, present)).toBe(0);
          await primary.store.close();
        },
      ),
      { numRuns: 50, seed: 2 },
    );
    // Else nothing was shown.
    expect(resumed).toBeGreaterThan(20);
  });
});

describe('the sets of a run that is taken up again', () => {
  it('are what was marked, and what changed since', () => {
    const marks = noMarks();
    marks.dirty.add(10, 5);
    marks.inFlight.add(100, 5);
    const changed = [
      { offset: 12 * BLOCK_BYTES, length: 2 * BLOCK_BYTES },
      { offset: (BLOCKS - 1) * BLOCK_BYTES, length: 9 * BLOCK_BYTES },
      { offset: (BLOCKS + 5) * BLOCK_BYTES, length: BLOCK_BYTES },
    ];
    resumeBlocks(marks, changed);
    expect(marks.inFlight.count).toBe(10);
    expect([marks.inFlight.has(14), marks.inFlight.has(104)]).toEqual([true, true]);
    expect(marks.dirty.count).toBe(3);
    expect([marks.dirty.has(12), marks.dirty.has(BLOCKS - 1)]).toEqual([true, true]);
  });
});

describe('frozen content', () => {
  it('tells data from holes, and answers an error when its snapshot is gone', async () => {
    const { volume, store } = await newVolume(BLOCKS * BLOCK_BYTES);
    await write(volume, 5 * BLOCK_BYTES, Buffer.alloc(2 * BLOCK_BYTES, 9));
    await volume.snapshots.freeze(SNAPSHOT, () => {});
    const source = sourceOf(volume);
    await write(volume, 5 * BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, 1));
    const end = BLOCKS * BLOCK_BYTES;
    expect(source.sizeBytes).toBe(end);
    expect(source.runAt(0, end)).toEqual({ end: 5 * BLOCK_BYTES, zero: true });
    expect(source.runAt(5 * BLOCK_BYTES, end)).toEqual({ end: 7 * BLOCK_BYTES, zero: false });
    const buffer = Buffer.alloc(2 * BLOCK_BYTES, 0xee);
    const readAgain = (): Promise<number> =>
      new Promise((resolve) => {
        source.read(buffer, BLOCK_BYTES, BLOCK_BYTES, 5 * BLOCK_BYTES, resolve);
      });
    expect(await readAgain()).toBe(Status.OK);
    expect([buffer[BLOCK_BYTES - 1], buffer[BLOCK_BYTES]]).toEqual([0xee, 9]);
    await volume.snapshots.discard(SNAPSHOT);
    expect(await readAgain()).toBe(Status.ESHUTDOWN);
    await store.close();
  });
});
