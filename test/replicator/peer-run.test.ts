/**
 * A delta run gives a mirror the frozen content, whole or not at all. Method: the production run against a small model of
 * a mirror over a link that reorders frames, random contents and sets of dirty and suspect blocks, and a link that breaks at
 * each message in turn, with the mirror's power: what was not flushed there is then old, new or torn.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES, RUN_BUFFERS_MAX } from '../../src/io/limits.ts';
import { RunAborted, RunFailed } from '../../src/replicator/runs/delta-run.ts';
import { FrameKind } from '../../src/replicator/link/link-types.ts';
import type { ControlMessage } from '../../src/replicator/link/messages.ts';
import { PeerRun, type PeerRunParameters } from '../../src/replicator/runs/peer-run.ts';
import { COMPARE_TWIN } from '../../src/replicator/runs/run-frames.ts';
import type { RunLimiter } from '../../src/replicator/runs/run-pace.ts';
import { BlockSet } from '../../src/volume/maps/block-set.ts';
import { inlineExaminer, type Examiner } from '../../src/workers/examiner.ts';
import { seeded } from './support/host.ts';
import {
  MemoryLink,
  ModelClock,
  ModelMirror,
  TagSource,
  type SourceOptions,
  type Tags,
} from './support/run-model.ts';

const GENERATIONS = [{ number: 1, id: 'a'.repeat(32), firstEpoch: 1 }];

interface Blocks {
  inFlight: BlockSet;
  suspect: BlockSet;
}

interface Case {
  readonly frozen: Tags;
  readonly mirror: ModelMirror;
  readonly blocks: Blocks;
  readonly full: boolean;
  readonly random: () => number;
  readonly source?: Partial<SourceOptions>;
}

interface Life {
  readonly run: PeerRun;
  readonly link: MemoryLink;
  readonly clock: ModelClock;
  readonly source: TagSource;
  readonly durable: number[];
}

interface Attempt {
  readonly breakAt?: number;
  readonly messageMs?: number;
  readonly turns?: number;
  readonly limiter?: RunLimiter | null;
  readonly examiner?: Examiner;
  readonly parameters?: Partial<PeerRunParameters>;
}

function begin(state: Case, attempt: Attempt = {}): Life {
  const { mirror, random, blocks, full } = state;
  const { breakAt, messageMs, turns, limiter = null, parameters = {} } = attempt;
  const { examiner = inlineExaminer } = attempt;
  const clock = new ModelClock();
  const link = new MemoryLink({
    mirror,
    random,
    clock,
    ...(breakAt === undefined ? {} : { breakAt }),
    ...(messageMs === undefined ? {} : { messageMs }),
    ...(turns === undefined ? {} : { turns }),
  });
  const source = new TagSource(state.frozen, { random, ...state.source });
  const durable: number[] = [];
  const run = new PeerRun({
    link,
    clock,
    source,
    blocks,
    examiner,
    limiter,
    run: {
      number: 7,
      run: 'c'.repeat(32),
      generation: 1,
      epoch: 40,
      time: 99,
      generations: GENERATIONS,
      full,
      resumed: mirror.run !== null,
      groups: true,
      ...parameters,
    },
    hooks: { compared: () => {}, durable: (cursor) => durable.push(cursor) },
  });
  link.talk = run;
  return { run, link, clock, source, durable };
}

/** Contents with runs of equal blocks, as a volume has them. */
function randomTags(count: number, random: () => number): Tags {
  const tags = new Uint8Array(count);
  for (let at = 0; at < count;) {
    const length = 1 + Math.floor(random() ** 3 * 300);
    const tag = random() < 0.4 ? 0 : 1 + Math.floor(random() * 200);
    tags.fill(tag, at, Math.min(count, at + length));
    at += length;
  }
  return tags;
}

/** A mirror with some of the content; what it lacks is dirty, or suspect together with some of what it has. */
function randomCase(seed: number, count: number): Case {
  const random = seeded(seed);
  const frozen = randomTags(count, random);
  const base = frozen.slice();
  const blocks: Blocks = { inFlight: new BlockSet(count), suspect: new BlockSet(count) };
  const full = random() < 0.25;
  for (let at = 0; at < count;) {
    const length = Math.min(count - at, 1 + Math.floor(random() ** 3 * 200));
    const fate = random();
    if (full || fate < 0.4) {
      for (let block = at; block < at + length; block += 1) {
        if (random() < 0.7) base[block] = Math.floor(random() * 200);
      }
      if (fate < 0.2) blocks.inFlight.add(at, length);
      else blocks.suspect.add(at, length);
    } else if (fate < 0.6) blocks.suspect.add(at, length);
    else if (fate < 0.7) blocks.inFlight.add(at, length);
    at += length;
  }
  const mapped = new Set<number>();
  for (let block = 0; block < count; block += 1) if (random() < 0.2) mapped.add(block);
  return { frozen, mirror: new ModelMirror(base), blocks, full, random, source: { mapped } };
}

