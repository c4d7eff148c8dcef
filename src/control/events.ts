/**
 * What happened on this node, for operators: the last EVENTS_MAX events, and those who follow them.
 *
 * Invariants:
 * - Sequences start at 1 with the node and grow by one; nobody sees one twice or out of order.
 * - An event is one log line with the same words.
 * - A follower that does not keep up is dropped, it never holds the node back.
 */
import assert from 'node:assert';
import type { Logger } from 'pino';
import type { Clock } from '../io/clock.ts';
import { BlockferryError } from '../io/errors.ts';
import { EVENT_FOLLOWERS_MAX, EVENTS_MAX } from '../io/limits.ts';
import { EVENT_LEVELS, type EventKind } from '../replicator/event-kinds.ts';
import type { BlockferryEvent, EventSink } from '../replicator/status.ts';

export interface EventFollower {
  /** Takes one event; false when the follower does not keep up, and is to be dropped. */
  deliver(event: BlockferryEvent): boolean;
  /** No event will follow. `dropped` when it was too slow, else the node stops. */
  end(reason: 'dropped' | 'stopped'): void;
}

export class EventLog implements EventSink {
  private readonly clock: Clock;
  private readonly log: Logger;
  private readonly events: BlockferryEvent[] = [];
  private readonly followers = new Set<EventFollower>();
  /** Of each kind since the node started. */
  readonly counts = new Map<EventKind, number>();
  private sequence = 0;
  private closed = false;

  constructor(options: { clock: Clock; log: Logger }) {
    this.clock = options.clock;
    this.log = options.log;
  }

  emit(event: Omit<BlockferryEvent, 'sequence' | 'time'>): void {
    this.sequence += 1;
    this.counts.set(event.kind, (this.counts.get(event.kind) ?? 0) + 1);
    const stamped: BlockferryEvent = {
      sequence: this.sequence,
      time: new Date(this.clock.wall()).toISOString(),
      kind: event.kind,
      volume: event.volume,
      mirror: event.mirror,
      message: event.message,
    };
    this.events.push(stamped);
    if (this.events.length > EVENTS_MAX) this.events.shift();
    assert(this.events.length <= EVENTS_MAX);
    this.write(stamped);
    for (const follower of this.followers) {
      if (!follower.deliver(stamped)) this.drop(follower);
    }
  }

  /** The events that are kept, oldest first. */
  recent(): readonly BlockferryEvent[] {
    return this.events.slice();
  }

  /**
   * Delivers what is kept, then everything new, until the follower is dropped, the returned function
   * is called, or the node stops. Throws BlockferryError BUSY at EVENT_FOLLOWERS_MAX.
   */
  follow(follower: EventFollower): () => void {
    if (this.closed) throw new BlockferryError('SHUTTING_DOWN', 'the node is stopping');
    if (this.followers.size >= EVENT_FOLLOWERS_MAX) {
      throw new BlockferryError('BUSY', `${EVENT_FOLLOWERS_MAX} followers of events already`);
    }
    this.followers.add(follower);
    for (const event of this.events) {
      if (!follower.deliver(event)) {
        this.drop(follower);
        break;
      }
    }
    return () => {
      this.followers.delete(follower);
    };
  }

  /** Ends all followers. Events are still recorded and logged. */
  close(): void {
    this.closed = true;
    for (const follower of this.followers) {
      this.followers.delete(follower);
      follower.end('stopped');
    }
  }

  private drop(follower: EventFollower): void {
    this.followers.delete(follower);
    follower.end('dropped');
    this.log.warn('a follower of the events was too slow and was dropped');
  }

  private write(event: BlockferryEvent): void {
    const fields = {
      kind: event.kind,
      ...(event.volume === null ? {} : { volume: event.volume }),
      ...(event.mirror === null ? {} : { mirror: event.mirror }),
    };
    this.log[EVENT_LEVELS[event.kind]](fields, event.message);
  }
}
