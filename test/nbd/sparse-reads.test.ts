/**
 * READs with chunks (protocol section 5): data, holes, both, DF, errors, late answers. Method: a device whose
 * allocation map the test draws; each reply is put together by the reader of replies, which knows the rules,
 * and compared with the device's content.
 */
import * as fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';

import {
  BLOCK_BYTES,
  NBD_LOOKS_PER_REQUEST,
  NBD_READ_CHUNKS_MAX,
  NBD_READ_LOOKS_MAX,
  NBD_REQUESTS_PER_TURN_MAX,
} from '../../src/io/limits.ts';
import { blockMap } from './support/memory-device.ts';
import { type Answer, bytesRead } from './support/replies.ts';
import { type Session, Sessions } from './support/sessions.ts';
import { CMD, ERR, FLAG } from './support/wire.ts';

const KIB = 1024;
const SIZE = 1024 * KIB;
const BLOCKS = SIZE / BLOCK_BYTES;

const chunks = (answer: Answer): string[] =>
  answer.content.map(({ kind, offset, length }) => `${kind} ${offset} ${length}`);

describe.each(['structured', 'extended'] as const)('in %s form', (form) => {
  let sessions: Sessions;
  let client: Session;

  beforeEach(() => {
    sessions = new Sessions(SIZE);
    client = sessions.open({ form });
  });

  /** Data where `isData`, with the number of the block in it; zeroes elsewhere. */
  const draw = (isData: (block: number) => boolean): void => {
    const { device } = sessions;
    for (let block = 0; block < device.content.length / BLOCK_BYTES; block++) {
      const value = isData(block) ? (block % 255) + 1 : 0;
      device.content.fill(value, block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    }
    device.allocation.map = blockMap((block) => (isData(block) ? 0 : 3));
  };

  const reads = (): number[][] =>
    sessions.device.calls
      .filter(({ operation }) => operation === 'read')
      .map(({ offset, length }) => [offset, length]);

  const check = (offset: number, length: number, flags = 0): Answer => {
    const answer = client.ask(CMD.read, { offset, length, flags });
    const expected = sessions.device.content.subarray(offset, offset + length);
    expect(bytesRead(answer, offset, length).equals(expected)).toBe(true);
    return answer;
  };

  it('data is one chunk, and one look at the map', () => {
    draw(() => true);
    expect(chunks(check(1000, 50_000))).toEqual(['data 1000 50000']);
    expect(sessions.device.allocation.looks).toBe(1);
  });

  it.each([1, 512, BLOCK_BYTES, SIZE])('%i bytes of a hole need no read', (length) => {
    draw(() => false);
    expect(chunks(check(SIZE - length, length))).toEqual([`hole ${SIZE - length} ${length}`]);
    expect(reads()).toEqual([]);
  });

  it('only bytes between the first and the last data are read, and holes between them do not travel', () => {
    draw((block) => block === 2 || block === 3 || block === 8);
    const { content } = check(0, 16 * BLOCK_BYTES);
    expect(content.map(({ kind, length }) => [kind, length / BLOCK_BYTES])).toEqual([
      ['hole', 2],
      ['data', 2],
      ['hole', 4],
      ['data', 1],
      ['hole', 7],
    ]);
    expect(reads()).toEqual([[2 * BLOCK_BYTES, 7 * BLOCK_BYTES]]);
  });

  it('a hole shorter than a block is sent as data', () => {
    draw((block) => block !== 1 && block !== 5);
    expect(chunks(check(BLOCK_BYTES + 1, BLOCK_BYTES))).toEqual([
      `data ${BLOCK_BYTES + 1} ${BLOCK_BYTES}`,
    ]);
    expect(chunks(check(4 * BLOCK_BYTES, 2 * BLOCK_BYTES - 1))).toEqual([
      `data ${4 * BLOCK_BYTES} ${2 * BLOCK_BYTES - 1}`,
    ]);
  });

  it.each([
    ['allocated zeroes', 2],
    ['a hole of unknown content', 1],
  ])('%s are read like data', (_, flags) => {
    draw(() => false);
    sessions.device.allocation.map = () => ({ end: Infinity, flags });
    expect(chunks(check(0, SIZE))).toEqual([`data 0 ${SIZE}`]);
  });

  it('small alternations cost a bounded number of chunks and looks', () => {
    draw((block) => block % 2 === 0);
    const answer = check(0, SIZE);
    const last = NBD_READ_CHUNKS_MAX - 2;
    expect(answer.content).toHaveLength(last + 1);
    expect(answer.content.at(-1)).toMatchObject({
      kind: 'data',
      length: SIZE - last * BLOCK_BYTES,
    });
    expect(sessions.device.allocation.looks).toBeLessThanOrEqual(NBD_READ_CHUNKS_MAX + 1);
    draw(() => false);
    sessions.device.allocation.map = (offset) => ({ end: offset + 512, flags: 3 });
    sessions.device.allocation.looks = 0;
    check(0, SIZE);
    expect(sessions.device.allocation.looks).toBeLessThanOrEqual(NBD_READ_LOOKS_MAX + 1);
  });

  it('many looks make a turn shorter', () => {
    sessions.device.allocation.map = (offset) => ({ end: offset + 512, flags: 3 });
    const request = client.request(CMD.read, { length: 512 * NBD_READ_LOOKS_MAX });
    client.connection.write(Buffer.concat(Array.from({ length: 500 }, () => request)));
    client.connection.step();
    const perRequest = 1 + NBD_READ_LOOKS_MAX;
    const costs = 1 + NBD_READ_LOOKS_MAX / NBD_LOOKS_PER_REQUEST;
    const requests = Math.ceil(NBD_REQUESTS_PER_TURN_MAX / costs);
    expect(sessions.device.allocation.looks).toBe(requests * perRequest);
    expect(client.take()).toHaveLength(500);
  });

  describe('DF', () => {
    it('gets one chunk, holes as zeroes', () => {
      draw((block) => block % 2 === 0);
      expect(chunks(check(0, SIZE, FLAG.df))).toEqual([`data 0 ${SIZE}`]);
      expect(chunks(check(BLOCK_BYTES, BLOCK_BYTES, FLAG.df))).toEqual(['data 4096 4096']);
      expect(sessions.device.allocation.looks).toBe(0);
    });

    it('of 64 KiB always works, and of too much is EOVERFLOW without content', () => {
      check(0, 64 * KIB, FLAG.df);
      sessions.device.sizeBytes = 2 ** 40;
      const answer = client.ask(CMD.read, { length: 2 ** 25 + 1, flags: FLAG.df });
      expect([answer.error, answer.content]).toEqual([ERR.overflow, []]);
      expect(answer.text).toBe('longer than the largest payload, 33554432 bytes');
    });
  });

  it('that fail carry an error with a text and no content', () => {
    draw((block) => block > 2);
    sessions.device.failures.set('read', 5);
    for (const length of [512, 16 * KIB, 64 * KIB, SIZE]) {
      const answer = client.ask(CMD.read, { offset: SIZE - length, length });
      expect([answer.error, answer.content]).toEqual([ERR.io, []]);
      expect(answer.text).toBe('NBD_CMD_READ failed on the device: NBD_EIO');
    }
  });

  it('of data that comes late tell the holes of when they were asked', () => {
    draw((block) => block === 3 || block === 6);
    sessions.device.mode = 'hold';
    client.connection.write(client.request(CMD.read, { cookie: 9, length: 16 * BLOCK_BYTES }));
    sessions.settle();
    // A write of another client, not answered when the read was asked.
    sessions.device.content.fill(0xaa, 0, BLOCK_BYTES);
    sessions.device.allocation.map = blockMap(() => 0);
    sessions.device.release();
    const [answer] = client.take();
    const found = bytesRead(answer!, 0, 16 * BLOCK_BYTES);
    expect(found.subarray(0, BLOCK_BYTES).equals(Buffer.alloc(BLOCK_BYTES))).toBe(true);
    expect(found.readUInt8(3 * BLOCK_BYTES)).toBe(4);
    expect(answer!.content).toHaveLength(5);
  });

  it.each(['now', 'hold'] as const)('of any map, answered %s, bring the right bytes', (mode) => {
    const map = fc.array(fc.boolean(), { minLength: BLOCKS, maxLength: BLOCKS });
    const runs = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 4, maxLength: 40 });
    const drawn = fc.oneof(map, runs.map(bitsOf));
    const ranges = fc.array(fc.tuple(fc.nat(SIZE - 1), fc.nat(SIZE - 1)), { maxLength: 8 });
    const property = fc.property(drawn, ranges, fc.array(fc.nat()), (bits, ranges, order) => {
      draw((block) => bits[block] === true);
      sessions.device.mode = mode;
      const asked = ranges.map(([a, b]) => [Math.min(a, b), Math.abs(a - b) + 1] as const);
      for (const [cookie, [offset, length]] of asked.entries()) {
        client.connection.write(client.request(CMD.read, { cookie, offset, length }));
      }
      sessions.settle();
      for (const pick of order) {
        if (sessions.device.heldCount > 0) {
          sessions.device.release([pick % sessions.device.heldCount]);
        }
      }
      sessions.device.release();
      const answers = client.take();
      expect(answers).toHaveLength(asked.length);
      for (const answer of answers) {
        const [offset, length] = asked[Number(answer.cookie)]!;
        const expected = sessions.device.content.subarray(offset, offset + length);
        expect(bytesRead(answer, offset, length).equals(expected)).toBe(true);
        expect(answer.content.length).toBeLessThanOrEqual(NBD_READ_CHUNKS_MAX);
      }
      sessions.device.mode = 'now';
    });
    fc.assert(property, { numRuns: 100 });
    client.connection.die(null);
    sessions.settle();
    expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
  });

  it('leave in parts when they are large: no byte of a long hole is sent', () => {
    draw((block) => block < 10 || block >= BLOCKS - 10);
    const sends = client.connection.sends;
    client.connection.write(client.request(CMD.read, { cookie: 1, length: SIZE }));
    sessions.settle();
    const bytes = client.connection.take();
    expect(bytes.length).toBeLessThan(20 * BLOCK_BYTES + 200);
    expect(client.connection.sends - sends).toBeLessThanOrEqual(3);
    expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
  });
});

/** Runs of these lengths, data and hole in turn, to the end of the device. */
const bitsOf = (lengths: readonly number[]): boolean[] => {
  const bits: boolean[] = [];
  for (let index = 0; bits.length < BLOCKS; index++) {
    const length = lengths[index % lengths.length]!;
    for (let count = 0; count < length; count++) bits.push(index % 2 === 0);
  }
  return bits.slice(0, BLOCKS);
};
