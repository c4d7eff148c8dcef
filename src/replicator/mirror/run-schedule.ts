/**
 * When the next delta run to one mirror begins, by its schedule: what happened until now, and what the host does.
 *
 * Invariants:
 * - A run that was begun is wanted until it is over, whatever comes between.
 * - The time of a run is the moment at which it began: the mirror holds what the volume held then, or later.
 */
import type { Clock } from '../../io/clock.ts';
import { RateMeter } from '../pace/rate-meter.ts';
import { endsInStream, isRunDue, quietSince, type Schedule } from '../policy/schedule.ts';

export class RunSchedule {
  schedule: Schedule;
  /** Wall-clock milliseconds of what the last run brought; null: none did. */
  lastRunAt: number | null;
  private requested: boolean;
  private begunAt: number | null = null;
  private quietSince: number | null = null;
  private meter: RateMeter | null = null;
  private readonly clock: Clock;

  /** `unfinished`: an earlier process left a run half done. */
  constructor(options: {
    clock: Clock;
    schedule: Schedule;
    lastRunAt: number | null;
    unfinished: boolean;
  }) {
    this.clock = options.clock;
    this.schedule = options.schedule;
    this.lastRunAt = options.lastRunAt;
    this.requested = options.unfinished;
  }

  /** Whether the mirror follows every write behind a run. */
  get follows(): boolean {
    return endsInStream(this.schedule);
  }

  /** An operator asks for a run. */
  request(): void {
    this.requested = true;
  }

  began(): void {
    this.requested = true;
    this.begunAt = this.clock.wall();
  }

  /** The run is over; answers the time of what it brought. */
  over(): number {
    this.requested = false;
    this.lastRunAt = this.begunAt ?? this.clock.wall();
    this.quietSince = null;
    return this.lastRunAt;
  }

  /** Whether a run begins now. `clean`: nothing differs. */
  isDue(clean: boolean): boolean {
    const { schedule, requested, lastRunAt } = this;
    const now = this.clock.wall();
    return isRunDue(schedule, { now, lastRunAt, requested, clean, quietSince: this.quietSince });
  }

  /** Now and then. `hostBytes`: read and written by the host so far. */
  look(hostBytes: number): void {
    const now = this.clock.now();
    this.meter ??= new RateMeter(now, hostBytes);
    this.meter.sample(now, hostBytes);
    this.quietSince = quietSince(this.schedule, {
      now: this.clock.wall(),
      bytesPerSecond: this.meter.perSecond,
      before: this.quietSince,
    });
  }
}
