/**
 * However a link ends, both sides hear it once and last, every sender is told that its memory is free, nothing is held
 * any more, and no timer runs. A lane that is silent, cut, or brings what is no frame ends all of them. Method: both ends
 * in memory, on a clock of the test; connections that are cut, stall in one direction, or are written to by hand.
 */
import { describe, expect, test } from 'vitest';
import { BlockferryError } from '../../../src/io/errors.ts';
import {
  LINK_CLOSE_MS_MAX,
  LINK_HEARTBEAT_MS,
  LINK_SILENCE_MS_MAX,
} from '../../../src/io/limits.ts';
import { PeerLink } from '../../../src/replicator/link/peer-link.ts';
import { header, Hearer, NOTHING_LEFT, Pair, sendData } from './support/link-pair.ts';
import { TOKEN, wireFrame } from './support/wire.ts';

/** Nothing comes behind the end. */
function expectEnds(hearer: Hearer, text: string): void {
  expect(hearer.ends.length).toBe(1);
  expect(hearer.events.at(-1)).toBe(hearer.ends[0]);
  expect(hearer.ends[0]).toContain(text);
}

const stop = (): BlockferryError => new BlockferryError('LINK_LOST', 'a test cut it');

describe('heartbeats', () => {
  test('go when nothing else did, carry the positions, and keep an idle link alive', async () => {
    const pair = new Pair({ lanes: 3 }).start();
    pair.mirror.setHeartbeat({ epoch: 5, index: 7, aux: 4 });
    await pair.run(100_000);
    expect(pair.primary.open && pair.mirror.open).toBe(true);
    const { heartbeats } = pair.atPrimary;
    expect(heartbeats.length).toBe(100_000 / LINK_HEARTBEAT_MS);
    expect(heartbeats.at(-1)).toMatchObject({ kind: 7, epoch: 5, index: 7, aux: 4 });
    expect(pair.atPrimary.frames).toEqual([]);
    pair.mirror.setHeartbeat({ epoch: 6, index: 8, aux: 5 });
    await pair.run(LINK_HEARTBEAT_MS);
    expect(heartbeats.at(-1)).toMatchObject({ epoch: 6, index: 8, aux: 5 });
  });

  test('are left out while frames go', async () => {
    const pair = new Pair({ lanes: 1 }).start();
    for (let index = 0; index < 100; index += 1) {
      sendData(pair.primary, index, 1);
      await pair.run(LINK_HEARTBEAT_MS / 2);
    }
    expect(pair.atMirror.heartbeats).toEqual([]);
    await pair.run(2 * LINK_HEARTBEAT_MS);
    expect(pair.atMirror.heartbeats.length).toBeGreaterThan(0);
  });

  test('go on lanes of their own while others are busy', async () => {
    const pair = new Pair({ lanes: 2 }).start();
    for (let index = 0; index < 40; index += 1) {
      sendData(pair.primary, index, 1);
      await pair.run(LINK_HEARTBEAT_MS);
    }
    expect(pair.primary.open && pair.mirror.open).toBe(true);
  });
});

