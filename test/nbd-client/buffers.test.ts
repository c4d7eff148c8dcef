/**
 * When a buffer may be used again, and how silence is measured: what real sockets and clocks do not let
 * a test decide.
 *
 * Method: a connection that takes bytes, and a clock that runs, only when the test says so.
 */
import { describe, expect, it } from 'vitest';
import { consecutive, TestBatch } from './support/batches.ts';
import { FLAGS } from './support/fake-server.ts';
import { puppets, type Puppets } from './support/puppets.ts';

const WITHOUT_FLUSH = 0x0001;

const notes = ({ client }: Puppets): string[] => {
  const told: string[] = [];
  client.onClosed = (error) => told.push(error.message);
  return told;
};

const writeInto = ({ client }: Puppets, told: string[], name: string, offset = 0): void =>
  client.write(Buffer.alloc(512), 0, 512, offset, (errno) => told.push(`${name} ${errno}`));

describe('the buffer of a write', () => {
  it('is in use until the kernel took it, even when the server answered before', async () => {
    const stage = await puppets(FLAGS);
    const told = notes(stage);
    stage.connection.taking = false;
    writeInto(stage, told, 'write');
    stage.connection.answer(0);
    expect(told).toEqual([]);
    stage.connection.take(1);
    expect(told).toEqual([]);
    stage.connection.take(1);
    expect(told).toEqual(['write 0']);
  });

  it('keeps its slot from being answered twice while it waits', async () => {
    const stage = await puppets(FLAGS);
    const told = notes(stage);
    stage.connection.taking = false;
    writeInto(stage, told, 'write');
    stage.connection.answer(0);
    stage.connection.answer(0);
    expect(stage.connection.destroyed).toBe(true);
    expect(told).toEqual([]);
  });

  it('is in use until the last byte of a dead connection was given up', async () => {
    const stage = await puppets(FLAGS);
    const told = notes(stage);
    stage.connection.taking = false;
    writeInto(stage, told, 'write');
    stage.client.destroy();
    stage.connection.take(1);
    stage.connection.handler?.closed(null);
    expect(told).toEqual([]);
    stage.connection.take(1);
    expect(told).toEqual(['write 5', expect.stringMatching(/cut by this side/)]);
    stage.client.onClosed = (): void => expect.unreachable('told before');
    stage.clock.advance(1);
  });
});

describe('the destination of a read', () => {
  it('is not touched by what came together with the answer that made the client cut', async () => {
    const stage = await puppets(FLAGS);
    const told = notes(stage);
    const target = Buffer.alloc(16, 0xcc);
    stage.client.flush(() => stage.client.destroy());
    stage.client.read(target, 0, 16, 0, (errno) => told.push(`read ${errno}`));
    await Promise.resolve();
    const [flush, read] = stage.connection.sent;
    stage.connection.say(reply(flush, 0), reply(read, 0), Buffer.alloc(16, 0x11));
    stage.connection.handler?.closed(null);
    expect(told).toEqual(['read 5', expect.stringMatching(/cut by this side/)]);
    expect(target).toEqual(Buffer.alloc(16, 0xcc));
  });
});

describe('the memory of a prepared batch', () => {
  it('is in use until the kernel took it all', async () => {
    const stage = await puppets(FLAGS);
    stage.connection.taking = false;
    const batch = new TestBatch(1, consecutive(4, 512), 1200);
    expect(batch.chunks.length).toBe(2);
    stage.client.sendPrepared(batch, batch.chunks);
    const [first, second] = stage.connection.sent;
    stage.connection.say(
      ...[first, second].flatMap((chunk) => [0, 540].map((at) => reply(chunk, at))),
    );
    expect(batch.told.size).toBe(4);
    stage.connection.take(1);
    expect(batch.doneCalls).toBe(0);
    const closing = stage.client.close();
    expect(stage.connection.finished).toBe(false);
    stage.connection.take(1);
    expect(batch.doneCalls).toBe(1);
    expect(stage.connection.finished).toBe(true);
    stage.connection.take();
    stage.connection.handler?.closed(null);
    await closing;
  });

  it('is in use until onClosed when the connection dies', async () => {
    const stage = await puppets(FLAGS);
    const told = notes(stage);
    stage.connection.taking = false;
    const batch = new TestBatch(1, consecutive(4, 512), 1200);
    stage.client.sendPrepared(batch, batch.chunks);
    stage.connection.handler?.closed(new Error('reset'));
    stage.connection.take(1);
    expect(told).toEqual([]);
    stage.connection.take(1);
    expect(told).toEqual([expect.stringMatching(/connection was lost \(reset\)/)]);
    expect(batch.doneCalls).toBe(0);
  });
});

const reply = (chunk: Buffer | undefined, at: number): Buffer => {
  if (chunk === undefined) throw new Error('nothing was sent');
  return Buffer.concat([Buffer.from('6744669800000000', 'hex'), chunk.subarray(at + 8, at + 16)]);
};

describe('a flush without FLUSH', () => {
  it('fails with the writes it waits for when the connection dies', async () => {
    const stage = await puppets(WITHOUT_FLUSH);
    const told = notes(stage);
    writeInto(stage, told, 'write');
    stage.client.flush((errno) => told.push(`flush ${errno}`));
    await Promise.resolve();
    stage.connection.handler?.closed(null);
    expect(told.toSorted()).toEqual([
      'flush 5',
      'nbd://h:10809/d: the connection was lost',
      'write 5',
    ]);
    expect(told.at(-1)).toMatch(/lost/);
  });
});

describe('silence', () => {
  it('is not broken by bytes that the kernel takes for a dead peer', async () => {
    const stage = await puppets(FLAGS, 1000);
    const told = notes(stage);
    for (let count = 0; count < 20; count += 1) {
      writeInto(stage, told, 'write');
      await Promise.resolve();
      stage.clock.advance(100);
    }
    expect(stage.connection.destroyed).toBe(true);
  });

  it('is broken by the progress of a send that was stuck', async () => {
    const stage = await puppets(FLAGS, 1000);
    notes(stage);
    stage.connection.taking = false;
    const batch = new TestBatch(1, consecutive(40, 512), 600);
    stage.client.sendPrepared(batch, batch.chunks);
    for (let count = 0; count < 30; count += 1) {
      stage.clock.advance(300);
      stage.connection.take(1);
    }
    expect(stage.connection.destroyed).toBe(false);
    stage.clock.advance(1300);
    expect(stage.connection.destroyed).toBe(true);
  });

  it('counts from the last byte, and lasts at least the time given', async () => {
    const stage = await puppets(FLAGS, 1000);
    const told = notes(stage);
    writeInto(stage, told, 'first');
    writeInto(stage, told, 'second');
    await Promise.resolve();
    stage.clock.advance(800);
    stage.connection.answer(0);
    stage.clock.advance(1000);
    expect(stage.connection.destroyed).toBe(false);
    stage.clock.advance(300);
    expect(stage.connection.destroyed).toBe(true);
  });

  it('needs no timer while nothing is asked', async () => {
    const stage = await puppets(FLAGS, 1000);
    const told = notes(stage);
    expect(stage.clock.pending).toBe(0);
    writeInto(stage, told, 'write');
    await Promise.resolve();
    stage.connection.answer(0);
    stage.clock.advance(60_000);
    expect(told).toEqual(['write 0']);
    expect(stage.clock.pending).toBe(0);
  });
});
