/**
 * BLOCK_STATUS (protocol sections 1.10, 3.2, 5): one chunk for each selected context, merged and bounded
 * extents, REQ_ONE, lengths near 4 GiB, filters. Method: a device whose maps the test draws; the reader of
 * replies knows the layout and that neighbours differ, the tests compare extents with the map.
 */
import * as fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';

import {
  BLOCK_BYTES,
  NBD_PAYLOAD_BYTES_MAX,
  NBD_STATUS_EXTENTS_MAX,
  NBD_STATUS_LOOKS_MAX,
} from '../../src/io/limits.ts';
import { blockMap, MapContext } from './support/memory-device.ts';
import { type Answer, answersOf } from './support/replies.ts';
import { type AnyRequestFields, type Session, Sessions } from './support/sessions.ts';
import { CMD, ERR, FLAG, u32, u64 } from './support/wire.ts';

const SIZE = 1024 * 1024;
const GIB = 2 ** 30;

let sessions: Sessions;
let client: Session;

const open = (form: 'structured' | 'extended', otherContexts = 0): void => {
  sessions = new Sessions(SIZE);
  for (let index = 0; index < otherContexts; index++) {
    const other = new MapContext(`x-test:${index}`, () => ({ end: Infinity, flags: 40 + index }));
    sessions.device.otherContexts.push(other);
  }
  client = sessions.openWithContexts(form);
};

const status = (fields: AnyRequestFields): Answer => client.ask(CMD.blockStatus, fields);

/** Of the first context: length and flags of each extent. */
const extents = (fields: AnyRequestFields): (readonly [number, number])[] => {
  const answer = status(fields);
  expect(answer.error).toBe(0);
  return answer.statuses[0]!.extents.map(([length, flags]) => [Number(length), Number(flags)]);
};

const mapOf = (flagsOf: (block: number) => number, blocksMax?: number): void => {
  sessions.device.allocation.map = blockMap(flagsOf, blocksMax);
};

