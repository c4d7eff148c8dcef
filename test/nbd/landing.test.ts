/**
 * Large payloads are read into the memory of their request. Shown on the fake network, whose connections
 * read into the buffer that the server names, as sockets do: the content is right whatever the cuts, small
 * requests in between are found, and memory that was lent to the system is nobody else's until the system
 * has let go of it. The fake writes 0xdd into lent memory at the worst moment.
 */
import { describe, expect, it } from 'vitest';
import {
  NBD_FRESH_MS_MAX,
  NBD_LANDING_BYTES_MIN,
  NBD_PAYLOAD_BYTES_MAX,
} from '../../src/io/limits.ts';
import { FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { request } from './support/wire.ts';

const LARGE = 4 * NBD_LANDING_BYTES_MIN;
const WRITE = 1;
const READ = 0;

const pattern = (length: number, seed: number): Buffer =>
  Buffer.from(Array.from({ length }, (_, index) => (index * 31 + seed) & 0xff));

const write = (cookie: number, offset: number, payload: Buffer): Buffer =>
  request(WRITE, { cookie, offset, payload });

describe('a large payload', () => {
  for (const cut of [997, 4096, 65_536, LARGE - 1, LARGE, LARGE + 27, LARGE + 28]) {
    it(`is whole when it comes in pieces of ${cut} bytes, with small requests around it`, async () => {
      const world = await FakeWorld.create(4 << 20);
      const client = world.transmit();
      const first = pattern(LARGE, 1);
      const second = pattern(LARGE, 2);
      const stream = Buffer.concat([
        write(1, 0, first),
        write(2, LARGE, second),
        write(3, 2 * LARGE, pattern(512, 3)),
        request(READ, { cookie: 4, offset: 2 * LARGE, length: 512 }),
        write(5, 3 * LARGE, first),
      ]);
      for (let at = 0; at < stream.length; at += cut) {
        client.write(Buffer.from(stream.subarray(at, at + cut)));
        world.settle();
      }
      world.settle();
      const { content } = world.device;
      expect(content.subarray(0, LARGE).equals(first)).toBe(true);
      expect(content.subarray(LARGE, 2 * LARGE).equals(second)).toBe(true);
      expect(content.subarray(3 * LARGE, 4 * LARGE).equals(first)).toBe(true);
      expect(client.take().length).toBe(5 * 16 + 512);
      client.die(null);
      world.settle();
      expect(world.leftovers()).toEqual(NOTHING_LEFT);
    });
  }

  it('lands past the shared buffer, and the header of the next one comes alone', async () => {
    const world = await FakeWorld.create(4 << 20);
    const client = world.transmit();
    const stream = write(1, 0, pattern(LARGE, 1));
    client.write(stream.subarray(0, 100));
    world.settle();
    expect(client.landing?.length).toBe(LARGE - 72);
    client.write(stream.subarray(100));
    world.settle();
    expect(client.landing?.length).toBe(28);
    client.write(request(READ, { cookie: 2, offset: 0, length: 512 }));
    world.settle();
    expect(client.landing).toBe(null);
  });
});

describe('memory that the system may still write to', () => {
  it("is nobody else's until the connection that lent it is closed", async () => {
    const world = await FakeWorld.create(4 << 20);
    const dying = world.transmit();
    const good = world.transmit();
    dying.write(write(1, 0, pattern(LARGE, 1)).subarray(0, 5000));
    world.settle();
    // The end of the connection takes its time: until then the system may write where it was told to.
    dying.stalled = true;
    dying.endInput();
    world.settle();
    expect(dying.ending).toBe(true);
    const payload = pattern(LARGE, 9);
    const stream = write(1, LARGE, payload);
    good.write(stream.subarray(0, 5000));
    world.settle();
    expect(good.landing).not.toBe(null);
    expect(good.landing?.buffer).not.toBe(dying.landing?.buffer);
    dying.scribble();
    good.write(stream.subarray(5000));
    world.settle();
    expect(world.device.content.subarray(LARGE, 2 * LARGE).equals(payload)).toBe(true);
    dying.die(null);
    good.die(null);
    world.settle();
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});

describe('a payload that may be old', () => {
  it('is not looked through when one read brought more than may wait', async () => {
    const world = await FakeWorld.create(2 * NBD_PAYLOAD_BYTES_MAX);
    const client = world.transmit();
    const stream = write(1, 0, Buffer.alloc(NBD_PAYLOAD_BYTES_MAX, 1));
    client.write(stream.subarray(0, 100));
    world.settle();
    world.clock.advance(NBD_FRESH_MS_MAX + 1);
    client.write(stream.subarray(100));
    client.endInput();
    world.settle();
    expect(world.log.at(-1)?.fields['reason']).toMatch(/without NBD_CMD_DISC/);
    expect(world.device.content.includes(1)).toBe(false);
    expect(world.leftovers()).toEqual(NOTHING_LEFT);
  });
});
