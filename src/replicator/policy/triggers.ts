/**
 * When a mirror leaves the stream of writes for a delta run, and how soon it comes back: a table of triggers.
 *
 * Each trigger is a pressure: what is measured, over its limit. Above 1 it is armed, and it fires when it was armed for as long as
 * it must hold; it is disarmed below DISARMED only, so that a value around its limit does not begin anew each time.
 *
 * Invariants:
 * - Pressures are pure. The watch allocates nothing unless one fires.
 * - A mirror that leaves again and again comes back later and later, up to a bound; one that was steady begins anew.
 */
import {
  ACKNOWLEDGE_MS_MAX,
  RATE_FILL_MIN,
  RATE_HORIZON_MS,
  REDUNDANCY_BYTES_MIN,
  REDUNDANCY_RATIO_MAX,
  STAGING_FILL_MAX,
  STREAM_PAUSE_MS_MAX,
  STREAM_PAUSE_MS_MIN,
  STREAM_STEADY_MS,
  TRIGGER_HOLD_MS,
} from '../../io/limits.ts';

export const TRIGGERS = ['link', 'acknowledgement', 'fill', 'rate', 'redundancy'] as const;
export type Trigger = (typeof TRIGGERS)[number];

/** What is seen of a mirror in stream. A buffer that is filled anew for each look. */
export interface StreamSample {
  linkUp: boolean;
  /** Age in milliseconds of the oldest write that it lacks; 0 when it has everything. */
  behindMs: number;
  /** Payload bytes staged for it, and closed epochs that it lacks, each with what may be. */
  stagedBytes: number;
  limitBytes: number;
  epochs: number;
  limitEpochs: number;
  /** Mean bytes per second that come into the queue, and that leave it. */
  inRate: number;
  outRate: number;
  /** Bytes to send if what is staged is sent one by one, and if each block of it is sent once. */
  oneByOneBytes: number;
  onceBytes: number;
}

export interface TriggerLimits {
  readonly behindMs: number;
  /** Part of what may be staged. */
  readonly fill: number;
  readonly rateFillMin: number;
  readonly horizonMs: number;
  readonly redundancyRatio: number;
  readonly redundancyBytesMin: number;
  /** How long rates and redundancy must stay over their limits. */
  readonly holdMs: number;
}

export const DEFAULT_LIMITS: TriggerLimits = {
  behindMs: ACKNOWLEDGE_MS_MAX,
  fill: STAGING_FILL_MAX,
  rateFillMin: RATE_FILL_MIN,
  horizonMs: RATE_HORIZON_MS,
  redundancyRatio: REDUNDANCY_RATIO_MAX,
  redundancyBytesMin: REDUNDANCY_BYTES_MIN,
  holdMs: TRIGGER_HOLD_MS,
};

type Pressure = (sample: StreamSample, limits: TriggerLimits) => number;

export const PRESSURES: { readonly [Name in Trigger]: Pressure } = {
  link: ({ linkUp }) => (linkUp ? 0 : Number.POSITIVE_INFINITY),
  acknowledgement: ({ behindMs }, limits) => behindMs / limits.behindMs,
  fill: ({ stagedBytes, limitBytes, epochs, limitEpochs }, limits) =>
    Math.max(stagedBytes / (limitBytes * limits.fill), epochs / limitEpochs),
  rate: ratePressure,
  redundancy: ({ stagedBytes, oneByOneBytes, onceBytes }, limits) =>
    onceBytes <= 0 || stagedBytes < limits.redundancyBytesMin
      ? 0
      : oneByOneBytes / onceBytes / limits.redundancyRatio,
};

/** The horizon, over the time until no more may be staged. */
function ratePressure(sample: StreamSample, limits: TriggerLimits): number {
  const { stagedBytes, limitBytes, inRate, outRate } = sample;
  if (inRate <= outRate || stagedBytes < limitBytes * limits.rateFillMin) return 0;
  const room = limitBytes * limits.fill - stagedBytes;
  if (room <= 0) return Number.POSITIVE_INFINITY;
  return (((inRate - outRate) / room) * limits.horizonMs) / 1000;
}