describe.each(['structured', 'extended'] as const)('in %s form', (form) => {
  beforeEach(() => open(form));

  it('tells the runs of the range', () => {
    mapOf((block) => (block === 1 || block === 2 ? 0 : 3));
    expect(extents({ offset: 0, length: 8 * BLOCK_BYTES })).toEqual([
      [BLOCK_BYTES, 3],
      [2 * BLOCK_BYTES, 0],
      [5 * BLOCK_BYTES, 3],
    ]);
  });

  it('merges equal neighbours, however the device cuts them', () => {
    mapOf((block) => (block < 100 ? 0 : 3), 1);
    expect(extents({ offset: 512, length: SIZE - 512 })).toEqual([
      [100 * BLOCK_BYTES - 512, 0],
      [SIZE - 100 * BLOCK_BYTES, 3],
    ]);
  });

  it('describes whole blocks: the last extent may pass the range, not the device', () => {
    mapOf(() => 0);
    expect(extents({ offset: 0, length: 1 })).toEqual([[BLOCK_BYTES, 0]]);
    expect(extents({ offset: 100, length: BLOCK_BYTES })).toEqual([[2 * BLOCK_BYTES - 100, 0]]);
    sessions.device.sizeBytes = SIZE - 1000;
    expect(extents({ offset: SIZE - 2000, length: 10 })).toEqual([[1000, 0]]);
    sessions.device.sizeBytes = SIZE;
    mapOf((block) => block % 2);
    expect(extents({ offset: 0, length: BLOCK_BYTES })).toEqual([[BLOCK_BYTES, 0]]);
    expect(extents({ offset: 0, length: BLOCK_BYTES + 1 })).toEqual([
      [BLOCK_BYTES, 0],
      [BLOCK_BYTES, 1],
    ]);
  });

  it('REQ_ONE gets one extent, no longer than the range', () => {
    mapOf((block) => (block < 10 ? 3 : 0), 2);
    const flags = FLAG.reqOne;
    expect(extents({ offset: 0, length: SIZE, flags })).toEqual([[10 * BLOCK_BYTES, 3]]);
    expect(extents({ offset: 0, length: 100, flags })).toEqual([[100, 3]]);
    expect(extents({ offset: 5000, length: 5000, flags })).toEqual([[5000, 3]]);
  });

  it('answers each selected context once, DONE on the last', () => {
    open(form, 2);
    const { statuses, done } = status({ offset: 0, length: 4096 });
    expect(done).toBe(true);
    expect(statuses).toEqual([
      { id: 1, extents: [[4096n, 0n]] },
      { id: 2, extents: [[4096n, 40n]] },
      { id: 3, extents: [[4096n, 41n]] },
    ]);
  });

  it('bounds the extents of one chunk', () => {
    sessions.device.sizeBytes = 2 ** 32;
    mapOf((block) => block % 2);
    const found = extents({ offset: 0, length: GIB });
    expect(found).toHaveLength(NBD_STATUS_EXTENTS_MAX);
    expect(sessions.device.allocation.looks).toBe(NBD_STATUS_EXTENTS_MAX + 1);
  });

  it('bounds the looks for one request, also when all that is seen is the same', () => {
    open(form, 3);
    sessions.device.sizeBytes = 2 ** 32;
    for (const context of [sessions.device.allocation, ...sessions.device.otherContexts]) {
      context.map = blockMap(() => 3, 1);
    }
    const { statuses } = status({ offset: 0, length: GIB });
    const described = BigInt((NBD_STATUS_LOOKS_MAX / 4) * BLOCK_BYTES);
    expect(statuses.map((each) => each.extents)).toEqual(
      Array.from({ length: 4 }, () => [[described, 3n]]),
    );
  });

  it('takes turns: requests that cost many looks do not hold up other clients', () => {
    sessions.device.sizeBytes = 2 ** 32;
    mapOf((block) => block % 2);
    const asked = client.request(CMD.blockStatus, { length: GIB });
    client.connection.write(Buffer.concat(Array.from({ length: 500 }, () => asked)));
    client.connection.step();
    expect(sessions.device.allocation.looks).toBeLessThan(8 * NBD_STATUS_EXTENTS_MAX);
    expect(client.take()).toHaveLength(500);
  });

  it('of any map describes the range from its beginning, by whole and true extents', () => {
    const flagRuns = fc.array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.nat(3)), {
      minLength: 1,
      maxLength: 60,
    });
    const range = fc.tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: SIZE }));
    const cuts = fc.integer({ min: 1, max: 5 });
    const property = fc.property(flagRuns, range, cuts, fc.boolean(), (runs, range, cut, one) => {
      const blocks = runs.flatMap(([count, flags]) => Array.from({ length: count }, () => flags));
      const flagsOf = (block: number): number => blocks[block % blocks.length]!;
      mapOf(flagsOf, cut);
      const [offset] = range;
      const length = Math.min(range[1], SIZE - offset);
      const found = extents({ offset, length, flags: one ? FLAG.reqOne : 0 });
      let at = offset;
      for (const [bytes, flags] of found) {
        expect(at).toBeLessThan(offset + length);
        for (let byte = at; byte < at + bytes; byte += BLOCK_BYTES) {
          expect(flagsOf(Math.floor(byte / BLOCK_BYTES))).toBe(flags);
        }
        at += bytes;
      }
      if (one) expect([found.length, at <= offset + length]).toEqual([1, true]);
      else expect([at >= offset + length, at <= SIZE]).toEqual([true, true]);
    });
    fc.assert(property, { numRuns: 300 });
  });
});

describe('lengths near 4 GiB', () => {
  const EDGES = [2 ** 32 - 1, 2 ** 32 - 512, 2 ** 32 - 4096, 2 ** 31, 2 ** 31 - 1];

  it.each(EDGES)('of 32 bits never wrap: an extent is cut at a block (%i bytes)', (length) => {
    open('structured');
    sessions.device.sizeBytes = 2 ** 40;
    sessions.device.allocation.map = () => ({ end: Infinity, flags: 3 });
    for (const offset of [0, 4096, 2 ** 32 - 4096, 2 ** 32, 2 ** 39]) {
      const [[bytes, flags] = [0, 0], ...more] = extents({ offset, length });
      expect(more).toEqual([]);
      expect(flags).toBe(3);
      expect((offset + bytes) % BLOCK_BYTES).toBe(0);
      expect(bytes).toBe(Math.min(Math.ceil(length / 4096) * 4096, 2 ** 32 - 4096));
    }
  });

  it('of 32 bits are cut at a block also behind a short extent', () => {
    open('structured');
    sessions.device.sizeBytes = 2 ** 40;
    sessions.device.allocation.map = (offset) =>
      offset < 4096 ? { end: 4096, flags: 0 } : { end: Infinity, flags: 3 };
    expect(extents({ offset: 4095, length: 2 ** 32 - 1 })).toEqual([
      [1, 0],
      [2 ** 32 - 4096, 3],
    ]);
  });

  it('of 64 bits are told whole', () => {
    open('extended');
    const size = 2 ** 50;
    sessions.device.sizeBytes = size;
    sessions.device.allocation.map = (offset) =>
      offset < 2 ** 33 ? { end: 2 ** 33, flags: 3 } : { end: Infinity, flags: 0 };
    expect(extents({ offset: 0, length: size })).toEqual([
      [2 ** 33, 3],
      [size - 2 ** 33, 0],
    ]);
  });
});

