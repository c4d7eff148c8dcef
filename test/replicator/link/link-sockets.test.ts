/**
 * A link over sockets of the system: what is sent arrives with its content over several lanes, both ways, also when the
 * receiver has no room for a while; and when a socket is cut, both ends hear it. Method: two links in this process over
 * loopback and over a unix socket, 4 lanes, 64 MiB of frames of every length.
 */
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { systemClock } from '../../../src/io/clock.ts';
import { BlockferryError } from '../../../src/io/errors.ts';
import { LINK_BACKLOG_BYTES_HIGH } from '../../../src/io/limits.ts';
import type { Address, Connection } from '../../../src/io/network.ts';
import { nodeNetwork } from '../../../src/io/node-network.ts';
import { PeerLink } from '../../../src/replicator/link/peer-link.ts';
import { Dice } from '../../../scripts/fuzz/dice.ts';
import { testScope } from '../../support/tools.ts';
import { waitUntil } from '../../support/wait.ts';
import { header, Hearer } from './support/link-pair.ts';
import { entry, TOKEN } from './support/wire.ts';

const LANES = 4;
const TOTAL = 64 << 20;
const NOTHING = Buffer.alloc(0);

interface SocketPair {
  readonly primary: PeerLink;
  readonly mirror: PeerLink;
  readonly atPrimary: Hearer;
  readonly atMirror: Hearer;
  readonly accepted: readonly Connection[];
}

async function connect(kind: 'tcp' | 'unix'): Promise<SocketPair> {
  const scope = testScope();
  const address: Address =
    kind === 'tcp'
      ? { kind, host: '127.0.0.1', port: 0 }
      : { kind, path: join(scope.tempDir(), 'link') };
  const accepted: Connection[] = [];
  const listener = await nodeNetwork.listen(address, (connection) => accepted.push(connection));
  const clock = systemClock;
  const primary = new PeerLink({ clock, side: 'primary', token: TOKEN, peer: 'mirror node' });
  const mirror = new PeerLink({ clock, side: 'mirror', token: TOKEN, peer: 'primary node' });
  for (let lane = 0; lane < LANES; lane += 1) {
    primary.addLane(lane, await nodeNetwork.connect(listener.address, 2000), NOTHING);
    await waitUntil('the accept', () => accepted.length === lane + 1, { everyMs: 1 });
    mirror.addLane(lane, accepted[lane]!, NOTHING);
  }
  const atPrimary = new Hearer();
  const atMirror = new Hearer();
  primary.start(atPrimary);
  mirror.start(atMirror);
  scope.defer('the link', async () => {
    const error = new BlockferryError('LINK_LOST', 'the test is over');
    primary.destroy(error);
    mirror.destroy(error);
    await waitUntil('the ends', () => atPrimary.ends.length === 1 && atMirror.ends.length === 1);
    await listener.close();
  });
  return { primary, mirror, atPrimary, atMirror, accepted };
}

/** Frames of 1 to 255 blocks, sent as a sender should: no further than the backlog allows. */
class Flood {
  readonly checksums = new Map<number, number>();
  sentBytes = 0;
  /** Frames whose memory is free. */
  told = 0;
  private readonly dice = new Dice(5, 5);
  private readonly link: PeerLink;

  constructor(link: PeerLink) {
    this.link = link;
  }

  go(): void {
    while (this.sentBytes < TOTAL && this.link.backlogBytes < LINK_BACKLOG_BYTES_HIGH) this.one();
  }

  private one(): void {
    const index = this.checksums.size;
    const blocks = 1 + (this.dice.below(3) === 0 ? this.dice.below(255) : this.dice.below(8));
    const payload = entry(BigInt(index) * 4096n, Buffer.alloc(blocks * 4096, index & 0xff));
    payload.writeUInt32BE(index, 100);
    const cut = this.dice.below(payload.length);
    this.checksums.set(index, crc32(payload));
    this.sentBytes += payload.length;
    const chunks = [payload.subarray(0, cut), payload.subarray(cut)];
    this.link.send(header(1, { index, length: payload.length }), chunks, () => {
      // What was said to be free is written to at once.
      payload.fill(0xbb);
      this.told += 1;
    });
  }
}