describe('silence', () => {
  for (const lane of [0, 2]) {
    for (const direction of ['to-listener', 'to-connector'] as const) {
      test(`of lane ${lane} ${direction} ends the link, not before its time`, async () => {
        const pair = new Pair({ lanes: 3, delayMs: [5, 5] }).start();
        await pair.run(3 * LINK_HEARTBEAT_MS + 100);
        pair.network.wires[lane]!.stall(direction);
        const [deaf, hearer] =
          direction === 'to-listener'
            ? [pair.mirror, pair.atMirror]
            : [pair.primary, pair.atPrimary];
        await pair.run(LINK_SILENCE_MS_MAX - 200);
        expect(deaf.open).toBe(true);
        await pair.run(LINK_HEARTBEAT_MS + 200);
        expectEnds(hearer, `lane ${lane} was silent for 5 s`);
        expect(hearer.ends[0]).toContain('LINK_LOST');
        // The other side hears of it, on the lanes that still work.
        expect(pair.atMirror.ends.length).toBe(1);
        expect(pair.atPrimary.ends.length).toBe(1);
        await pair.run(LINK_CLOSE_MS_MAX);
        expect(pair.leftovers()).toEqual(NOTHING_LEFT);
      });
    }
  }

  test('of a link whose other end is gone without a word ends it on both sides', async () => {
    const pair = new Pair({ lanes: 2 }).start();
    await pair.run(1000);
    for (const wire of pair.network.wires) {
      wire.stall('to-listener');
      wire.stall('to-connector');
    }
    let told = 0;
    for (let index = 0; index < 100; index += 1)
      sendData(pair.primary, index, 20, () => (told += 1));
    await pair.run(LINK_SILENCE_MS_MAX + 2 * LINK_HEARTBEAT_MS);
    expectEnds(pair.atPrimary, 'silent');
    expectEnds(pair.atMirror, 'silent');
    expect(told).toBe(100);
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
  });

  test('that is shorter is none', async () => {
    const pair = new Pair().start();
    await pair.run(1500);
    const wire = pair.network.wires[0]!;
    for (let round = 0; round < 3; round += 1) {
      wire.stall('to-listener');
      await pair.run(LINK_SILENCE_MS_MAX - LINK_HEARTBEAT_MS - 600);
      wire.heal('to-listener');
      await pair.run(LINK_HEARTBEAT_MS);
    }
    expect(pair.primary.open && pair.mirror.open).toBe(true);
  });

  test('is not what a process that stood still takes it for', async () => {
    const pair = new Pair({ lanes: 2, delayMs: [1, 1] }).start();
    await pair.run(1500);
    for (let round = 0; round < 5; round += 1) {
      pair.clock.lose(60_000);
      await pair.run(100);
    }
    await pair.run(10_000);
    expect(pair.primary.open && pair.mirror.open).toBe(true);
  });
});