const filter = (length: number | bigint, ...ids: number[]): Buffer =>
  Buffer.concat([u64(length), ...ids.map(u32)]);

describe('a filter', () => {
  beforeEach(() => open('extended', 2));

  it('answers the contexts asked for, over the length in the payload', () => {
    const { statuses } = status({ offset: 4096, payload: filter(8192, 3, 1) });
    expect(statuses).toEqual([
      { id: 3, extents: [[8192n, 41n]] },
      { id: 1, extents: [[8192n, 0n]] },
    ]);
  });

  it('may carry REQ_ONE', () => {
    sessions.device.allocation.map = blockMap((block) => block % 2);
    const { statuses } = status({ payload: filter(SIZE, 1), flags: FLAG.reqOne });
    expect(statuses).toEqual([{ id: 1, extents: [[4096n, 0n]] }]);
  });

  it.each([
    ['without ids', filter(4096)],
    ['with an unknown id', filter(4096, 1, 9)],
    ['with an id twice', filter(4096, 2, 2)],
    ['with more ids than contexts', filter(4096, 1, 2, 3, 1)],
    ['of half a length', Buffer.alloc(7)],
    ['of half an id', Buffer.concat([filter(4096, 1), Buffer.alloc(2)])],
    ['that is large', Buffer.alloc(3_000_000)],
    ['of a length of zero', filter(0, 1)],
    ['of a length past the end', filter(SIZE + 1, 1)],
    ['of a length that no safe integer holds', filter(2n ** 64n - 1n, 1)],
  ])('%s is drained and refused with EINVAL', (_, payload) => {
    const answer = status({ payload });
    expect([answer.error, answer.statuses]).toEqual([ERR.inval, []]);
  });

  it('with the flag and no payload is EINVAL', () => {
    expect(status({ flags: FLAG.payloadLen, length: 0 }).error).toBe(ERR.inval);
  });

  it('that was not offered is drained and refused', () => {
    client = sessions.openWithContexts('extended', 0x0ded);
    expect(status({ payload: filter(4096, 1) }).error).toBe(ERR.inval);
  });

  it('longer than the largest payload ends the connection', () => {
    const length = NBD_PAYLOAD_BYTES_MAX + 1;
    client.connection.write(client.request(CMD.blockStatus, { payload: Buffer.alloc(0), length }));
    expect(client.take()).toEqual([]);
    expect([client.connection.over, client.fault]).toEqual([true, true]);
  });

  it('is understood however it is cut', () => {
    const bytes = Buffer.concat([
      client.request(CMD.blockStatus, { cookie: 5, payload: filter(8192, 2, 3) }),
      client.request(CMD.blockStatus, { cookie: 6, payload: filter(8192, 2, 2) }),
      client.request(CMD.flush, { cookie: 7 }),
    ]);
    for (let cut = 1; cut < bytes.length; cut++) {
      client.connection.write(bytes.subarray(0, cut), bytes.subarray(cut));
      sessions.settle();
      const { answers, rest } = answersOf(client.connection.take(), 'extended');
      expect(rest).toHaveLength(0);
      expect(answers.map(({ cookie, error }) => [cookie, error])).toEqual([
        [5n, 0],
        [6n, ERR.inval],
        [7n, 0],
      ]);
      expect(answers[0]?.statuses.map(({ id }) => id)).toEqual([2, 3]);
    }
    expect(sessions.lent.requests).toBe(0);
  });
});
