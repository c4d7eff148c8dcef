/**
 * One mirror's place in the staging queue while its link is lost: what it may be said to have, and when its waiting has to end.
 * Method: a real queue; the sender is two numbers.
 */
import { describe, expect, it } from 'vitest';
import { BLOCK_BYTES } from '../../src/io/limits.ts';
import type { Sender } from '../../src/replicator/contact/contact.ts';
import type { MirrorBlocks } from '../../src/replicator/mirror/mirror-blocks.ts';
import type { MirrorHost } from '../../src/replicator/mirror/mirror-host.ts';
import { MirrorPlace } from '../../src/replicator/mirror/mirror-place.ts';
import { StagingQueue } from '../../src/replicator/staging/staging-queue.ts';
import { stamped } from './support/host.ts';

function placed(epochs: number): { queue: StagingQueue; place: MirrorPlace; marked: number[] } {
  const queue = new StagingQueue({ firstEpoch: 1, clock: { wall: () => 0 } });
  const surroundings = { clock: { now: () => 0 } };
  const host = { queue, surroundings, graceMs: 1000, parked: { size: 0 } };
  const marked: number[] = [];
  const blocks = { markInFlight: (offset: number) => marked.push(offset / BLOCK_BYTES) };
  const place = new MirrorPlace(host as unknown as MirrorHost, blocks as unknown as MirrorBlocks);
  place.take();
  for (let block = 0; block < epochs; block += 1) {
    queue.append(block * BLOCK_BYTES, stamped(BLOCK_BYTES, block), 0, BLOCK_BYTES, 0);
    queue.close('barrier');
  }
  return { queue, place, marked };
}

describe('a place whose link is lost', () => {
  it('has durably only what the mirror flushed, also when more was shed', () => {
    const { queue, place, marked } = placed(5);
    const first = queue.openNumber - 5;
    const sender = { held: first + 3, durable: first, sent: first + 4 };
    place.settle(sender.durable);
    place.shed(sender as unknown as Sender);
    expect(marked).toEqual([1, 2, 3]);
    place.buildBridge(sender);
    const levels = (epoch: number): unknown => [
      place.bridge?.has(epoch, 'held'),
      place.bridge?.has(epoch, 'durable'),
    ];
    expect(levels(first)).toEqual([true, true]);
    expect(levels(first + 3)).toEqual([true, false]);
    expect(levels(first + 4)).toEqual([false, false]);
  });

  it('is given up when others starve for what only it needs, and is not away when the link is back', () => {
    const { queue, place } = placed(2);
    const last = queue.openNumber - 1;
    place.buildBridge({ sent: last, durable: last - 2 });
    expect([place.follower?.away, place.bridge?.over(0)]).toEqual([true, null]);
    const starved = { get: (): boolean => true };
    Object.defineProperty(queue, 'starved', starved);
    expect(place.bridge?.over(0)).toContain('other mirrors');
    place.crossBridge();
    expect(place.follower?.away).toBe(false);
  });
});