describe('a link that is ended', () => {
  test('in order delivers all that was sent before, on every lane', async () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const options = { delayMs: [0, 40], pieceBytes: [1, 20_000], windowBytes: 50_000 } as const;
      const pair = new Pair({ lanes: 4, seed, ...options }).start();
      let told = 0;
      for (let index = 0; index < 50; index += 1)
        sendData(pair.primary, index, 4, () => (told += 1));
      pair.primary.sendControl({ kind: 'run-commit', run: '0'.repeat(32), frames: 50 });
      pair.primary.end('the node is stopping');
      expect(pair.primary.open).toBe(false);
      await pair.run(3000);
      expect(pair.atMirror.frames.length).toBe(50);
      expect(pair.atMirror.controls.length).toBe(1);
      expect(told).toBe(50);
      expectEnds(pair.atPrimary, 'LINK_ENDED: mirror node: the node is stopping');
      expectEnds(pair.atMirror, 'LINK_LOST: primary node: the other node ended the link');
      expect(pair.leftovers()).toEqual(NOTHING_LEFT);
    }
  });

  test('in order waits for the slowest lane, also when the others are long done', async () => {
    const pair = new Pair({ lanes: 3, windowBytes: 20_000 }).start();
    await pair.settle();
    for (let index = 0; index < 6; index += 1) sendData(pair.primary, index, 100);
    const slow = pair.network.wires[1]!;
    slow.stall('to-listener');
    pair.primary.end('the node is stopping');
    await pair.run(LINK_CLOSE_MS_MAX - 1000);
    expect(pair.atMirror.frames.length).toBe(4);
    slow.heal('to-listener');
    await pair.run(500);
    expect(pair.atMirror.frames.length).toBe(6);
    await pair.run(5000);
    expectEnds(pair.atPrimary, 'LINK_ENDED');
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
  });

  test('in order is cut when the other side takes nothing', async () => {
    const pair = new Pair({ windowBytes: 10_000 }).start();
    await pair.settle();
    pair.network.wires[0]!.stall('to-listener');
    let told = 0;
    sendData(pair.primary, 0, 100, () => (told += 1));
    await pair.settle();
    pair.primary.end('the node is stopping');
    await pair.run(LINK_CLOSE_MS_MAX - 1);
    expect(pair.atPrimary.ends).toEqual([]);
    await pair.run(2);
    expectEnds(pair.atPrimary, 'LINK_ENDED');
    expect(told).toBe(1);
  });

  test('twice, or in order and then at once, ends once, for the first reason', async () => {
    const pair = new Pair({ lanes: 2, delayMs: [10, 10] }).start();
    await pair.run(100);
    pair.primary.end('first');
    pair.primary.end('second');
    pair.primary.destroy(stop());
    pair.primary.destroy(stop());
    await pair.run(1000);
    expectEnds(pair.atPrimary, 'first');
    expect(pair.atMirror.ends.length).toBe(1);
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
  });

  test('at once tells every sender, never inside the call', async () => {
    const pair = new Pair({ lanes: 2, windowBytes: 1000 }).start();
    await pair.settle();
    const events: string[] = [];
    for (let index = 0; index < 10; index += 1) {
      sendData(pair.primary, index, 2, () => events.push('sent'));
    }
    pair.primary.destroy(stop());
    sendData(pair.primary, 10, 2, () => events.push('late'));
    expect(events).toEqual([]);
    expect(pair.atPrimary.ends).toEqual([]);
    await pair.settle();
    expect(events.filter((event) => event === 'sent').length).toBe(10);
    expect(pair.primary.bytesSent).toBe(0);
    expect(events).toContain('late');
    expectEnds(pair.atPrimary, 'a test cut it');
    sendData(pair.primary, 11, 2, () => events.push('after'));
    pair.primary.sendControl({ kind: 'run-abort', run: '0'.repeat(32) });
    await pair.settle();
    expect(events.at(-1)).toBe('after');
    expectEnds(pair.atPrimary, 'a test cut it');
  });

  test('is told when the last sender was, and all memory is free', async () => {
    const bare = new Pair({ lanes: 0 }).start();
    await bare.settle();
    const order: string[] = [];
    bare.atPrimary.onClosed = () => order.push('closed');
    bare.primary.destroy(stop());
    bare.primary.send(header(4), [], () => order.push('sent'));
    await bare.settle();
    expect(order).toEqual(['sent', 'closed']);
    const pair = new Pair({ lanes: 3, windowBytes: 300_000, delayMs: [10, 10] }).start();
    let heldAtEnd = -1;
    pair.atMirror.onClosed = () => (heldAtEnd = pair.mirror.heldBytes);
    for (let index = 0; index < 3; index += 1) sendData(pair.primary, index, 200);
    await pair.run(15);
    expect(pair.mirror.heldBytes).toBeGreaterThan(3 * 200 * 4096);
    pair.mirror.destroy(stop());
    await pair.settle();
    expect(heldAtEnd).toBe(0);
  });

  test('inside a call of its handler delivers nothing more', async () => {
    const pair = new Pair({ lanes: 2 }).start();
    pair.atMirror.onFrame = ({ index }) => {
      if (index === 3) pair.mirror.destroy(stop());
    };
    for (let index = 0; index < 10; index += 1) pair.primary.send(header(4, { index }));
    await pair.settle();
    // Lane 0 brings those of even numbers first; 5 stands behind 3 on the other.
    const seen = pair.atMirror.frames.map(({ header: { index } }) => index);
    expect(seen).toEqual([0, 2, 4, 6, 8, 1, 3]);
    expectEnds(pair.atMirror, 'a test cut it');
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
  });

  test('before it was started tells it after the start', async () => {
    for (const lanes of [0, 1, 3]) {
      const pair = new Pair({ lanes });
      pair.primary.destroy(stop());
      pair.mirror.end('not needed');
      await pair.run(6000);
      pair.start();
      expect(pair.atPrimary.events).toEqual([]);
      await pair.settle();
      expectEnds(pair.atPrimary, 'a test cut it');
      expectEnds(pair.atMirror, 'not needed');
      expect(pair.leftovers()).toEqual(NOTHING_LEFT);
    }
  });

  test('closes lanes that come too late', async () => {
    const pair = new Pair().start();
    pair.primary.destroy(stop());
    pair.addLane(1);
    await pair.settle();
    const wire = pair.network.wire();
    pair.primary.addLane(2, wire.connector, Buffer.alloc(0));
    await pair.settle();
    expect(pair.network.wires.map(({ connector }) => connector.health())).toEqual(
      Array.from({ length: 3 }, () => 'dead'),
    );
    expectEnds(pair.atPrimary, 'a test cut it');
  });
});

