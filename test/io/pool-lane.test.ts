/** Shares of the thread pool: no more at one time than a lane lets through, all of it, in order. */
import { describe, expect, it } from 'vitest';
import { PoolLane } from '../../src/io/pool-lane.ts';

describe('a lane', () => {
  it('keeps what is too much, and starts it in order as others end', () => {
    const lane = new PoolLane(3);
    const started: number[] = [];
    for (let work = 0; work < 5000; work += 1) lane.enter(() => void started.push(work));
    expect(started).toEqual([0, 1, 2]);
    for (let ended = 1; ended <= 5000; ended += 1) {
      lane.ended();
      expect(started.length).toBe(Math.min(5000, 3 + ended));
    }
    expect(started).toEqual(Array.from({ length: 5000 }, (_, work) => work));
    expect(() => lane.ended()).toThrow('never began');
  });

  it('counts what starts from inside the start of another', () => {
    const lane = new PoolLane(1);
    const order: string[] = [];
    lane.enter(() => {
      order.push('first');
      lane.enter(() => void order.push('second'));
    });
    expect(order).toEqual(['first']);
    lane.ended();
    expect(order).toEqual(['first', 'second']);
  });
});
