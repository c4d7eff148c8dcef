/**
 * All links of a node together hold so much memory of what came, and not more for long; a link that needs more to be done
 * gets its turn, so that none waits for ever. Method: the pools of links by plain calls, on a clock that the test moves;
 * then links in memory whose receivers let go of nothing before they have a whole epoch each.
 */
import { describe, expect, test } from 'vitest';
import {
  LINK_IDLE_BYTES_MAX,
  LINK_NODE_BYTES_HIGH,
  LINK_NODE_BYTES_LOW,
  LINK_TURN_MS,
} from '../../../src/io/limits.ts';
import { LinkMemory } from '../../../src/replicator/link/link-memory.ts';
import { PayloadPool, type PooledPayload } from '../../../src/replicator/link/payload-pool.ts';
import { VirtualClock } from '../../support/virtual-clock.ts';
import { header, NOTHING_LEFT, Pair } from './support/link-pair.ts';
import { entry } from './support/wire.ts';

const MIB = 2 ** 20;

/** The pool of a link, which is told when there is room. */
class Member {
  told = 0;
  readonly pool: PayloadPool;
  private readonly payloads: PooledPayload[] = [];

  constructor(memory: LinkMemory) {
    this.pool = new PayloadPool(() => (this.told += 1), memory);
  }

  take(bytes: number): this {
    while (this.pool.lentBytes < bytes) this.payloads.push(this.pool.take(MIB));
    return this;
  }

  keep(bytes: number): this {
    while (this.pool.lentBytes > bytes) this.payloads.pop()?.release();
    return this;
  }
}

describe('the memory of a node', () => {
  test('holds up nobody below its bound', async () => {
    const clock = new VirtualClock();
    const memory = new LinkMemory(clock);
    const members = [1, 2, 3].map(() => new Member(memory).take(80 * MIB));
    expect(memory.bytes).toBeLessThan(LINK_NODE_BYTES_HIGH);
    expect(members.map(({ pool }) => pool.isFull())).toEqual([false, false, false]);
    expect(clock.pendingTimers).toBe(0);
    for (const member of members) member.keep(0);
    expect(memory.bytes).toBe(0);
  });

  test('at its bound holds up all that hold more than their share, one after another but for its turn', async () => {
    const clock = new VirtualClock();
    const memory = new LinkMemory(clock);
    const [a, b] = [new Member(memory).take(127 * MIB), new Member(memory).take(127 * MIB)];
    const small = new Member(memory).take(1);
    new Member(memory).take(4 * MIB);
    const full = (): boolean[] => [a, b, small].map(({ pool }) => pool.isFull());
    expect(full()).toEqual([true, true, false]);
    await clock.run(LINK_TURN_MS);
    expect([a.told, b.told]).toEqual([1, 0]);
    expect(full()).toEqual([false, true, false]);
    await clock.run(LINK_TURN_MS);
    expect([a.told, b.told]).toEqual([1, 1]);
    expect(full()).toEqual([true, false, false]);
    await clock.run(LINK_TURN_MS);
    expect([a.told, b.told]).toEqual([2, 1]);
    expect(full()).toEqual([false, true, false]);
  });

  test('tells all when it fell to the lower bound, and does nothing more', async () => {
    const clock = new VirtualClock();
    const memory = new LinkMemory(clock);
    const members = [1, 2, 3].map(() => new Member(memory).take(90 * MIB));
    expect(members.map(({ pool }) => pool.isFull())).toEqual([true, true, true]);
    members[0]?.keep(50 * MIB);
    expect(memory.bytes).toBeGreaterThan(LINK_NODE_BYTES_LOW);
    expect(members.map(({ told }) => told)).toEqual([0, 0, 0]);
    members[0]?.keep(20 * MIB);
    expect(members.map(({ told }) => told)).toEqual([1, 1, 1]);
    expect(members.map(({ pool }) => pool.isFull())).toEqual([false, false, false]);
    expect(clock.pendingTimers).toBe(0);
  });

  test('tells one that gave back all but its share, and waits for none whose link is over', async () => {
    const clock = new VirtualClock();
    const memory = new LinkMemory(clock);
    const [a, b, c] = [127, 127, 60].map((mib) => new Member(memory).take(mib * MIB));
    for (const member of [a, b, c]) expect(member?.pool.isFull()).toBe(true);
    c?.keep(MIB);
    expect(c?.told).toBe(1);
    expect(c?.pool.isFull()).toBe(false);
    a?.pool.leave();
    await clock.run(LINK_TURN_MS);
    expect([a?.told, b?.told]).toEqual([0, 1]);
    b?.pool.leave();
    await clock.run(10 * LINK_TURN_MS);
    expect(clock.pendingTimers).toBe(0);
  });
});

test('what busy links keep for reuse counts too: beyond a little, none is kept where the node has no room', () => {
  const memory = new LinkMemory(new VirtualClock());
  const members = Array.from({ length: 8 }, () => new Member(memory));
  const all = (): number => members.reduce((sum, { pool }) => sum + pool.idleBytes, memory.bytes);
  // One after the other has much, and then a little all the time.
  for (const member of members) member.take(90 * MIB).keep(4 * MIB);
  const little = members.length * LINK_IDLE_BYTES_MAX;
  expect(all()).toBeLessThanOrEqual(LINK_NODE_BYTES_HIGH + little);
  expect(members[0]!.pool.idleBytes).toBeGreaterThan(80 * MIB);
  expect(members.at(-1)!.pool.idleBytes).toBeGreaterThan(LINK_IDLE_BYTES_MAX - 2 * MIB);
  expect(memory.idleBytes).toBe(all() - memory.bytes);
  // Of links that are over nothing is kept, also of what comes back later.
  for (const { pool } of members) pool.leave();
  for (const member of members) member.keep(0);
  expect(all()).toBe(0);
  expect(memory.idleBytes).toBe(0);
});

test('links that need more together than there is are all done in the end', async () => {
  const clock = new VirtualClock();
  const memory = new LinkMemory(clock);
  const [links, frames] = [10, 40];
  const payload = entry(0n, Buffer.alloc(MIB, 7));
  let most = 0;
  const pairs = Array.from({ length: links }, (_, seed) => {
    const pair = new Pair({ shared: clock, memory, seed, delayMs: [1, 5], windowBytes: 4 * MIB });
    pair.atMirror.keeps = true;
    pair.atMirror.onFrame = () => {
      most = Math.max(most, memory.bytes);
      // Nothing is let go of before all of it is there: `kept` lacks none then.
      if (pair.atMirror.kept.length < frames) return;
      for (const each of pair.atMirror.kept.splice(0)) each.release();
    };
    return pair.start();
  });
  for (const pair of pairs) {
    for (let index = 0; index < frames; index += 1) {
      pair.primary.send(header(1, { epoch: 1, index, length: payload.length }), [payload]);
    }
  }
  await clock.run(20_000);
  expect(pairs.map(({ atMirror }) => atMirror.frames.length)).toEqual(Array(links).fill(frames));
  expect(memory.bytes).toBe(0);
  expect(most).toBeGreaterThan(LINK_NODE_BYTES_HIGH);
  expect(most).toBeLessThan(LINK_NODE_BYTES_HIGH + 128 * MIB);
  for (const pair of pairs) pair.primary.end('the test is over');
  await clock.run(10_000);
  expect(pairs[0]?.leftovers()).toEqual(NOTHING_LEFT);
});