/** Triggers whose value may be that of a moment. */
const HOLDS: { readonly [Name in Trigger]: boolean } = {
  link: false,
  acknowledgement: false,
  fill: false,
  rate: true,
  redundancy: true,
};

const DISARMED = 0.8;
const IDLE = -1;

/** Why a mirror leaves the stream. */
export interface Fired {
  readonly trigger: Trigger;
  /** For people. */
  readonly message: string;
}

/** Looks at one mirror in stream, again and again. */
export class StreamWatch {
  private readonly limits: TriggerLimits;
  /** Since when each trigger is armed, or IDLE. */
  private readonly armedAt: { [Name in Trigger]: number } = {
    link: IDLE,
    acknowledgement: IDLE,
    fill: IDLE,
    rate: IDLE,
    redundancy: IDLE,
  };

  constructor(limits: TriggerLimits = DEFAULT_LIMITS) {
    this.limits = limits;
  }

  /** The mirror is in the stream again: what was before does not count. */
  reset(): void {
    for (const trigger of TRIGGERS) this.armedAt[trigger] = IDLE;
  }

  /** The first trigger that fires, or null. `now` is the clock, and not negative. */
  look(now: number, sample: StreamSample): Fired | null {
    for (const trigger of TRIGGERS) {
      if (this.fires(trigger, now, sample)) {
        return { trigger, message: messageOf(trigger, sample, this.limits) };
      }
    }
    return null;
  }

  private fires(trigger: Trigger, now: number, sample: StreamSample): boolean {
    const pressure = PRESSURES[trigger](sample, this.limits);
    const armedAt = this.armedAt[trigger];
    if (armedAt === IDLE) {
      if (pressure <= 1) return false;
      this.armedAt[trigger] = now;
      return !HOLDS[trigger] || this.limits.holdMs <= 0;
    }
    if (pressure < DISARMED) {
      this.armedAt[trigger] = IDLE;
      return false;
    }
    if (pressure <= 1) return false;
    return !HOLDS[trigger] || now - armedAt >= this.limits.holdMs;
  }
}

function messageOf(trigger: Trigger, sample: StreamSample, limits: TriggerLimits): string {
  const { behindMs, stagedBytes, limitBytes, epochs, inRate, outRate } = sample;
  switch (trigger) {
    case 'link':
      return 'the link is lost';
    case 'acknowledgement':
      return `it acknowledged nothing for ${seconds(behindMs)} of writes, more than ${seconds(limits.behindMs)}`;
    case 'fill':
      return `it lags ${stagedBytes} bytes of ${limitBytes} and ${epochs} epochs behind, more than the staging queue holds`;
    case 'rate':
      return `${Math.round(inRate)} bytes/s come and ${Math.round(outRate)} bytes/s go: the staging queue would be full within ${seconds(limits.horizonMs)}`;
    case 'redundancy':
      return `${sample.oneByOneBytes} bytes are staged for blocks of ${sample.onceBytes} bytes: a delta run sends less`;
  }
}

function seconds(ms: number): string {
  return `${Math.round(ms / 100) / 10} s`;
}

/** How often a mirror had to leave the stream of late, and when it last came into it. */
export interface ReturnState {
  readonly leaves: number;
  /** Clock milliseconds; null before it was in the stream. */
  readonly enteredAt: number | null;
}

export const NEVER_LEFT: ReturnState = { leaves: 0, enteredAt: null };

export function entered(state: ReturnState, now: number): ReturnState {
  return { leaves: state.leaves, enteredAt: now };
}

/** The pause before its next delta run, in milliseconds. A lost link has its own: the pause between attempts. */
export function left(
  state: ReturnState,
  leave: { now: number; trigger: Trigger },
): { pauseMs: number; state: ReturnState } {
  const { leaves, enteredAt } = state;
  if (leave.trigger === 'link') return { pauseMs: 0, state: { leaves, enteredAt: null } };
  const steady = enteredAt !== null && leave.now - enteredAt >= STREAM_STEADY_MS;
  const before = steady ? 0 : leaves;
  const pauseMs = Math.min(STREAM_PAUSE_MS_MAX, STREAM_PAUSE_MS_MIN * 2 ** Math.min(before, 16));
  return { pauseMs, state: { leaves: before + 1, enteredAt: null } };
}