for (const kind of ['tcp', 'unix'] as const) {
  describe(`over ${kind}`, () => {
    test('64 MiB arrive over 4 lanes, and an answer for each frame comes back', async () => {
      const pair = await connect(kind);
      const flood = new Flood(pair.primary);
      pair.atPrimary.drained = () => flood.go();
      pair.atMirror.onFrame = ({ index }) => {
        pair.mirror.send(header(5, { epoch: index }));
        if (index % 50 === 0) {
          pair.mirror.sendControl({
            kind: 'run-durable',
            run: '0'.repeat(32),
            cursor: index * 4096,
          });
        }
      };
      flood.go();
      await waitUntil(
        'the answers',
        () => flood.sentBytes >= TOTAL && pair.atPrimary.frames.length === flood.checksums.size,
        { everyMs: 5, timeoutMs: 30_000, onTimeout: () => `${pair.atMirror.frames.length}` },
      );
      for (const frame of pair.atMirror.frames) {
        if (frame.checksum !== flood.checksums.get(frame.header.index)) {
          throw new Error(`frame ${frame.header.index} has another content`);
        }
      }
      expect(new Set(pair.atMirror.frames.map((frame) => frame.header.index)).size).toBe(
        flood.checksums.size,
      );
      await waitUntil('sent', () => flood.told === flood.checksums.size, { everyMs: 5 });
      expect(pair.primary.backlogBytes + pair.mirror.heldBytes).toBe(0);
      const cursors = pair.atPrimary.controls.map((each) => ('cursor' in each ? each.cursor : -1));
      expect(cursors.length).toBe(Math.ceil(flood.checksums.size / 50));
    });

    test('a receiver that keeps what comes is waited for', async () => {
      const pair = await connect(kind);
      pair.atMirror.keeps = true;
      const chunk = entry(0n, Buffer.alloc(2 ** 20, 3));
      let told = 0;
      // More than the mirror keeps and the kernel takes, up to 36 MiB a lane of TCP where its limits are as they come.
      const frames = 400;
      let sent = 0;
      const go = (): void => {
        while (sent < frames && pair.primary.backlogBytes < LINK_BACKLOG_BYTES_HIGH) {
          pair.primary.send(header(1, { index: sent, length: chunk.length }), [chunk], () => {
            told += 1;
          });
          sent += 1;
        }
      };
      pair.atPrimary.drained = go;
      go();
      await waitUntil('the pause', () => pair.mirror.heldBytes >= 128 << 20, { everyMs: 5 });
      await new Promise((resolve) => setTimeout(resolve, 200));
      expect(pair.mirror.heldBytes).toBeLessThan((128 + 16) << 20);
      expect(sent).toBeLessThan(frames);
      expect(told).toBeLessThan(sent);
      pair.atMirror.keeps = false;
      for (const payload of pair.atMirror.kept.splice(0)) payload.release();
      await waitUntil('all frames', () => pair.atMirror.frames.length === frames, { everyMs: 5 });
      expect(pair.mirror.heldBytes).toBe(0);
    });

    test('a socket that is cut is heard at both ends, once', async () => {
      const pair = await connect(kind);
      const flood = new Flood(pair.primary);
      pair.atPrimary.drained = () => flood.go();
      flood.go();
      pair.atMirror.onFrame = ({ index }) => {
        if (index === 40) pair.accepted[2]!.destroy();
      };
      await waitUntil(
        'the ends',
        () => pair.atMirror.ends.length + pair.atPrimary.ends.length === 2,
        {
          everyMs: 5,
        },
      );
      expect(pair.atMirror.ends[0]).toContain('LINK_LOST');
      expect(pair.atPrimary.ends[0]).toContain('LINK_LOST');
      expect(flood.told).toBe(flood.checksums.size);
      expect(pair.primary.backlogBytes).toBe(0);
    });

    test('an end in order delivers what was sent before it', async () => {
      const pair = await connect(kind);
      const chunk = entry(0n, Buffer.alloc(2 ** 20, 3));
      for (let index = 0; index < 40; index += 1) {
        pair.primary.send(header(1, { index, length: chunk.length }), [chunk]);
      }
      pair.primary.end('the node is stopping');
      await waitUntil(
        'the ends',
        () => pair.atMirror.ends.length + pair.atPrimary.ends.length === 2,
        {
          everyMs: 5,
        },
      );
      expect(pair.atMirror.frames.length).toBe(40);
      expect(pair.atMirror.ends).toEqual([
        'closed LINK_LOST: primary node: the other node ended the link',
      ]);
      expect(pair.atPrimary.ends).toEqual(['closed LINK_ENDED: mirror node: the node is stopping']);
    });
  });
}
