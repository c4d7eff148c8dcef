/**
 * What is sent over a link arrives whole, once, with its content, whatever the lanes do to its order; control messages
 * keep theirs; a side that has no room holds the other back and loses nothing. Method: both ends in memory, with seeded
 * delays that reorder lanes, small pieces and small windows.
 */
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import {
  LINK_BACKLOG_BYTES_HIGH,
  LINK_BACKLOG_BYTES_LOW,
  LINK_BACKLOG_BYTES_MAX,
  LINK_EARLY_BYTES_MAX,
  LINK_RECEIVED_BYTES_HIGH,
} from '../../../src/io/limits.ts';
import { PeerLink } from '../../../src/replicator/link/peer-link.ts';
import { header, Hearer, NOTHING_LEFT, Pair, sendData } from './support/link-pair.ts';
import { dataFrame, entry, TOKEN, wireFrame } from './support/wire.ts';

const runDurable = (cursor: number) =>
  ({ kind: 'run-durable', run: '0'.repeat(32), cursor }) as const;

const command = (epoch: number) => ({ kind: 'command-done', epoch, error: null }) as const;

const SHARED = entry(0n, Buffer.alloc(2 ** 20));

describe('frames', () => {
  for (const lanes of [1, 2, 4, 16]) {
    test(`of ${lanes} lanes arrive once and whole, those of a lane in order`, async () => {
      for (let seed = 1; seed <= 10; seed += 1) {
        const options = { delayMs: [0, 20], pieceBytes: [1, 9000], windowBytes: 40_000 } as const;
        const pair = new Pair({ lanes, seed, ...options }).start();
        const sent = new Map<number, number>();
        let told = 0;
        for (let index = 0; index < 60; index += 1) {
          const payload = sendData(pair.primary, index, 1 + (index % 5), () => (told += 1));
          sent.set(index, crc32(payload));
          if (index % 7 === 0) await pair.run(5);
        }
        await pair.run(900);
        const { frames } = pair.atMirror;
        expect(frames.length).toBe(60);
        for (const frame of frames) expect(frame.checksum).toBe(sent.get(frame.header.index));
        expect(new Set(frames.map((frame) => frame.header.index)).size).toBe(60);
        const order = frames.map((frame) => frame.header.index);
        const sorted = order.toSorted((a, b) => a - b);
        if (lanes === 1) expect(order).toEqual(sorted);
        expect(told).toBe(60);
        expect(pair.mirror.bytesReceived).toBeGreaterThanOrEqual(pair.primary.bytesSent);
        pair.primary.end('done');
        await pair.run(5000);
        expect(pair.leftovers()).toEqual(NOTHING_LEFT);
      }
    });
  }

  test('of several lanes overtake each other', async () => {
    const pair = new Pair({ lanes: 4, delayMs: [0, 50], pieceBytes: [1000, 2000] }).start();
    for (let index = 0; index < 40; index += 1) sendData(pair.primary, index, 2);
    await pair.run(2000);
    const order = pair.atMirror.frames.map((frame) => frame.header.index);
    expect(order.length).toBe(40);
    expect(order).not.toEqual(order.toSorted((a, b) => a - b));
  });

  test('go where the least waits', async () => {
    const pair = new Pair({ lanes: 4 }).start();
    await pair.settle();
    const stalled = pair.network.wires[2]!;
    sendData(pair.primary, 0, 200);
    sendData(pair.primary, 1, 200);
    sendData(pair.primary, 2, 200);
    stalled.stall('to-listener');
    await pair.settle();
    for (let index = 3; index < 30; index += 1) {
      sendData(pair.primary, index, 20);
      await pair.settle();
    }
    expect(pair.atMirror.frames.map((frame) => frame.header.index)).not.toContain(2);
    expect(pair.atMirror.frames.length).toBe(29);
    stalled.heal('to-listener');
    await pair.settle();
    expect(pair.atMirror.frames.length).toBe(30);
  });

  test('that are sent together leave together', async () => {
    const pair = new Pair().start();
    await pair.settle();
    const before = pair.network.wires[0]!.connector.gatherings;
    for (let index = 0; index < 50; index += 1) sendData(pair.primary, index, 1);
    await pair.settle();
    expect(pair.network.wires[0]!.connector.gatherings - before).toBe(1);
    expect(pair.atMirror.frames.length).toBe(50);
  });

  test('go both ways at the same time, answers from inside the handler', async () => {
    const pair = new Pair({ lanes: 3, delayMs: [0, 5] }).start();
    pair.atMirror.onFrame = ({ index }) => pair.mirror.send(header(5, { epoch: index }));
    for (let index = 0; index < 100; index += 1) sendData(pair.primary, index, 1);
    await pair.run(500);
    const acked = pair.atPrimary.frames.map((frame) => frame.header.epoch);
    expect(acked.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, n) => n));
  });

  test('of one side do not pass for those of the other', () => {
    const pair = new Pair().start();
    expect(() => pair.primary.send(header(99))).toThrow('a frame has a kind');
    expect(() => pair.primary.send(header(6))).toThrow('their own way');
    expect(() => pair.primary.send(header(1))).toThrow('the payload fits the kind');
  });

  test('that came before the start are kept, those behind the handshake first', async () => {
    const pair = new Pair({ lanes: 0 });
    const wire = pair.network.wire();
    const hearer = new Hearer();
    const early = Buffer.concat([
      wireFrame(dataFrame(0, 2, 1)),
      wireFrame({ kind: 7, sequence: 1 }),
    ]);
    const split = early.length - 70;
    pair.mirror.addLane(0, wire.acceptor, early.subarray(0, split));
    early.copy(Buffer.alloc(0));
    wire.connector.start({ received() {}, drained() {}, ended() {}, closed() {} });
    wire.connector.send(Buffer.from(early.subarray(split)), () => {});
    early.fill(0);
    await pair.run(100);
    pair.mirror.start(hearer);
    expect(hearer.events).toEqual([]);
    await pair.settle();
    expect(hearer.events).toEqual(['frame', 'heartbeat']);
  });

  test('behind the handshake beyond the bound end the link', async () => {
    const pair = new Pair({ lanes: 0 });
    const wire = pair.network.wire();
    pair.mirror.start(pair.atMirror);
    const beats = Array.from({ length: LINK_EARLY_BYTES_MAX / 64 + 1 }, (_, sequence) =>
      wireFrame({ kind: 7, sequence }),
    );
    pair.mirror.addLane(0, wire.acceptor, Buffer.concat(beats));
    await pair.settle();
    expect(pair.atMirror.events.length).toBe(1);
    expect(pair.atMirror.ends[0]).toContain('LINK_PROTOCOL');
    expect(pair.atMirror.ends[0]).toContain('bytes behind the handshake of lane 0');
  });

  test('of a lane that is added later count like all others', async () => {
    const pair = new Pair().start();
    await pair.settle();
    pair.addLane(1);
    sendData(pair.primary, 0, 100);
    sendData(pair.primary, 1, 1);
    await pair.settle();
    expect(pair.atMirror.frames.length).toBe(2);
    expect(pair.primary.laneCount).toBe(2);
  });
});

