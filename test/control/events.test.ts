/**
 * The event log: what is kept, what followers see, and that a slow one is let go. Followers are plain
 * objects; time and log lines are captured.
 */
import { pino } from 'pino';
import { describe, expect, test } from 'vitest';
import { EventLog, type EventFollower } from '../../src/control/events.ts';
import { systemClock } from '../../src/io/clock.ts';
import { EVENT_FOLLOWERS_MAX, EVENTS_MAX } from '../../src/io/limits.ts';
import type { EventKind } from '../../src/replicator/event-kinds.ts';
import type { BlockferryEvent } from '../../src/replicator/status.ts';

function createLog() {
  const lines: { level: number; msg: string; kind?: string }[] = [];
  const log = pino(
    { level: 'trace' },
    { write: (line: string) => void lines.push(JSON.parse(line)) },
  );
  const clock = { ...systemClock, wall: () => Date.UTC(2024, 0, 2, 3, 4, 5) };
  return { events: new EventLog({ clock, log }), lines };
}

function happen(events: EventLog, message: string, kind: EventKind = 'volume-created'): void {
  events.emit({ kind, volume: 'demo', mirror: null, message });
}

class Recorder implements EventFollower {
  readonly seen: BlockferryEvent[] = [];
  ended: string | null = null;
  private readonly patience: number;

  constructor(patience = Number.POSITIVE_INFINITY) {
    this.patience = patience;
  }
  deliver(event: BlockferryEvent): boolean {
    this.seen.push(event);
    return this.seen.length < this.patience;
  }
  end(reason: string): void {
    this.ended = reason;
  }
}

describe('the event log', () => {
  test('stamps sequence and time, and says the same words in the log', () => {
    const { events, lines } = createLog();
    happen(events, 'first');
    happen(events, 'second', 'mirror-delta');
    expect(events.recent()).toEqual([
      {
        sequence: 1,
        time: '2024-01-02T03:04:05.000Z',
        kind: 'volume-created',
        volume: 'demo',
        mirror: null,
        message: 'first',
      },
      expect.objectContaining({ sequence: 2, message: 'second' }),
    ]);
    expect(lines).toEqual([
      expect.objectContaining({ level: 30, kind: 'volume-created', volume: 'demo', msg: 'first' }),
      expect.objectContaining({ level: 40, kind: 'mirror-delta', msg: 'second' }),
    ]);
  });

  test('keeps the last EVENTS_MAX', () => {
    const { events } = createLog();
    for (let index = 1; index <= EVENTS_MAX + 10; index += 1) happen(events, `event ${index}`);
    const kept = events.recent();
    expect(kept).toHaveLength(EVENTS_MAX);
    expect(kept[0]?.sequence).toBe(11);
  });

  test('a follower sees what is kept, then everything new, each once', () => {
    const { events } = createLog();
    happen(events, 'before');
    const follower = new Recorder();
    const unfollow = events.follow(follower);
    happen(events, 'after');
    unfollow();
    happen(events, 'unseen');
    expect(follower.seen.map(({ message }) => message)).toEqual(['before', 'after']);
    expect(follower.ended).toBeNull();
  });

  test('drops a follower that does not keep up, at once or later', () => {
    const { events } = createLog();
    happen(events, 'one');
    happen(events, 'two');
    const atOnce = new Recorder(1);
    const later = new Recorder(3);
    events.follow(atOnce);
    events.follow(later);
    happen(events, 'three');
    happen(events, 'four');
    expect([atOnce.seen.length, atOnce.ended]).toEqual([1, 'dropped']);
    expect([later.seen.length, later.ended]).toEqual([3, 'dropped']);
  });

  test('refuses one follower too many, and all of them once it is closed', () => {
    const { events } = createLog();
    const followers = Array.from({ length: EVENT_FOLLOWERS_MAX }, () => new Recorder());
    for (const follower of followers) events.follow(follower);
    expect(() => events.follow(new Recorder())).toThrow(expect.objectContaining({ code: 'BUSY' }));
    events.close();
    expect(followers.every(({ ended }) => ended === 'stopped')).toBe(true);
    expect(() => events.follow(new Recorder())).toThrow(
      expect.objectContaining({ code: 'SHUTTING_DOWN' }),
    );
  });
});
