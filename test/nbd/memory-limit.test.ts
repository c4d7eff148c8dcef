/**
 * The bound on the memory of all connections together: at the limit only a connection that holds nothing goes
 * on, others wait in line, and nobody waits for ever. Method: transmissions over a fake network with small
 * limits, clients that stall in every way, a device that holds what it is given.
 */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { NBD_IN_FLIGHT_REQUESTS_MAX } from '../../src/io/limits.ts';
import { NBD_LIMITS_DEFAULT } from '../../src/nbd/server/server-limits.ts';
import { type Session, Sessions } from './support/sessions.ts';
import { CMD } from './support/wire.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const TOTAL = 4 * MIB;

const readOf = (client: Session, cookie: number, length: number): Buffer =>
  client.request(CMD.read, { cookie, length });

const reads = (client: Session, count: number, length: number): void => {
  for (let cookie = 1; cookie <= count; cookie++) {
    client.connection.write(readOf(client, cookie, length));
  }
};

const holding = (sessions: Sessions): void => {
  sessions.device.mode = 'hold';
};

it('is a limit for one connection too, set by whoever runs the server', () => {
  const sessions = new Sessions(MIB, { inFlightBytes: 2 * MIB });
  holding(sessions);
  const client = sessions.open({ form: 'simple' });
  reads(client, 10, MIB);
  sessions.settle();
  expect(sessions.device.heldCount).toBe(2);
  sessions.device.mode = 'now';
  sessions.device.release();
  expect(client.take(() => MIB)).toHaveLength(10);
});

it('does not touch clients that hold little while it is not reached', () => {
  const sessions = new Sessions(MIB, { inFlightBytesTotal: TOTAL });
  holding(sessions);
  const client = sessions.open({ form: 'simple' });
  reads(client, 64, 16 * KIB);
  sessions.settle();
  expect(sessions.device.heldCount).toBe(64);
});

it('lets a client that holds nothing begin one request, and no more', () => {
  const sessions = new Sessions(MIB, { inFlightBytesTotal: TOTAL });
  holding(sessions);
  const greedy = sessions.open({ form: 'simple' });
  reads(greedy, 20, MIB);
  sessions.settle();
  expect(sessions.device.heldCount).toBe(4);
  const others = Array.from({ length: 5 }, () => sessions.open({ form: 'structured' }));
  for (const other of others) reads(other, 3, 512 * KIB);
  sessions.settle();
  expect(sessions.device.heldCount).toBe(4 + 5);
  // Each goes on with its next one when it has its answer and took it.
  for (let round = 1; round <= 3; round++) {
    sessions.device.release([4, 5, 6, 7, 8]);
    sessions.settle();
  }
  for (const other of others) expect(other.take()).toHaveLength(3);
  expect(sessions.device.heldCount).toBe(4);
});

it('counts what clients do not take, and what a payload will need', () => {
  const sessions = new Sessions(MIB, { inFlightBytesTotal: TOTAL });
  const deaf = sessions.open({ form: 'simple' });
  deaf.connection.stalled = true;
  reads(deaf, 100, 256 * KIB);
  sessions.settle();
  expect(sessions.lent.bytes).toBeLessThan(TOTAL + MIB);
  const slow = sessions.open({ form: 'simple' });
  slow.connection.write(slow.request(CMD.write, { payload: Buffer.alloc(MIB) }).subarray(0, 100));
  sessions.settle();
  const { bytes } = sessions.lent;
  const second = sessions.open({ form: 'simple' });
  second.connection.stalled = true;
  reads(second, 50, 256 * KIB);
  sessions.settle();
  // One request, and the rest of its own in the stash.
  expect(sessions.lent.bytes - bytes).toBeLessThan(MIB);
  deaf.connection.stalled = false;
  second.connection.stalled = false;
  expect(deaf.take(() => 256 * KIB)).toHaveLength(100);
  expect(second.take(() => 256 * KIB)).toHaveLength(50);
});

it('wakes those that wait in the order in which they came, one after the other', () => {
  const sessions = new Sessions(MIB, { inFlightBytesTotal: TOTAL });
  holding(sessions);
  const half = 512 * KIB;
  const greedy = sessions.open({ form: 'simple' });
  reads(greedy, TOTAL / half, half);
  sessions.settle();
  // Each begins one request, by its offset its own, and waits with the others.
  const others = [1, 2, 3, 4].map((mark) => {
    const other = sessions.open({ form: 'structured' });
    for (let cookie = 1; cookie <= 3; cookie++) {
      other.connection.write(other.request(CMD.read, { cookie, offset: mark, length: half }));
    }
    sessions.settle();
    return other;
  });
  expect(sessions.shared.memory.waiting).toBe(others.length);
  const { calls } = sessions.device;
  calls.length = 0;
  // The client that had its answers wants no more; what the others hold is not answered.
  sessions.device.release([0, 1, 2, 3]);
  sessions.settle();
  for (let count = 4; count < TOTAL / half; count++) {
    expect(calls.map(({ offset }) => offset)).toEqual([1, 2, 3, 4].slice(0, count - 4));
    sessions.device.release([0]);
    sessions.settle();
  }
  expect(calls.map(({ offset }) => offset)).toEqual([1, 2, 3, 4]);
  expect(sessions.shared.memory.waiting).toBe(others.length);
  sessions.device.mode = 'now';
  sessions.device.release();
  for (const other of others) expect(other.take()).toHaveLength(3);
  expect(sessions.shared.memory.waiting).toBe(0);
});