function dirtyCase(count: number, isDirty: (block: number) => boolean): Case {
  const frozen = Uint8Array.from({ length: count }, (_, block) => 1 + (block % 200));
  const base = frozen.slice();
  const blocks: Blocks = { inFlight: new BlockSet(count), suspect: new BlockSet(count) };
  for (let block = 0; block < count; block += 1) {
    if (!isDirty(block)) continue;
    base[block] = 0;
    blocks.inFlight.add(block, 1);
  }
  return { frozen, mirror: new ModelMirror(base), blocks, full: false, random: seeded(1) };
}

function blocksBelow(set: BlockSet, cursor: number): number {
  return set.clone().remove(0, cursor / BLOCK_BYTES);
}

/** Looks at a run whenever its link says that it takes more. */
function watch({ link, run }: Life, look: () => void): void {
  link.talk = {
    control: (message) => run.control(message),
    frame: (header, payload) => run.frame(header, payload),
    abort: () => run.abort(),
    drained: () => {
      look();
      run.drained();
    },
  };
}

function countedExaminer(): Examiner & { buffers: number } {
  const counted = {
    ...inlineExaminer,
    buffers: 0,
    allocate: (bytes: number): Buffer => {
      counted.buffers += 1;
      return inlineExaminer.allocate(bytes);
    },
  };
  return counted;
}

function expectFrozen({ mirror, frozen }: Case): void {
  expect(mirror.faults).toEqual([]);
  expect(mirror.wasted).toEqual([]);
  expect(mirror.run).toBeNull();
  expect(mirror.position).toEqual({ generation: 1, epoch: 40 });
  expect(Buffer.compare(mirror.base, frozen)).toBe(0);
}

