/**
 * Requests of a client that is gone are not started: it may have sent the same write again on another
 * connection, and newer ones after it. Method: a fake connection that says what the system would; time is the
 * test's. What the client sent before a DISC it meant, whatever it did then.
 */
import { beforeEach, describe, expect, it } from 'vitest';

import {
  NBD_FRESH_MS_MAX,
  NBD_IN_FLIGHT_REQUESTS_MAX,
  NBD_READ_BUFFER_BYTES,
  NBD_STASH_BYTES_MAX,
} from '../../src/io/limits.ts';
import { type Session, Sessions } from './support/sessions.ts';
import { CMD } from './support/wire.ts';

const SIZE = 1 << 20;
const WITHOUT_DISC = 'client closed the connection without NBD_CMD_DISC';

describe.each(['simple', 'structured', 'extended'] as const)('in %s form', (form) => {
  let sessions: Sessions;
  let client: Session;

  beforeEach(() => {
    sessions = new Sessions(SIZE);
    client = sessions.open({ form });
  });

  const writes = (count: number, from = 0): Buffer =>
    Buffer.concat(
      Array.from({ length: count }, (_, index) =>
        client.request(CMD.write, {
          cookie: from + index,
          offset: (from + index) * 64,
          payload: Buffer.alloc(64, 1),
        }),
      ),
    );

  const disc = (): Buffer => client.request(CMD.disc);

  const started = (): number =>
    sessions.device.calls.filter(({ operation }) => operation === 'write').length;

  /** More than may be in flight: some wait in the stash. */
  const fillUp = (): void => {
    sessions.device.mode = 'hold';
    client.connection.write(writes(NBD_IN_FLIGHT_REQUESTS_MAX + 500));
    sessions.settle();
    expect(started()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    expect(client.connection.paused).toBe(true);
  };

  const answerAll = (): void => {
    sessions.device.mode = 'now';
    sessions.device.release();
    sessions.settle();
  };

  const nothingIsLeft = (): void => {
    client.connection.die(null);
    sessions.settle();
    expect(sessions.lent).toEqual({ bytes: 0, requests: 0 });
    expect(client.gone).toBe(true);
  };

  const standStill = (): void => sessions.clock.advance(NBD_FRESH_MS_MAX + 1);

  it('what waits is dropped when the client ended meanwhile', () => {
    fillUp();
    client.connection.endInput();
    answerAll();
    expect(started()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    expect(client.reason).toBe(WITHOUT_DISC);
    nothingIsLeft();
  });

  it('what waits is dropped when the connection was reset meanwhile', () => {
    fillUp();
    client.connection.reset();
    answerAll();
    expect(started()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    expect([client.connection.over, client.gone]).toEqual([true, true]);
    nothingIsLeft();
  });

  it('what is left in the socket is not started either', () => {
    fillUp();
    client.connection.write(writes(300, 5000), writes(300, 5300));
    client.connection.endInput();
    answerAll();
    expect(started()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    nothingIsLeft();
  });

  it('all is started when it ends in DISC, also what was left in the socket', () => {
    fillUp();
    client.connection.write(writes(300, 5000), writes(300, 5300), disc());
    client.connection.endInput();
    answerAll();
    expect(started()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX + 500 + 600);
    expect(client.reason).toBe('client disconnected');
    nothingIsLeft();
  });

  it('nothing is started before it is known how the bytes end', () => {
    fillUp();
    client.connection.endInput();
    client.connection.withholdsEnd = true;
    answerAll();
    expect(started()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    client.connection.write(disc());
    client.connection.withholdsEnd = false;
    sessions.settle();
    expect(started()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX + 500);
    nothingIsLeft();
  });

  it('a client that left too much to look through counts as gone', () => {
    fillUp();
    const payload = Buffer.alloc(1 << 19);
    const large = client.request(CMD.write, { payload });
    const count = Math.ceil((NBD_STASH_BYTES_MAX + NBD_READ_BUFFER_BYTES) / large.length) + 1;
    for (let index = 0; index < count; index++) client.connection.write(large);
    client.connection.write(disc());
    client.connection.endInput();
    answerAll();
    expect(started()).toBe(NBD_IN_FLIGHT_REQUESTS_MAX);
    expect(client.reason).toBe(WITHOUT_DISC);
    nothingIsLeft();
  });

  describe('bytes that may be old', () => {
    it('are not started when their client is gone', () => {
      standStill();
      client.connection.write(writes(3));
      client.connection.endInput();
      sessions.settle();
      expect(started()).toBe(0);
      expect(client.reason).toBe(WITHOUT_DISC);
      nothingIsLeft();
    });

    it('are started when their client is there', () => {
      standStill();
      client.connection.write(writes(3));
      expect(client.take()).toHaveLength(3);
      expect(client.connection.healthAsked).toBe(1);
    });

    it('are started when they end in DISC', () => {
      standStill();
      client.connection.write(writes(3), disc());
      client.connection.endInput();
      expect(client.take()).toHaveLength(3);
      expect(client.reason).toBe('client disconnected');
      nothingIsLeft();
    });

    it.each([1, 27, 28, 40, 64, 91])('do not complete a WRITE whose first %i bytes came', (cut) => {
      const write = writes(1);
      client.connection.write(write.subarray(0, cut));
      sessions.settle();
      standStill();
      client.connection.write(write.subarray(cut));
      client.connection.endInput();
      sessions.settle();
      expect(started()).toBe(0);
      nothingIsLeft();
    });

    it.each([1, 27, 28, 40, 64, 91])(
      'complete a WRITE whose first %i bytes came, before a DISC',
      (cut) => {
        const write = writes(1);
        client.connection.write(write.subarray(0, cut));
        sessions.settle();
        standStill();
        client.connection.write(write.subarray(cut), disc());
        client.connection.endInput();
        expect(client.take()).toHaveLength(1);
        expect(started()).toBe(1);
        nothingIsLeft();
      },
    );

    it('of a refused WRITE are skipped on the way to the DISC', () => {
      const refused = client.request(CMD.write, { offset: SIZE, payload: Buffer.alloc(3000, 3) });
      client.connection.write(refused.subarray(0, 1000));
      sessions.settle();
      standStill();
      client.connection.write(refused.subarray(1000), writes(1), disc());
      client.connection.endInput();
      expect(client.take()).toHaveLength(2);
      expect(started()).toBe(1);
      nothingIsLeft();
    });
  });

  it.each(['inFlightBytes', 'inFlightBytesTotal'] as const)(
    'a WRITE that takes all of %s still comes to its DISC',
    (limit) => {
      sessions = new Sessions(SIZE, { [limit]: SIZE / 4 });
      client = sessions.open({ form });
      const write = client.request(CMD.write, { payload: Buffer.alloc(SIZE / 2, 1) });
      client.connection.write(write.subarray(0, 1000));
      sessions.settle();
      standStill();
      client.connection.write(write.subarray(1000), writes(1), disc());
      client.connection.endInput();
      expect(client.take()).toHaveLength(2);
      expect(started()).toBe(2);
      expect(client.reason).toBe('client disconnected');
      nothingIsLeft();
    },
  );

  it('a client that keeps sending is not asked for: the system call would cost 5 % at depth 1', () => {
    for (let round = 0; round < 50; round++) {
      client.connection.write(writes(1, round));
      sessions.settle();
      sessions.clock.advance(NBD_FRESH_MS_MAX - 1);
    }
    expect(started()).toBe(50);
    expect(client.connection.healthAsked).toBe(0);
  });
});
