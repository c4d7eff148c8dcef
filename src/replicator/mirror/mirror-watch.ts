/**
 * Looks at a mirror in stream now and then, and says when it should leave it, and how long it should stay away: the triggers of
 * triggers.ts over what the staging queue tells.
 *
 * Invariants:
 * - Nothing is counted per write: rates come from totals, and how often each block is staged is looked up only while much is.
 */
import type { Clock } from '../../io/clock.ts';
import {
  BLOCK_BYTES,
  REDUNDANCY_BLOCKS_MAX,
  REDUNDANCY_BYTES_MIN,
  REDUNDANCY_LOOKS_MAX,
} from '../../io/limits.ts';
import { RateMeter } from '../pace/rate-meter.ts';
import { StagedBlocks } from '../staging/redundancy.ts';
import type { Follower, StagingQueue } from '../staging/staging-queue.ts';
import {
  entered,
  left,
  NEVER_LEFT,
  StreamWatch,
  type Fired,
  type StreamSample,
} from '../policy/triggers.ts';
import type { ReturnState } from '../policy/triggers.ts';

export class MirrorWatch {
  private readonly clock: Clock;
  private readonly queue: StagingQueue;
  private readonly watch = new StreamWatch();
  private state: ReturnState = NEVER_LEFT;
  private inMeter: RateMeter | null = null;
  private outMeter: RateMeter | null = null;
  private readonly sample: StreamSample = {
    linkUp: true,
    behindMs: 0,
    stagedBytes: 0,
    limitBytes: 0,
    epochs: 0,
    limitEpochs: 1,
    inRate: 0,
    outRate: 0,
    oneByOneBytes: 0,
    onceBytes: 0,
  };

  constructor(clock: Clock, queue: StagingQueue) {
    this.clock = clock;
    this.queue = queue;
  }

  /** The mirror came into the stream. */
  entered(): void {
    const now = this.clock.now();
    this.state = entered(this.state, now);
    this.watch.reset();
    this.inMeter = null;
    this.outMeter = null;
  }

  /** The mirror left it, link and all or not; answers the pause before the next delta run, in milliseconds. */
  left(trigger: Fired['trigger']): number {
    const { pauseMs, state } = left(this.state, { now: this.clock.now(), trigger });
    this.state = state;
    return pauseMs;
  }

  /** Why it should leave the stream, or null. `behindSince`: clock time of the oldest write that it lacks. */
  look(follower: Follower, behindSince: number | null): Fired | null {
    const now = this.clock.now();
    const { sample, queue } = this;
    const { bytes, limitBytes, epochs, limitEpochs } = queue.backlogOf(follower);
    sample.behindMs = behindSince === null ? 0 : Math.max(0, now - behindSince);
    sample.stagedBytes = bytes;
    sample.limitBytes = limitBytes;
    sample.epochs = epochs;
    sample.limitEpochs = limitEpochs;
    this.measureRates(now, bytes);
    this.measureRedundancy(follower, bytes);
    return this.watch.look(now, sample);
  }

  private measureRates(now: number, stagedBytes: number): void {
    const { sample, queue } = this;
    const total = queue.totalBytes;
    const sent = total - stagedBytes;
    this.inMeter ??= new RateMeter(now, total);
    this.outMeter ??= new RateMeter(now, sent);
    this.inMeter.sample(now, total);
    this.outMeter.sample(now, sent);
    sample.inRate = this.inMeter.perSecond;
    sample.outRate = this.outMeter.perSecond;
  }

  private measureRedundancy(follower: Follower, stagedBytes: number): void {
    const { sample, queue } = this;
    sample.oneByOneBytes = 0;
    sample.onceBytes = 0;
    if (stagedBytes < REDUNDANCY_BYTES_MIN) return;
    const most = Math.ceil(stagedBytes / BLOCK_BYTES);
    const blocks = new StagedBlocks(Math.min(most, REDUNDANCY_BLOCKS_MAX));
    const end = queue.openNumber;
    for (let number = follower.released + 1; number < end; number += 1) {
      // So much of it says enough.
      if (blocks.total >= REDUNDANCY_LOOKS_MAX) break;
      queue.epoch(number)?.eachPayload((offset, length) => {
        blocks.add(offset / BLOCK_BYTES, length / BLOCK_BYTES);
      });
    }
    sample.oneByOneBytes = blocks.total * BLOCK_BYTES;
    sample.onceBytes = blocks.distinct * BLOCK_BYTES;
  }
}