describe('a delta run to a node', () => {
  it('gives the mirror the frozen content, whatever was dirty or suspect', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 1500 }), async (seed, count) => {
        const state = randomCase(seed, count);
        const { run, link, source } = begin(state);
        // What was marked when it began is marked until its owner settles it, and so is what was found to differ.
        const marked = Array.from({ length: count }, (_, block) => {
          const { inFlight, suspect } = state.blocks;
          const differs = state.mirror.base[block] !== state.frozen[block];
          return state.full || inFlight.has(block) || (suspect.has(block) && differs);
        });
        await run.run();
        expectFrozen(state);
        expect(state.blocks.suspect.count).toBe(0);
        expect(marked.map((_, block) => state.blocks.inFlight.has(block))).toEqual(marked);
        expect([run.remainingBytes, source.reading, link.payloadsHeld]).toEqual([0, 0, 0]);
      }),
      { numRuns: 60, seed: 3 },
    );
  });

  it('goes on after a loss at any message, and sends nothing again that the mirror has durably', async () => {
    // A comparison first, then frames of data and of zeroes with bookmarks between them.
    const count = 256 * 40;
    const make = (): Case => {
      const state = dirtyCase(count, (block) => block > 600);
      state.blocks.suspect.add(0, 600);
      state.frozen.fill(0, 100, 130);
      for (let block = 700; block < count; block += 50) state.frozen.fill(0, block, block + 20);
      return { ...state, source: { mapped: new Set([110, 111, 701, 1500]) } };
    };
    const whole = make();
    const { run, link } = begin(whole, { messageMs: 500 });
    await run.run();
    const needed = whole.mirror.blocksReceived;
    let fromBookmark = 0;
    for (let breakAt = 0; breakAt < link.messages; breakAt += 1) {
      const state = make();
      const first = begin(state, { breakAt, messageMs: 500 });
      const outcome = await first.run.run().catch((thrown: unknown) => thrown);
      if (state.mirror.position !== null) {
        // The break came between the commit and the answer: the position says so.
        expectFrozen(state);
        continue;
      }
      expect(outcome).toBeInstanceOf(RunAborted);
      expect(first.source.reading).toBe(0);
      const cursor = state.mirror.run?.cursor ?? 0;
      if (cursor > 0) fromBookmark += 1;
      expect(cursor).toBeGreaterThanOrEqual(first.durable.at(-1) ?? 0);
      const below = blocksBelow(state.blocks.inFlight, cursor);
      const received = state.mirror.blocksReceived;
      const second = begin(state);
      let most = 0;
      watch(second, () => {
        if (state.blocks.suspect.count === 0) most = Math.max(most, second.run.remainingBytes);
      });
      await second.run.run();
      expectFrozen(state);
      expect(state.mirror.blocksReceived - received).toBeLessThanOrEqual(needed - below);
      if (cursor > 0) expect(most).toBeLessThanOrEqual((needed - below) * BLOCK_BYTES);
    }
    expect(fromBookmark).toBeGreaterThan(10);
  }, 60_000);

  it('leaves what is suspect again below the bookmark to the next run', async () => {
    const state = dirtyCase(3000, () => true);
    const first = begin(state, { breakAt: 12, messageMs: 600 });
    await expect(first.run.run()).rejects.toBeInstanceOf(RunAborted);
    const { cursor } = state.mirror.run!;
    expect(cursor).toBeGreaterThan(0);
    state.blocks.suspect.add(cursor / BLOCK_BYTES - 5, 10);
    await begin(state).run.run();
    expectFrozen(state);
    expect(state.blocks.suspect.nextRun(0, 3000)).toEqual({
      first: cursor / BLOCK_BYTES - 5,
      count: 5,
    });
  });

  it('sets a bookmark about every second, one at a time', async () => {
    const state = dirtyCase(256 * 40, () => true);
    const { run, durable } = begin(state, { messageMs: 300 });
    await run.run();
    expectFrozen(state);
    expect(durable.length).toBeGreaterThan(2);
    expect(durable.length).toBeLessThan(20);
    expect(durable).toEqual(durable.toSorted((one, other) => one - other));
    const fast = dirtyCase(256 * 40, () => true);
    const quick = begin(fast, { messageMs: 0.1 });
    await quick.run.run();
    expect(quick.durable).toEqual([]);
  });

  it('takes up a run whose mirror began it anew, from the beginning', async () => {
    const state = dirtyCase(3000, () => true);
    const first = begin(state, { breakAt: 12, messageMs: 600 });
    await expect(first.run.run()).rejects.toBeInstanceOf(RunAborted);
    expect(state.mirror.run!.cursor).toBeGreaterThan(0);
    state.mirror.run = null;
    await begin(state, { parameters: { resumed: true } }).run.run();
    expectFrozen(state);
  });

  it('sends little more than the blocks that are dirty, many of them in a frame', async () => {
    const state = dirtyCase(100_000, (block) => block % 100 === 17);
    const { run, link, source } = begin(state);
    await run.run();
    expectFrozen(state);
    const dirtyBytes = 1000 * BLOCK_BYTES;
    expect(link.bytesSent).toBeLessThan(dirtyBytes * 1.02);
    expect(run.bytesSent).toBeLessThan(dirtyBytes * 1.02);
    expect(source.reads).toBe(1000);
    expect(link.messages).toBeLessThan(20);
  });

  it('sends zeroes as ranges, and in a full run not at all', async () => {
    const state = dirtyCase(4000, () => true);
    state.frozen.fill(0, 0, 3999);
    state.mirror.base.fill(9);
    const partial = begin(state);
    await partial.run.run();
    expectFrozen(state);
    expect(partial.link.bytesSent).toBeLessThan(3 * BLOCK_BYTES);

    const full = { ...dirtyCase(4000, () => false), full: true };
    full.frozen.fill(0, 0, 3999);
    full.mirror.base.fill(9);
    const mapped = new Set([5, 6, 7, 900]);
    const copy = begin({ ...full, source: { mapped } });
    await copy.run.run();
    expectFrozen(full);
    expect(full.mirror.blocksReceived).toBe(1);
    expect(copy.source.reads).toBe(3);
  });

  it('holds few buffers, however slow the link is', async () => {
    const state = dirtyCase(256 * 60, () => true);
    const counted = countedExaminer();
    const { run, link } = begin(state, { examiner: counted });
    await run.run();
    expectFrozen(state);
    expect(counted.buffers).toBeGreaterThan(1);
    expect(counted.buffers).toBeLessThanOrEqual(RUN_BUFFERS_MAX);
    expect(link.backlogMost).toBeLessThan(6 * 1024 * 1024);
  });

  it('holds few buffers also where each has a single block to send', async () => {
    // Holes that are to be sent, with a block of data after so many that a batch is over.
    const state = dirtyCase(20 * 1000 * 30, (block) => block % 20 === 0);
    for (let block = 0; block < state.frozen.length; block += 1) {
      if (block % 20_000 !== 0) state.frozen[block] = 0;
      if (block % 20 === 0) state.mirror.base[block] = 3;
      else state.mirror.base[block] = state.frozen[block]!;
    }
    const counted = countedExaminer();
    const { run } = begin(state, { examiner: counted, turns: 40 });
    await run.run();
    expectFrozen(state);
    expect(counted.buffers).toBe(RUN_BUFFERS_MAX);
  });

  it('keeps to a limit, also one that is changed while it waits', async () => {
    const state = dirtyCase(256 * 8, () => true);
    let debt = 0;
    let paidAt = 0;
    const asks: number[] = [];
    const { run, clock } = begin(state, {
      messageMs: 0,
      limiter: {
        take: (bytes) => {
          const rate = clock.time < 3000 ? 10 : 1000;
          debt = Math.max(0, debt - rate * (clock.time - paidAt)) + bytes;
          paidAt = clock.time;
          asks.push(bytes);
          return debt / rate;
        },
      },
    });
    await run.run();
    expectFrozen(state);
    const bytes = run.bytesSent;
    expect(asks.reduce((sum, each) => sum + each, 0)).toBe(bytes);
    // At the first rate alone it would have taken a hundred times as long.
    expect(clock.time).toBeGreaterThan(3000 + (bytes - 300_000) / 1000);
    expect(clock.time).toBeLessThan(3500 + bytes / 1000);
  });

  it('says what is left, down to nothing', async () => {
    const state = dirtyCase(256 * 30, (block) => block % 2 === 0);
    const life = begin(state);
    const { run } = life;
    const seen: number[] = [];
    watch(life, () => seen.push(run.remainingBytes));
    await run.run();
    expect(seen[0]).toBeLessThanOrEqual(128 * 30 * BLOCK_BYTES);
    expect(seen).toEqual(seen.toSorted((one, other) => other - one));
    expect(new Set(seen).size).toBeGreaterThan(5);
    expect(run.remainingBytes).toBe(0);
  });
});