describe('control messages', () => {
  test('come in their order among frames of many lanes', async () => {
    const pair = new Pair({ lanes: 4, delayMs: [0, 30], pieceBytes: [1, 3000] }).start();
    for (let number = 0; number < 50; number += 1) {
      sendData(pair.primary, number, 3);
      pair.primary.sendControl({ kind: 'run-commit', run: '0'.repeat(32), frames: number });
      pair.mirror.sendControl(runDurable(number * 4096));
    }
    await pair.run(900);
    const frames = pair.atMirror.controls.map((each) =>
      each.kind === 'run-commit' ? each.frames : -1,
    );
    expect(frames).toEqual(Array.from({ length: 50 }, (_, number) => number));
    expect(pair.atPrimary.controls).toEqual(
      Array.from({ length: 50 }, (_, number) => runDurable(number * 4096)),
    );
    expect(pair.mirror.heldBytes).toBe(0);
  });

  test('of another form, or on another lane, end the link', async () => {
    for (const [lane, text] of [
      [0, 'malformed control message'],
      [1, 'a control message on lane 1'],
    ] as const) {
      const pair = new Pair({ lanes: 0 });
      pair.mirror.start(pair.atMirror);
      const wire = pair.network.wire();
      pair.mirror.addLane(lane, wire.acceptor, Buffer.alloc(0));
      wire.connector.start({ received() {}, drained() {}, ended() {}, closed() {} });
      wire.connector.send(wireFrame({ kind: 6, lane, payload: Buffer.from([0xc1]) }), () => {});
      await pair.settle();
      expect(pair.atMirror.events.length).toBe(1);
      expect(pair.atMirror.ends[0]).toContain(text);
      expect(pair.atMirror.ends[0]).toContain('LINK_PROTOCOL');
      expect(pair.mirror.heldBytes).toBe(0);
    }
  });
});