it.each(['dies', 'leaves', 'sends garbage'] as const)(
  'a client that %s while it waits leaves the line, and others go on',
  (how) => {
    const sessions = new Sessions(MIB, { inFlightBytesTotal: TOTAL });
    holding(sessions);
    const greedy = sessions.open({ form: 'simple' });
    reads(greedy, 20, MIB);
    sessions.settle();
    const [first, second] = [
      sessions.open({ form: 'simple' }),
      sessions.open({ form: 'simple' }),
    ] as const;
    for (const other of [first, second]) {
      reads(other, 4, MIB);
      sessions.settle();
    }
    if (how === 'dies') first.connection.die(new Error('ECONNRESET'));
    if (how === 'leaves') first.connection.endInput();
    if (how === 'sends garbage') first.connection.write(Buffer.alloc(100, 1));
    sessions.settle();
    // A client that is not read shows that it left when its turn comes.
    expect(sessions.shared.memory.waiting).toBe(how === 'dies' ? 2 : 3);
    sessions.device.mode = 'now';
    for (let rounds = 0; sessions.device.heldCount > 0 && rounds < 100; rounds++) {
      sessions.device.release([0]);
      sessions.settle();
    }
    expect(second.take(() => MIB)).toHaveLength(4);
    expect(greedy.take(() => MIB)).toHaveLength(20);
    for (const { connection } of sessions.all) if (!connection.over) connection.die(null);
    sessions.settle();
    expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
    expect(sessions.all.every(({ gone }) => gone)).toBe(true);
  },
);

it('has room for the heaviest client by default', () => {
  const { inFlightBytes, inFlightBytesTotal } = NBD_LIMITS_DEFAULT;
  expect(inFlightBytesTotal).toBeGreaterThan(4 * inFlightBytes);
});

describe('any number of clients that stall for a while in any way', () => {
  const action = fc.record({
    client: fc.nat(5),
    what: fc.constantFrom('reads', 'writes', 'half a write', 'deaf', 'hears', 'answers', 'dies'),
    length: fc.integer({ min: 1, max: 700 * KIB }),
    count: fc.integer({ min: 1, max: 12 }),
  });

  it('are all answered in the end, in bounded memory', () => {
    const property = fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
      const sessions = new Sessions(MIB, { inFlightBytesTotal: TOTAL });
      holding(sessions);
      const clients = Array.from({ length: 6 }, () => sessions.open({ form: 'structured' }));
      const asked = clients.map(() => 0);
      const halves: (Buffer | null)[] = clients.map(() => null);
      for (const { client, what, length, count } of actions) {
        const session = clients[client]!;
        if (session.connection.over) continue;
        const half = halves[client];
        const end = (): void => {
          if (half !== null && half !== undefined) session.connection.write(half);
          halves[client] = null;
        };
        if (what === 'deaf' || what === 'hears') session.connection.stalled = what === 'deaf';
        if (what === 'answers') sessions.device.release(pick(sessions, count));
        if (what === 'dies') session.connection.die(null);
        if (what === 'reads' || what === 'writes' || what === 'half a write') end();
        for (let each = 0; each < (what === 'half a write' ? 1 : count); each++) {
          const cookie = ++asked[client]!;
          if (what === 'reads') session.connection.write(readOf(session, cookie, length));
          const payload = Buffer.alloc(length);
          const write = session.request(CMD.write, { cookie, payload });
          if (what === 'writes') session.connection.write(write);
          if (what === 'half a write') {
            session.connection.write(write.subarray(0, length / 2));
            halves[client] = write.subarray(length / 2);
          } else if (what !== 'reads' && what !== 'writes') asked[client]!--;
        }
        sessions.settle();
        // The limit, what six clients may begin at it, their stashes and their last slabs.
        expect(sessions.lent.bytes).toBeLessThan(TOTAL + 6 * (MIB + 3 * MIB));
      }
      for (const [index, session] of clients.entries()) {
        session.connection.stalled = false;
        const half = halves[index];
        if (half !== null && half !== undefined) session.connection.write(half);
      }
      sessions.settle();
      for (let rounds = 0; sessions.device.heldCount > 0; rounds++) {
        expect(rounds).toBeLessThan(10 * NBD_IN_FLIGHT_REQUESTS_MAX);
        sessions.device.release();
        sessions.settle();
      }
      for (const [index, session] of clients.entries()) {
        if (!session.connection.over) expect(session.take()).toHaveLength(asked[index]!);
        session.connection.die(null);
      }
      sessions.settle();
      expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
    });
    fc.assert(property, { numRuns: 60 });
  });
});

const pick = (sessions: Sessions, count: number): number[] =>
  Array.from({ length: Math.min(count, sessions.device.heldCount) }, (_, index) => index);
