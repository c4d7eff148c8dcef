/**
 * What the fuzzer found, each once more by itself. Method: the server in memory, and the shortest way to
 * where it went wrong.
 */
import { describe, expect, it } from 'vitest';
import { Dice } from '../../scripts/fuzz/dice.ts';
import { FuzzDevice } from '../../scripts/fuzz/memory-device.ts';
import { MemoryWorld } from '../../scripts/fuzz/memory-world.ts';
import { NBD_LIMITS_DEFAULT } from '../../src/nbd/server/server-limits.ts';
import * as wire from '../wire/encoder.ts';

const MIB = 2 ** 20;

/** A server of a device that answers late, and what all its clients together may make it hold. */
async function lateWorld(inFlightBytesTotal: number): Promise<MemoryWorld> {
  const device = new FuzzDevice({
    sizeBytes: MIB,
    readOnly: false,
    answers: 'late',
    failing: [],
    slowZeroes: false,
    dice: new Dice(1, 1),
  });
  const facts = {
    exports: [],
    defaultName: 'disk',
    tls: 'none',
    listing: true,
    privately: false,
    optionsMax: 64,
  } as const;
  const limits = { ...NBD_LIMITS_DEFAULT, inFlightBytesTotal };
  const world = new MemoryWorld(facts, new Map([['disk', device]]), limits);
  await world.start();
  return world;
}

describe('memory that all connections share', () => {
  it('is not held by a connection that has nothing to do', async () => {
    const world = await lateWorld(16 * MIB);
    const connection = world.connect()!;
    connection.write(wire.clientFlags(), wire.go('disk'));
    connection.write(wire.request(wire.READ, { length: 65536n }));
    world.settle();
    expect(connection.take().length).toBe(18 + 52 + 16 + 65536);
    expect(world.server.bufferBytes.lent).toBe(0);
  });

  it('does not make everybody wait for the others', async () => {
    const world = await lateWorld(MIB);
    const connections = Array.from({ length: 8 }, () => world.connect()!);
    const read = wire.request(wire.READ, { length: 65536n });
    for (const connection of connections)
      connection.write(wire.clientFlags(), wire.go('disk'), read);
    world.settle();
    for (const connection of connections) connection.take();
    for (const connection of connections) connection.write(Buffer.concat([read, read, read]));
    world.settle();
    for (const connection of connections) expect(connection.take().length).toBe(3 * 65552);
  });
});