describe('a lane that', () => {
  test('breaks ends all, on both sides', async () => {
    for (const lane of [0, 1, 3]) {
      const pair = new Pair({ lanes: 4, windowBytes: 5000 }).start();
      await pair.settle();
      let told = 0;
      for (let index = 0; index < 40; index += 1)
        sendData(pair.primary, index, 3, () => (told += 1));
      pair.network.wires[lane]!.cut();
      await pair.run(100);
      expectEnds(pair.atPrimary, `LINK_LOST: mirror node: lane ${lane} was lost (ECONNRESET)`);
      expect(pair.atMirror.ends.length).toBe(1);
      expect(told).toBe(40);
      expect(pair.leftovers()).toEqual(NOTHING_LEFT);
    }
  });

  test('ends alone ends the link within the time of a silence', async () => {
    const pair = new Pair({ lanes: 2 });
    const wire = pair.network.wire();
    pair.mirror.addLane(2, wire.acceptor, Buffer.alloc(0));
    wire.connector.start({ received() {}, drained() {}, ended() {}, closed() {} });
    pair.start();
    await pair.run(1000);
    wire.connector.end();
    await pair.settle();
    expect(pair.mirror.open).toBe(false);
    await pair.run(LINK_SILENCE_MS_MAX + LINK_HEARTBEAT_MS);
    expect(pair.atMirror.ends.length).toBe(1);
  });

  test('ends in the middle of a frame is lost', async () => {
    const pair = new Pair({ lanes: 0 });
    const wire = pair.network.wire();
    pair.mirror.addLane(0, wire.acceptor, Buffer.alloc(0));
    pair.mirror.start(pair.atMirror);
    wire.connector.start({ received() {}, drained() {}, ended() {}, closed() {} });
    wire.connector.send(wireFrame({ kind: 4 }).subarray(0, 63), () => {});
    wire.connector.end();
    await pair.settle();
    expectEnds(pair.atMirror, 'lane 0 ended in the middle of a frame');
  });

  test('brings what is no frame ends all, and says what it was', async () => {
    const pair = new Pair({ lanes: 2 });
    const wire = pair.network.wire();
    pair.mirror.addLane(7, wire.acceptor, Buffer.alloc(0));
    pair.start();
    await pair.settle();
    wire.connector.start({ received() {}, drained() {}, ended() {}, closed() {} });
    wire.connector.send(Buffer.from('GET / HTTP/1.1\r\n'.repeat(10)), () => {});
    await pair.run(100);
    expectEnds(pair.atMirror, 'LINK_PROTOCOL: primary node sent bytes that are no frame on lane 7');
    expectEnds(pair.atPrimary, 'LINK_LOST');
    await pair.run(LINK_CLOSE_MS_MAX);
    expect(pair.leftovers()).toEqual(NOTHING_LEFT);
  });

  test('repeats what it sent ends the link', async () => {
    const pair = new Pair({ lanes: 0 });
    const wire = pair.network.wire();
    pair.mirror.addLane(0, wire.acceptor, Buffer.alloc(0));
    pair.mirror.start(pair.atMirror);
    wire.connector.start({ received() {}, drained() {}, ended() {}, closed() {} });
    const frame = wireFrame({ kind: 4 });
    wire.connector.send(Buffer.concat([frame, frame]), () => {});
    await pair.settle();
    expect(pair.atMirror.frames.length).toBe(1);
    expectEnds(pair.atMirror, 'frame 0 of a lane where 1 was due');
  });
});

test('what a handler throws is not swallowed', async () => {
  const pair = new Pair().start();
  pair.atMirror.onFrame = () => {
    throw new Error('a bug of the handler');
  };
  pair.primary.send(header(4));
  await expect(pair.settle()).rejects.toThrow('a bug of the handler');
});

test('a link is started once, and a lane added once', () => {
  const pair = new Pair().start();
  expect(() => pair.primary.start(new Hearer())).toThrow('started once');
  expect(() => pair.addLane(0)).toThrow('added once');
  expect(() => pair.addLane(16)).toThrow('so many lanes');
  const bare = new PeerLink({ clock: pair.clock, side: 'primary', token: TOKEN, peer: 'x' });
  expect(() => bare.send(header(4))).toThrow('a link has a lane');
});
