/**
 * Devices that answer later, in any order, with or without keeping the bytes. Method: a device that
 * holds requests until told; the fake network scribbles over each delivery, so bytes that were not
 * copied in time are found out.
 */
import { beforeEach, describe, expect, it } from 'vitest';

import { type FakeConnection, FakeWorld, NOTHING_LEFT } from './support/fake-world.ts';
import { CMD, ERR, type Reply, request, simpleReplies } from './support/wire.ts';

const SIZE = 1 << 20;

let world: FakeWorld;
let client: FakeConnection;

beforeEach(async () => {
  world = await FakeWorld.create(SIZE);
  client = world.transmit();
  world.device.mode = 'hold';
});

const take = (length = 0): Reply[] => {
  world.settle();
  const { replies, rest } = simpleReplies(client.take(), () => length);
  expect(rest).toHaveLength(0);
  return replies;
};

const leave = (): void => {
  client.write(request(CMD.disc));
  world.settle();
  expect(world.leftovers()).toEqual(NOTHING_LEFT);
};

/** READs at 0, 4 KiB, ...; the data of each is its number. */
const reads = (count: number, length: number): Buffer[] =>
  Array.from({ length: count }, (_, index) => {
    world.device.content.fill(index + 1, index * length, (index + 1) * length);
    return request(CMD.read, { cookie: index, offset: index * length, length });
  });

const expectReads = (replies: readonly Reply[], order: readonly number[], length: number): void => {
  expect(replies.map(({ cookie }) => Number(cookie))).toEqual(order);
  for (const { cookie, data } of replies) {
    expect(data.equals(Buffer.alloc(length, Number(cookie) + 1)), `data of ${cookie}`).toBe(true);
  }
};

describe.each([512, 4096, 16 * 1024, 16 * 1024 + 1, 100_000])('reads of %i bytes', (length) => {
  it('answered in reverse', () => {
    client.write(Buffer.concat(reads(8, length)));
    expect(take()).toEqual([]);
    world.device.release([7, 6, 5, 4, 3, 2, 1, 0]);
    expectReads(take(length), [7, 6, 5, 4, 3, 2, 1, 0], length);
    leave();
  });

  it('answered at once between reads that are not', () => {
    const all = reads(5, length);
    client.write(all[0]!, all[1]!);
    world.settle();
    world.device.mode = 'now';
    client.write(all[2]!, all[3]!);
    expectReads(take(length), [2, 3], length);
    world.device.mode = 'hold';
    client.write(all[4]!);
    world.settle();
    world.device.release([2, 0, 1]);
    expectReads(take(length), [4, 0, 1], length);
    leave();
  });

  it('failing carry no data', () => {
    client.write(Buffer.concat(reads(3, length)));
    world.settle();
    world.device.release([1]);
    world.device.failures.set('read', 5);
    world.device.release();
    world.settle();
    const { replies, rest } = simpleReplies(client.take(), () => length);
    expect(rest).toHaveLength(0);
    expect(replies.map(({ error, cookie }) => [error, cookie])).toEqual([
      [0, 1n],
      [ERR.io, 0n],
      [ERR.io, 2n],
    ]);
    leave();
  });
});

it('gives back the place of a read that was started in the slab and then kept', () => {
  const [first, second, third] = reads(3, 4096) as [Buffer, Buffer, Buffer];
  const { device } = world;
  const read = device.read.bind(device);
  let calls = 0;
  device.read = (request) => {
    device.mode = ++calls === 2 ? 'hold' : 'now';
    return read(request);
  };
  // In one delivery: answered, kept, answered.
  client.write(Buffer.concat([first, second, third]));
  expectReads(take(4096), [0, 2], 4096);
  device.release();
  expectReads(take(4096), [1], 4096);
  leave();
});

it('keeps what a device had read before it found that the rest blocks', () => {
  const { device } = world;
  device.read = (request) => {
    request.buffer.fill(0xaa, request.start, request.start + 100);
    request.retain();
    held.push(() => {
      request.buffer.fill(0xbb, request.start + 100, request.start + request.length);
      request.complete(0);
    });
    return -1;
  };
  const held: (() => void)[] = [];
  client.write(request(CMD.read, { cookie: 3, length: 200 }));
  world.settle();
  for (const release of held) release();
  const [reply] = take(200);
  expect(reply?.data).toEqual(Buffer.concat([Buffer.alloc(100, 0xaa), Buffer.alloc(100, 0xbb)]));
});

const payload = (value: number, length: number): Buffer => Buffer.alloc(length, value);

describe('writes', () => {
  it.each([1, 4096, 300_000])('of %i bytes keep their bytes until they are applied', (length) => {
    client.write(
      request(CMD.write, { cookie: 1, offset: 0, payload: payload(1, length) }),
      request(CMD.write, { cookie: 2, offset: length, payload: payload(2, length) }),
    );
    expect(take()).toEqual([]);
    expect(world.device.content.readUInt8(0)).toBe(0);
    world.device.release([1, 0]);
    expect(take().map(({ cookie }) => cookie)).toEqual([2n, 1n]);
    const { content } = world.device;
    expect(content.subarray(0, length).equals(payload(1, length))).toBe(true);
    expect(content.subarray(length, 2 * length).equals(payload(2, length))).toBe(true);
    leave();
  });

  it('whose device needs no bytes any more cost no memory', () => {
    world.device.retains = false;
    client.write(request(CMD.write, { cookie: 1, payload: payload(1, 4096) }));
    world.settle();
    expect(world.server.bufferBytes.lent).toBe(0);
    world.device.release();
    expect(take()).toHaveLength(1);
    leave();
  });
});

it('answers what was completed in one turn with one send', () => {
  client.write(Buffer.concat(reads(32, 4096)));
  world.settle();
  const before = client.sends;
  world.device.release();
  expect(take(4096)).toHaveLength(32);
  expect(client.sends - before).toBe(1);
});

it('answers what came in one delivery with one send', () => {
  world.device.mode = 'now';
  const before = client.sends;
  client.write(Buffer.concat(reads(32, 4096)));
  expect(take(4096)).toHaveLength(32);
  expect(client.sends - before).toBe(1);
});

it('keeps connections apart', () => {
  const other = world.transmit();
  client.write(request(CMD.read, { cookie: 1, length: 4096 }));
  other.write(request(CMD.read, { cookie: 2, length: 4096 }));
  world.settle();
  world.device.release([1, 0]);
  expect(take(4096).map(({ cookie }) => cookie)).toEqual([1n]);
  const { replies } = simpleReplies(other.take(), () => 4096);
  expect(replies.map(({ cookie }) => cookie)).toEqual([2n]);
});
