/**
 * Comparing by digests: every difference is found and nothing else, for next to no bytes on the wire. Method: frozen twins
 * on the model of a mirror, with random contents and differences; answers that nobody asked for; a link that breaks.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES, COMPARE_GROUP_BYTES, COMPARE_QUESTIONS_MAX } from '../../src/io/limits.ts';
import { RunAborted, RunFailed } from '../../src/replicator/runs/delta-run.ts';
import { FrameKind, type FrameHeader } from '../../src/replicator/link/link-types.ts';
import { PeerVerify, rangesOf } from '../../src/replicator/runs/peer-verify.ts';
import { COMPARE_GROUPS } from '../../src/replicator/runs/run-frames.ts';
import { BlockSet } from '../../src/volume/maps/block-set.ts';
import { inlineExaminer } from '../../src/workers/examiner.ts';
import { seeded } from './support/host.ts';
import { MemoryLink, ModelClock, ModelMirror, TagSource, type Tags } from './support/run-model.ts';

interface Options {
  readonly mapped?: ReadonlySet<number>;
  readonly broken?: number;
  readonly breakAt?: number;
  /** The mirror knows groups of blocks. */
  readonly groups?: boolean;
}

function begin(primary: Tags, twin: Tags, random: () => number, options: Options = {}) {
  const { breakAt, groups = true, ...sourceOptions } = options;
  const mirror = new ModelMirror(new Uint8Array(primary.length));
  mirror.twin = twin;
  const clock = new ModelClock();
  const link = new MemoryLink({
    mirror,
    random,
    clock,
    ...(breakAt === undefined ? {} : { breakAt }),
  });
  const source = new TagSource(primary, { random, ...sourceOptions });
  const examiner = inlineExaminer;
  const verify = new PeerVerify({ link, clock, source, examiner, limiter: null, epoch: 5, groups });
  link.talk = verify;
  return { verify, link, mirror, source };
}

function runsOfTags(count: number, random: () => number): Tags {
  const tags = new Uint8Array(count);
  for (let at = 0; at < count;) {
    const length = 1 + Math.floor(random() ** 3 * 400);
    tags.fill(random() < 0.4 ? 0 : 1 + Math.floor(random() * 200), at, at + length);
    at += length;
  }
  return tags;
}

describe('a comparison of frozen twins', () => {
  it('finds every block that differs, and no other', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer(), fc.integer({ min: 1, max: 3000 }), async (seed, count) => {
        const random = seeded(seed);
        const primary = runsOfTags(count, random);
        const twin = primary.slice();
        const share = random() ** 3;
        const expected: number[] = [];
        for (let block = 0; block < count; block += 1) {
          if (random() >= share) continue;
          twin[block] = Math.floor(random() * 4) * 60;
          if (twin[block] !== primary[block]) expected.push(block);
        }
        const mapped = new Set(expected.filter(() => random() < 0.5));
        const groups = random() < 0.7;
        const { verify, mirror, link, source } = begin(primary, twin, random, { mapped, groups });
        await verify.run();
        expect(mirror.faults).toEqual([]);
        const found = [...rangesOf(verify.differing)].flatMap(({ offset, length }) =>
          Array.from({ length: length / BLOCK_BYTES }, (_, at) => offset / BLOCK_BYTES + at),
        );
        expect(found).toEqual(expected);
        expect(verify.bytesCompared).toBe(count * BLOCK_BYTES);
        expect([link.payloadsHeld, source.reading]).toEqual([0, 0]);
      }),
      { numRuns: 60, seed: 3 },
    );
  });

  it('costs less than half a percent of the bytes compared', async () => {
    const tags = Uint8Array.from({ length: 256 * 100 }, (_, block) => 1 + (block % 200));
    const equal = begin(tags, tags.slice(), seeded(1));
    await equal.verify.run();
    expect(equal.verify.differing.count).toBe(0);
    const bytes = tags.length * BLOCK_BYTES;
    expect(equal.link.bytesSent + equal.link.bytesReceived).toBeLessThan(bytes * 0.005);
    // Every other block differs: the answers are as long as they can be.
    const other = tags.map((tag, block) => (block % 2 === 0 ? tag : 250));
    const half = begin(tags, other, seeded(1));
    await half.verify.run();
    expect(half.verify.differing.count).toBe(tags.length / 2);
    expect(half.link.bytesSent + half.link.bytesReceived).toBeLessThan(bytes * 0.005);
  });

  it('asks for blocks only where groups of them differ', async () => {
    const tags = Uint8Array.from({ length: 256 * 40 }, (_, block) => 1 + (block % 200));
    const other = tags.slice();
    other[256 * 20 + 5] = 0;
    const blocksAsked = async (groups: boolean): Promise<number> => {
      const { verify, link } = begin(tags, other, seeded(1), { groups });
      let blocks = 0;
      const send = link.send.bind(link);
      link.send = (header: FrameHeader, chunks, sent) => {
        if ((header.flags & COMPARE_GROUPS) === 0) blocks += header.length / BLOCK_BYTES;
        send(header, chunks, sent);
      };
      await verify.run();
      expect(verify.differing.count).toBe(1);
      return blocks;
    };
    expect(await blocksAsked(true)).toBe(COMPARE_GROUP_BYTES / BLOCK_BYTES);
    expect(await blocksAsked(false)).toBe(tags.length);
  });

  it('reads nothing and sends next to nothing where the map knows of zeroes', async () => {
    const count = 200_000;
    const twin = new Uint8Array(count);
    twin[150_000] = 3;
    const { verify, source, link } = begin(new Uint8Array(count), twin, seeded(1));
    await verify.run();
    expect([...rangesOf(verify.differing)]).toEqual([
      { offset: 150_000 * BLOCK_BYTES, length: BLOCK_BYTES },
    ]);
    expect(source.reads).toBe(0);
    expect(link.bytesSent).toBeLessThan(1000);
  });

  it('asks no more than so many questions at a time', async () => {
    // Far apart, so that each block is a question of its own.
    const tags = Uint8Array.from({ length: 40_000 }, (_, block) => (block % 40 === 0 ? 1 : 0));
    const { verify, link } = begin(tags, tags.slice(), seeded(1));
    let open = 0;
    let most = 0;
    const send = link.send.bind(link);
    link.send = (header: FrameHeader, chunks, sent) => {
      open += 1;
      most = Math.max(most, open);
      send(header, chunks, sent);
    };
    link.talk = {
      control: () => {},
      drained: () => verify.drained(),
      abort: () => verify.abort(),
      frame: (header, payload) => {
        open -= 1;
        verify.frame(header, payload);
      },
    };
    await verify.run();
    expect(open).toBe(0);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(COMPARE_QUESTIONS_MAX);
  });

  it('ends with the link, at any message, and leaves no read behind', async () => {
    const tags = runsOfTags(2000, seeded(4));
    const whole = begin(tags, tags.slice(), seeded(5));
    await whole.verify.run();
    for (let breakAt = 0; breakAt < whole.link.messages; breakAt += 1) {
      const { verify, source } = begin(tags, tags.slice(), seeded(5), { breakAt });
      await expect(verify.run()).rejects.toBeInstanceOf(RunAborted);
      expect(source.reading).toBe(0);
    }
  });

  it('tells that the content cannot be read', async () => {
    const tags = new Uint8Array(2000).fill(1);
    const { verify } = begin(tags, tags.slice(), seeded(1), { broken: 1700 });
    await expect(verify.run()).rejects.toBeInstanceOf(RunFailed);
  });
});

