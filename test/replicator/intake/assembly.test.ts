/**
 * Frames make the same epochs in whatever order they come, and what no sender of ours sends ends the link. Method: random
 * epochs, their frames shuffled within what lanes allow; every wrong frame put in at any place.
 */
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  LINK_UNACKED_BYTES_MAX,
  LINK_UNACKED_EPOCHS_MAX,
  LINK_UNACKED_FRAMES_MAX,
} from '../../../src/io/limits.ts';
import { EpochAssembly } from '../../../src/replicator/intake/epoch-assembly.ts';
import { FrameKind, type FrameHeader } from '../../../src/replicator/link/link-types.ts';

const BASE = 10;

interface Came {
  readonly header: FrameHeader;
  readonly bytes: string | null;
}

let unreleased = 0;

function lent(text: string, length = text.length) {
  unreleased += 1;
  let released = false;
  return {
    buffer: Buffer.from(text),
    length,
    release() {
      expect(released).toBe(false);
      released = true;
      unreleased -= 1;
    },
  };
}

function header(kind: FrameHeader['kind'], epoch: number, index: number, aux = 0): FrameHeader {
  return { kind, flags: 0, volume: 0, epoch, index, offset: 0, length: 0, aux };
}

function framesOf(counts: readonly number[]): Came[] {
  return counts.flatMap((count, at) => {
    const epoch = BASE + 1 + at;
    const parts: Came[] = Array.from({ length: count }, (_, index) => ({
      header: header(FrameKind.DATA, epoch, index),
      bytes: `${epoch}.${index}`,
    }));
    return [...parts, { header: header(FrameKind.CLOSE, epoch, count, epoch * 7), bytes: null }];
  });
}

function take(assembly: EpochAssembly, { header, bytes }: Came): void {
  if (bytes === null) assembly.close(header);
  else assembly.add(header, lent(bytes));
}

function drain(assembly: EpochAssembly): { epoch: number; time: number; frames: string[] }[] {
  const out: { epoch: number; time: number; frames: string[] }[] = [];
  for (let each = assembly.next(); each !== null; each = assembly.next()) {
    const frames = each.frames.map(({ payload }) => payload.buffer.toString());
    for (const { payload } of each.frames) payload.release();
    out.push({ epoch: each.epoch, time: each.time, frames });
  }
  return out;
}

function begun(): EpochAssembly {
  const assembly = new EpochAssembly(BASE);
  assembly.begin(1, BASE);
  unreleased = 0;
  return assembly;
}

const counts = fc.array(fc.nat(6), { minLength: 1, maxLength: 8 });

describe('epochs', () => {
  test('are the same in any order of frames, come in their order, and each once', () => {
    fc.assert(
      fc.property(counts, fc.infiniteStream(fc.nat(1_000_000)), (sizes, dice) => {
        const assembly = begun();
        const left = framesOf(sizes);
        const out: ReturnType<typeof drain> = [];
        while (left.length > 0) {
          take(assembly, left.splice(dice.next().value % left.length, 1)[0]!);
          out.push(...drain(assembly));
        }
        const expected = sizes.map((count, at) => {
          const epoch = BASE + 1 + at;
          const frames = Array.from({ length: count }, (_, index) => `${epoch}.${index}`);
          return { epoch, time: epoch * 7, frames };
        });
        expect(out).toEqual(expected);
        expect(assembly.heldBytes).toBeGreaterThanOrEqual(0);
        assembly.acknowledged(BASE + sizes.length);
        expect(assembly.heldBytes).toBe(0);
        expect(unreleased).toBe(0);
      }),
    );
  });

  test('stay inside until the stream was begun', () => {
    const assembly = new EpochAssembly(BASE);
    for (const came of framesOf([2, 1])) take(assembly, came);
    expect(drain(assembly)).toEqual([]);
    assembly.begin(1, BASE);
    expect(drain(assembly)).toHaveLength(2);
  });

  test('that are not complete are dropped with their payloads, late frames of an older stream too', () => {
    const assembly = begun();
    for (const came of framesOf([1, 3]).slice(0, -1)) take(assembly, came);
    drain(assembly);
    expect(unreleased).toBe(3);
    assembly.drop();
    expect(unreleased).toBe(0);
    assembly.end(20);
    assembly.begin(1, 20);
    for (const came of framesOf([2])) take(assembly, came);
    expect(unreleased).toBe(0);
    expect(assembly.heldBytes).toBe(0);
  });
});

const data = (epoch: number, index: number): Came => ({
  header: header(FrameKind.DATA, epoch, index),
  bytes: 'x',
});
const close = (epoch: number, index: number): Came => ({
  header: header(FrameKind.CLOSE, epoch, index),
  bytes: null,
});
const all =
  (...came: Came[]) =>
  (assembly: EpochAssembly): void => {
    for (const each of came) {
      take(assembly, each);
      drain(assembly);
    }
  };

function wrong(what: string, put: (assembly: EpochAssembly) => void): void {
  test(what, () => {
    const assembly = begun();
    expect(() => put(assembly)).toThrow(expect.objectContaining({ code: 'LINK_PROTOCOL' }));
    assembly.drop();
    expect(unreleased).toBe(0);
  });
}

describe('the link ends for', () => {
  wrong('a frame that came before', all(data(11, 0), data(11, 0)));
  wrong('a frame that came early before', all(data(11, 4), data(11, 4)));
  wrong('a frame past the close', all(close(11, 2), data(11, 2)));
  wrong('a close with fewer frames than were seen', all(data(11, 3), close(11, 3)));
  wrong('a second close', all(close(11, 3), close(11, 3)));
  wrong('a frame of an epoch that is complete', all(close(11, 0), data(11, 0)));
  wrong('a close of an epoch that is complete', all(close(11, 0), close(11, 0)));
  wrong('an epoch too far ahead', all(data(BASE + LINK_UNACKED_EPOCHS_MAX + 1, 0)));
  wrong('an index past every bound', all(data(11, LINK_UNACKED_FRAMES_MAX)));
  wrong('a close past every bound', all(close(11, LINK_UNACKED_FRAMES_MAX + 1)));
  wrong('a frame without a payload', (assembly) => {
    assembly.add(header(FrameKind.DATA, 11, 0), null);
  });
  wrong('more bytes than may be unacknowledged', (assembly) => {
    assembly.add(header(FrameKind.DATA, 11, 0), lent('x', LINK_UNACKED_BYTES_MAX));
    assembly.add(header(FrameKind.DATA, 11, 1), lent('x', 1));
  });
  wrong('a command that more follows', (assembly) => {
    assembly.add(header(FrameKind.COMMAND, 11, 0), lent('x'));
    assembly.add(header(FrameKind.DATA, 11, 1), lent('x'));
    assembly.close(header(FrameKind.CLOSE, 11, 2));
    assembly.next();
  });
});

test('the bounds are reached by what is allowed, and what was acknowledged makes room', () => {
  const assembly = begun();
  assembly.add(header(FrameKind.DATA, 11, 0), lent('x', LINK_UNACKED_BYTES_MAX));
  assembly.close(header(FrameKind.CLOSE, 11, 1));
  expect(drain(assembly)).toHaveLength(1);
  assembly.acknowledged(11);
  assembly.add(
    header(FrameKind.DATA, 11 + LINK_UNACKED_EPOCHS_MAX, 0),
    lent('x', LINK_UNACKED_BYTES_MAX),
  );
  assembly.drop();
  expect(assembly.heldBytes).toBe(0);
});