describe('a delta run that cannot go on', () => {
  it('tells that the content cannot be read, when no read is on its way any more', async () => {
    const state = { ...dirtyCase(4000, () => true), source: { broken: 2900 } };
    const { run, source } = begin(state);
    const thrown = await run.run().catch((error: unknown) => error);
    expect(thrown).toBeInstanceOf(RunFailed);
    expect(thrown).toMatchObject({ errno: 5, local: true });
    expect(source.reading).toBe(0);
    expect(state.mirror.position).toBeNull();
    expect(state.blocks.inFlight.count).toBe(4000);
  });

  it('ends at once when it is told to, whatever it waits for', async () => {
    for (let turns = 0; turns < 30; turns += 3) {
      const state = dirtyCase(20_000, () => true);
      const { run, source } = begin(state);
      const outcome = run.run().catch((thrown: unknown) => thrown);
      for (let turn = 0; turn < turns; turn += 1) await new Promise((next) => setImmediate(next));
      run.abort();
      expect(await outcome).toBeInstanceOf(RunAborted);
      expect(source.reading).toBe(0);
      expect(state.mirror.position).toBeNull();
    }
  });

  const RUN = 'c'.repeat(32);
  it.each<[string, ControlMessage]>([
    ['a cursor that is no block', { kind: 'run-ready', run: RUN, cursor: 100 }],
    ['a cursor past the end', { kind: 'run-ready', run: RUN, cursor: 2 ** 40 }],
    ['a cursor of a run that is new', { kind: 'run-ready', run: RUN, cursor: BLOCK_BYTES }],
    ['durable what was not marked', { kind: 'run-durable', run: RUN, cursor: 0 }],
    ['committed too soon', { kind: 'run-committed', run: RUN }],
    ['what only a primary says', { kind: 'run-commit', run: RUN, frames: 0 }],
  ])('ends when the mirror says %s', async (_what, message) => {
    const state = dirtyCase(400, () => true);
    const { run, link } = begin(state);
    link.sendControl = () => {};
    setImmediate(() => run.control(message));
    await expect(run.run()).rejects.toMatchObject({ code: 'LINK_PROTOCOL' });
  });

  it('does not mind a late answer to a comparison of twins at an epoch of its number', async () => {
    const state = dirtyCase(400, () => true);
    const { run } = begin(state, { parameters: { number: 7 } });
    const answer = { kind: FrameKind.DIFFERS, flags: COMPARE_TWIN, volume: 0, epoch: 7 };
    run.frame({ ...answer, index: 0, offset: 0, length: BLOCK_BYTES, aux: 0 }, null);
    await run.run();
    expectFrozen(state);
  });

  it('does not mind what the mirror says of another run', async () => {
    const state = dirtyCase(400, () => true);
    const { run } = begin(state);
    run.control({ kind: 'run-committed', run: 'd'.repeat(32) });
    await run.run();
    expectFrozen(state);
  });
});
