/** Who waits for synchronous mirrors: answered in order, as far as the mirrors are, each exactly once. */
import { describe, expect, it } from 'vitest';
import { SyncWaiters, type SyncLevel } from '../../src/replicator/changes/sync-waiters.ts';
import { HostRequest } from './support/host.ts';

function waiting(waiters: SyncWaiters, level: SyncLevel, epoch: number, now = 0): number[] {
  const answers: number[] = [];
  const request = new HostRequest();
  request.push({ completed: (_, status) => void answers.push(status) });
  waiters.add(request, level, epoch, now);
  return answers;
}

const upTo =
  (held: number, durable: number) =>
  (level: SyncLevel, epoch: number): boolean =>
    epoch <= (level === 'held' ? held : durable);

describe('requests that wait for synchronous mirrors', () => {
  it('are answered when their level is reached, and once', () => {
    const waiters = new SyncWaiters();
    const write = waiting(waiters, 'held', 3);
    const flush = waiting(waiters, 'durable', 3);
    waiters.release(upTo(2, 2));
    expect([write, flush]).toEqual([[], []]);
    waiters.release(upTo(3, 2));
    expect([write, flush]).toEqual([[0], []]);
    waiters.release(upTo(3, 3));
    waiters.release(upTo(9, 9));
    expect([write, flush]).toEqual([[0], [0]]);
    expect(waiters.empty).toBe(true);
  });

  it('never overtake within a level', () => {
    const waiters = new SyncWaiters();
    const first = waiting(waiters, 'durable', 5);
    // Its local sync was quicker, though it is of an earlier epoch.
    const second = waiting(waiters, 'durable', 4);
    waiters.release(upTo(4, 4));
    expect([first, second]).toEqual([[], []]);
    waiters.release(upTo(5, 5));
    expect([first, second]).toEqual([[0], [0]]);
  });

  it('may bring new ones while they are answered', () => {
    const waiters = new SyncWaiters();
    let later: number[] = [];
    const request = new HostRequest();
    request.push({ completed: () => void (later = waiting(waiters, 'held', 1)) });
    waiters.add(request, 'held', 1, 0);
    waiters.release(upTo(1, 0));
    expect(later).toEqual([]);
    waiters.release(upTo(1, 0));
    expect(later).toEqual([0]);
  });

  it('tell what the oldest of each level waits for, when it is overdue', () => {
    const waiters = new SyncWaiters();
    waiting(waiters, 'held', 3, 100);
    waiting(waiters, 'held', 4, 200);
    waiting(waiters, 'durable', 2, 150);
    const overdue = (since: number): string[] => {
      const seen: string[] = [];
      waiters.overdue(since, (level, epoch) => void seen.push(`${level} ${epoch}`));
      return seen;
    };
    expect(overdue(99)).toEqual([]);
    expect(overdue(100)).toEqual(['held 3']);
    expect(overdue(500)).toEqual(['held 3', 'durable 2']);
  });
});