describe('back pressure', () => {
  test('a side that keeps payloads is read no more at its bound, and goes on when it lets go', async () => {
    const pair = new Pair({ lanes: 4, windowBytes: 1 << 20 }).start();
    pair.atMirror.keeps = true;
    let sent = 0;
    let next = 0;
    const total = 200;
    for (; next < total; next += 1) {
      if (pair.primary.backlogBytes > 64 << 20) break;
      sendData(pair.primary, next, 256, () => (sent += 1));
      if (next % 8 === 0) await pair.settle();
    }
    await pair.settle();
    const held = pair.mirror.heldBytes;
    expect(held).toBeGreaterThanOrEqual(LINK_RECEIVED_BYTES_HIGH);
    expect(held).toBeLessThan(LINK_RECEIVED_BYTES_HIGH + 4 * (4 << 20));
    const arrived = pair.atMirror.frames.length;
    expect(arrived).toBeLessThan(next);
    // Not being read is no silence of the other side.
    await pair.run(20_000);
    expect(pair.primary.open && pair.mirror.open).toBe(true);
    expect(pair.atMirror.frames.length).toBe(arrived);
    pair.atMirror.keeps = false;
    for (const payload of pair.atMirror.kept.splice(0)) payload.release();
    await pair.settle();
    expect(pair.atMirror.frames.length).toBe(next);
    expect(sent).toBe(next);
    expect(pair.mirror.heldBytes).toBe(0);
  });

  test('a lane that is added while there is no room is not read either', async () => {
    const pair = new Pair({ windowBytes: 1 << 20 }).start();
    pair.atMirror.keeps = true;
    pair.atMirror.onFrame = () => {
      const full = pair.mirror.heldBytes >= LINK_RECEIVED_BYTES_HIGH;
      if (full && pair.mirror.laneCount === 1) pair.addLane(1);
    };
    for (let index = 0; pair.mirror.laneCount === 1; index += 1) {
      sendData(pair.primary, index, 7);
      if (index % 100 === 0) await pair.settle();
      if (index > 6000) throw new Error('it is never full');
    }
    await pair.settle();
    expect(pair.network.wires.map(({ acceptor }) => acceptor.paused)).toEqual([true, true]);
    for (const payload of pair.atMirror.kept.splice(0)) payload.release();
    expect(pair.network.wires.map(({ acceptor }) => acceptor.paused)).toEqual([false, false]);
  });

  test('a sender is told when its backlog is low again, and each part of it counts', async () => {
    const pair = new Pair({ lanes: 2, windowBytes: 100_000, delayMs: [1, 1] }).start();
    let index = 0;
    let total = 0;
    while (pair.primary.backlogBytes < LINK_BACKLOG_BYTES_HIGH) {
      total += 64 + sendData(pair.primary, index, 64).length;
      index += 1;
    }
    expect(pair.primary.backlogBytes).toBe(total);
    await pair.run(5);
    expect(pair.primary.backlogBytes).toBeLessThan(total);
    expect(pair.atPrimary.drains).toBe(0);
    while (pair.primary.backlogBytes >= LINK_BACKLOG_BYTES_LOW) {
      expect(pair.atPrimary.drains).toBe(0);
      await pair.run(1);
    }
    expect(pair.atPrimary.drains).toBe(1);
    await pair.run(200);
    expect(pair.atPrimary.drains).toBe(1);
    expect(pair.primary.backlogBytes).toBe(0);
    expect(pair.primary.bytesSent).toBe(total);
    expect(pair.mirror.bytesReceived).toBe(total);
  });

  test('a peer that does not read ends the link before what waits for it fills the memory', async () => {
    const pair = new Pair({ windowBytes: 10_000 }).start();
    await pair.settle();
    let frames = 0;
    for (; pair.primary.open; frames += 1) {
      const chunk = SHARED.subarray(28);
      pair.primary.send(header(8, { length: SHARED.length }), [SHARED.subarray(0, 28), chunk]);
      if (frames > 1000) throw new Error('the backlog has no bound');
    }
    expect(frames).toBe(Math.ceil(LINK_BACKLOG_BYTES_MAX / (SHARED.length + 64)));
    await pair.settle();
    expect(pair.atPrimary.ends).toEqual([
      'closed LINK_LOST: mirror node: the other node does not read',
    ]);
    expect(pair.primary.backlogBytes).toBe(0);
  });
});

test('a token of another link is no key to this one', async () => {
  const pair = new Pair({ lanes: 0 });
  const { clock } = pair;
  const stranger = new PeerLink({
    clock,
    side: 'primary',
    token: `${TOKEN.slice(2)}00`,
    peer: 'x',
  });
  const wire = pair.network.wire();
  pair.mirror.addLane(0, wire.acceptor, Buffer.alloc(0));
  stranger.addLane(0, wire.connector, Buffer.alloc(0));
  pair.mirror.start(pair.atMirror);
  stranger.start(pair.atPrimary);
  stranger.sendControl(command(1));
  await pair.settle();
  expect(pair.atMirror.ends).toEqual([
    'closed LINK_PROTOCOL: primary node sent a frame header with a wrong checksum on lane 0',
  ]);
});
