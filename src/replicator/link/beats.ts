/**
 * The beat of a link: lanes that sent nothing since the last one send a heartbeat, lanes on which nothing comes are noticed.
 *
 * Invariants:
 * - Beats are counted, not time: a process that was stopped or busy for long does not take that for silence of the other
 *   side, because late beats do not pile up.
 * - A lane that this side does not read is not silent. A lane that the system takes nothing from gets no further heartbeat.
 */
import type { Clock, Timer } from '../../io/clock.ts';
import { LINK_HEARTBEAT_MS, LINK_SILENCE_MS_MAX } from '../../io/limits.ts';
import type { Lane } from './lane.ts';

const SILENT_BEATS_MAX = LINK_SILENCE_MS_MAX / LINK_HEARTBEAT_MS;

export interface BeatOwner {
  /** Nothing was sent on this lane for a while. */
  quiet(lane: Lane): void;
  /** Nothing came on this lane for LINK_SILENCE_MS_MAX. Nothing is said after this. */
  silent(lane: Lane): void;
}

export class Beats {
  private readonly clock: Clock;
  private readonly lanes: readonly Lane[];
  private readonly owner: BeatOwner;
  private timer: Timer | null = null;
  private running = false;

  /** `lanes` may grow. */
  constructor(clock: Clock, lanes: readonly Lane[], owner: BeatOwner) {
    this.clock = clock;
    this.lanes = lanes;
    this.owner = owner;
  }

  start(): void {
    this.running = true;
    this.timer = this.clock.after(LINK_HEARTBEAT_MS, () => this.beat());
  }

  stop(): void {
    this.running = false;
    this.timer?.cancel();
    this.timer = null;
  }

  private beat(): void {
    for (const lane of this.lanes) {
      lane.silentBeats = lane.heard || lane.paused ? 0 : lane.silentBeats + 1;
      if (lane.silentBeats >= SILENT_BEATS_MAX) return this.owner.silent(lane);
      lane.heard = false;
      if (!lane.spoke && lane.queuedBytes === 0) this.owner.quiet(lane);
      lane.spoke = false;
    }
    if (this.running) this.start();
  }
}