describe('an answer that nobody asked for', () => {
  const question: FrameHeader = {
    kind: FrameKind.DIFFERS,
    flags: 6,
    volume: 0,
    epoch: 5,
    index: 0,
    offset: 0,
    length: 256 * BLOCK_BYTES,
    aux: 0,
  };

  it.each<[string, Partial<FrameHeader>, Buffer | null]>([
    ['of no question', { index: 99_999 }, null],
    ['of another place', { offset: BLOCK_BYTES }, null],
    ['of another length', { length: BLOCK_BYTES }, null],
    ['of another kind', { flags: 2 }, null],
    ['with too few bits', {}, Buffer.alloc(31)],
    ['with too many bits', {}, Buffer.alloc(33)],
  ])('ends the comparison: %s', async (_what, change, payload) => {
    const tags = new Uint8Array(256).fill(7);
    const { verify, mirror } = begin(tags, tags.slice(), seeded(1));
    let released = 0;
    mirror.frame = () => {
      const received =
        payload === null
          ? null
          : { buffer: payload, length: payload.length, release: () => (released += 1) };
      verify.frame({ ...question, ...change }, received);
    };
    await expect(verify.run()).rejects.toMatchObject({ code: 'LINK_PROTOCOL' });
    expect(released).toBe(payload === null ? 0 : 1);
  });

  it('is no matter when it belongs to an earlier comparison', async () => {
    const tags = new Uint8Array(256).fill(7);
    const { verify } = begin(tags, tags.slice(), seeded(1));
    verify.frame({ ...question, epoch: 4 }, null);
    await verify.run();
    expect(verify.differing.count).toBe(0);
  });

  it('is no matter when it belongs to a delta run whose number is that of the epoch', async () => {
    const tags = new Uint8Array(256).fill(7);
    const { verify } = begin(tags, tags.slice(), seeded(1));
    verify.frame({ ...question, flags: COMPARE_GROUPS }, null);
    await verify.run();
    expect(verify.differing.count).toBe(0);
  });

  it('does not count bits past the last block, nor twice the same answer', async () => {
    const tags = new Uint8Array(3).fill(7);
    const { verify, mirror } = begin(tags, tags.slice(), seeded(1));
    mirror.frame = (header) => {
      const answer = { ...header, kind: FrameKind.DIFFERS };
      verify.frame(answer, { buffer: Buffer.of(0xfa), length: 1, release: () => {} });
    };
    await verify.run();
    expect([...rangesOf(verify.differing)]).toEqual([{ offset: BLOCK_BYTES, length: BLOCK_BYTES }]);
    expect(verify.differing).toBeInstanceOf(BlockSet);
  });
});
