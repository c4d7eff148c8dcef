/**
 * What the status of a mirror says when it is asked in the middle of something: bytes that are sent and not answered, and the time of what
 * a schedule brought that was set while the stream caught up behind a lost link. Method: the real replicator; a plain mirror that holds
 * its answers, a link whose far end says nothing, and a mirror on another node whose journal holds its syncs.
 */
import { expect, it } from 'vitest';
import { systemClock } from '../../src/io/clock.ts';
import { PeerSender } from '../../src/replicator/contact/peer-sender.ts';
import { StagingQueue } from '../../src/replicator/staging/staging-queue.ts';
import { testScope } from '../support/tools.ts';
import { waitUntil } from '../support/wait.ts';
import { MemoryDisk } from '../volume/support/memory-disk.ts';
import { stamped } from './support/host.ts';
import { PeerMirror } from './support/peer-mirror.ts';
import { MIB, Rig } from './support/rig.ts';
import { ScriptedLink } from './support/scripted-link.ts';

const SIZE = 16 * MIB;

it('counts what is sent to a plain mirror before that answers', async () => {
  const rig = await Rig.create(testScope(), { sizeBytes: SIZE });
  const { device } = await rig.mirrored();
  await rig.inStep();
  const { bytes_sent: before } = rig.status();
  device.stall();
  await rig.write(0, stamped(MIB, 3));
  await rig.until('it to be sent', ({ bytes_sent: sent }) => sent >= before + MIB);
  expect(rig.status().staged_bytes).toBeGreaterThanOrEqual(MIB);
  device.resume();
  await rig.inStep();
  expect(rig.status().bytes_sent).toBe(before + MIB);
});

it('counts what is sent to another node before that answers', async () => {
  const queue = new StagingQueue({ firstEpoch: 1, clock: systemClock });
  const follower = queue.follow();
  let sent = 0;
  const sender = new PeerSender({
    host: { queue, surroundings: { clock: systemClock }, hasWaiters: false },
    link: new ScriptedLink(),
    after: follower.released,
    onSent: (bytes) => (sent += bytes),
    onHeld: () => expect.unreachable('nothing was answered'),
    onDurable: () => expect.unreachable('nothing was answered'),
    onIdle: () => {},
  });
  queue.append(0, stamped(8192, 1), 0, 8192, systemClock.now());
  sender.pump();
  await waitUntil('it to be sent', () => sent >= 8192);
  expect(sent).toBe(sender.bytesSent);
  sender.connectionOver();
});

it('tells of a schedule that was set behind a lost link no older time than that', async () => {
  const scope = testScope();
  const disk = new MemoryDisk();
  const rig = await Rig.create(scope, { sizeBytes: SIZE });
  const mirror = await PeerMirror.start(scope, { sizeBytes: SIZE, disk });
  await rig.addPeer(mirror);
  await rig.inStep();
  // When the last run was begun is long ago.
  await new Promise((resolve) => setTimeout(resolve, 50));
  mirror.leave();
  await rig.write(0, stamped(MIB, 4));
  await rig.until('the outage', ({ state }) => state === 'connecting');
  const lostAt = Date.now();
  rig.events.length = 0;
  disk.holding = true;
  mirror.comeBack();
  await waitUntil('the stream', () => rig.kinds().includes('mirror-streaming'));
  const { uri } = mirror;
  await rig.device.setMirror(uri, { schedule: { kind: 'every', intervalMs: 3_600_000 } });
  expect(rig.status().state).toBe('streaming');
  disk.holding = false;
  while (disk.held.length > 0) disk.letGo();
  await rig.until('the end of it', ({ state }) => state === 'delta');
  expect(Date.parse(rig.status().last_run_at ?? '')).toBeGreaterThanOrEqual(lostAt);
  expect(await mirror.differences(rig.expected)).toEqual([]);
});
