/**
 * The merges of a volume, one after another, in the background.
 *
 * Invariants:
 * - One pair is merged at a time. What is paused, or failed, goes on where it was.
 * - A merge is given up when its layers are no pair any more: then nobody looks through them.
 * - After `pause`, `stop` or a failure no step begins; those on their way end, and are counted.
 * - While hosts are busy nothing is copied next to another step or next to a sync, and each is followed by a rest.
 */
import type { Clock, Timer } from '../../io/clock.ts';
import { Status } from '../../io/device.ts';
import { MERGE_RETRY_MS, MERGE_SLEEP_MS_MAX, MERGE_STEPS_IN_FLIGHT_MAX } from '../../io/limits.ts';
import { LayerMerge, isSame } from './layer-merge.ts';
import { chainOf } from '../layers/layer-tree.ts';
import type { MergePair } from '../layers/layer-tree.ts';
import type { MergeHost, MergeQueue, MergerOptions } from './merge-host.ts';
import { MergePace } from './merge-pace.ts';
import { STEP_BUFFER_BYTES } from './merge-step.ts';
import type { MergeFault, MergeStep } from './merge-step.ts';
import type { MergeStatus } from '../snapshots/snapshot-types.ts';

export type { MergeHost, MergeLayer, MergeQueue, MergerOptions } from './merge-host.ts';

const EDQUOT = 122;

/** What is on its way of a merge. */
interface Copying {
  readonly steps: Set<Promise<void>>;
  settling: Promise<void> | null;
  readonly faults: MergeFault[];
}

export class Merger implements MergeQueue {
  private readonly host: MergeHost;
  private readonly clock: Clock;
  private readonly pace: MergePace;
  /** What may merge, as it was found last. */
  private pairs: readonly MergePair[] = [];
  private current: LayerMerge | null = null;
  /** `work` is on its way. */
  private active = false;
  /** Resolves when it ended. */
  private ended: Promise<void> = Promise.resolve();
  private looking = false;
  private paused: boolean;
  private stopped = false;
  private failure: MergeFault | null = null;
  private retry: Timer | null = null;
  private wake: (() => void) | null = null;
  /** Buffers of steps, while there is work. */
  private buffers: Buffer[] = [];

  constructor(host: MergeHost, clock: Clock, options: MergerOptions = {}) {
    this.host = host;
    this.clock = clock;
    this.paused = options.paused ?? false;
    this.pace = new MergePace(options.limit ?? null, clock.now());
  }

  get status(): MergeStatus {
    // Between `kick` and the look that follows it.
    if (this.looking) this.pairs = this.host.mergeable();
    const { current, pairs, failure } = this;
    const waiting = pairs.filter((pair) => !isSame(pair, current?.pair)).length;
    let state: MergeStatus['state'] = current === null && waiting === 0 ? 'idle' : 'running';
    if (this.paused) state = 'paused';
    if (failure !== null) state = 'failed';
    const doneBytes = current?.doneBytes ?? 0;
    return {
      state,
      doneBytes,
      totalBytes: Math.max(doneBytes, current?.pair.bytes ?? 0),
      waiting,
      limit: this.pace.limit,
      reason: failure === null ? null : reasonOf(failure),
    };
  }

  uses(layer: number): boolean {
    const { current, host } = this;
    if (current === null) return false;
    const { from, into } = current.pair;
    if (layer === from || layer === into) return true;
    // What carries others is not removed before them.
    const { state } = host.metadata;
    const ids = [from, into].filter((id) => state.layers.has(id));
    return ids.some((id) => chainOf(state, id).some((below) => below.id === layer));
  }

  kick(): void {
    if (this.looking || this.stopped) return;
    this.looking = true;
    this.clock.soon(() => {
      this.looking = false;
      if (!this.stopped) this.look();
    });
  }

  pause(): void {
    this.paused = true;
    this.wake?.();
  }

  resume(): void {
    this.paused = false;
    this.tryAgain();
    this.wake?.();
    this.start();
  }

  limit(bytesPerSecond: number | null): void {
    this.pace.setLimit(bytesPerSecond, this.clock.now());
    this.wake?.();
  }

  async stop(): Promise<void> {
    this.stopped = true;
    this.retry?.cancel();
    this.wake?.();
    await this.ended;
    this.current = null;
  }

  private look(): void {
    this.pairs = this.host.mergeable();
    const { current } = this;
    if (current !== null && !current.merged) {
      current.abandoned = !this.pairs.some((pair) => isSame(pair, current.pair));
    }
    // What went may have left room.
    if (this.failure !== null && isSpaceError(this.failure)) this.tryAgain();
    this.wake?.();
    this.start();
  }

  private start(): void {
    if (this.active || this.stopped) return;
    this.active = true;
    this.ended = this.work();
  }

  private mayWork(): boolean {
    return !this.stopped && !this.paused && this.failure === null;
  }

  private mayGoOn(merge: LayerMerge): boolean {
    return this.mayWork() && !merge.abandoned;
  }

  private async work(): Promise<void> {
    for (;;) {
      this.dropAbandoned();
      const merge = this.mayWork() ? this.nextMerge() : null;
      // Nothing comes between this and the end: whoever resumes from now on starts anew.
      if (merge === null) break;
      const fault = await this.mergeOne(merge);
      if (fault !== null) this.fail(fault);
    }
    this.buffers = [];
    this.active = false;
  }

  private nextMerge(): LayerMerge | null {
    if (this.current !== null) return this.current;
    // Layers may have gone since the last look, and the next one be still to come.
    this.pairs = this.host.mergeable();
    const [pair] = this.pairs;
    if (pair !== undefined) this.current = new LayerMerge(this.host, this.clock, pair);
    return this.current;
  }

  private dropAbandoned(): void {
    if (this.current?.abandoned !== true) return;
    this.current = null;
    if (this.failure?.final !== true) this.failure = null;
    this.host.released();
  }

  /** Goes as far as it may. */
  private async mergeOne(merge: LayerMerge): Promise<MergeFault | null> {
    if (!merge.merged) {
      const refused = await merge.confirm();
      if (refused !== null || !this.mayGoOn(merge)) return refused;
      const fault = (await merge.begin()) ?? (await this.copy(merge));
      if (fault !== null) return fault;
      if (!merge.isPlanned || !this.mayGoOn(merge)) return null;
      const settled = await merge.settle();
      if (settled !== null || !this.mayGoOn(merge)) return settled;
    }
    const fault = await merge.finish();
    if (fault !== null) return fault;
    await merge.trim(() => !this.stopped);
    this.current = null;
    this.pairs = this.host.mergeable();
    this.host.released();
    return null;
  }

  /** Does the steps that are left; comes back early when it must not go on, or with what failed first. */
  private async copy(merge: LayerMerge): Promise<MergeFault | null> {
    const copying: Copying = { steps: new Set(), settling: null, faults: [] };
    while (copying.faults.length === 0 && this.mayGoOn(merge)) {
      const next = this.proceed(merge, copying);
      if (next === null) break;
      await next;
    }
    await Promise.all(copying.steps);
    await copying.settling;
    return copying.faults[0] ?? null;
  }

  /** Begins what may begin now. What to wait for before it is asked again; null when there is no step left. */
  private proceed(merge: LayerMerge, copying: Copying): Promise<unknown> | null {
    const now = this.clock.now();
    this.pace.notice(this.host.requests(), this.host.inFlight(), now);
    const alone = this.pace.isAlone(now);
    if (merge.isBatchDue(now, alone)) {
      if (copying.settling !== null) return copying.settling;
      copying.settling = this.settle(merge, copying);
      return alone ? copying.settling : Promise.resolve();
    }
    if (copying.steps.size >= (alone ? 1 : MERGE_STEPS_IN_FLIGHT_MAX)) {
      return Promise.race(copying.steps);
    }
    const delay = this.pace.delay(now);
    if (delay > 0) return this.sleep(delay);
    const step = merge.nextStep();
    if (step === null) return merge.isPlanned ? null : this.turn();
    const running = this.runStep(merge, step, copying).finally(() => copying.steps.delete(running));
    copying.steps.add(running);
    return Promise.resolve();
  }

  private async runStep(merge: LayerMerge, step: MergeStep, copying: Copying): Promise<void> {
    const buffer = this.buffers.pop() ?? Buffer.allocUnsafeSlow(STEP_BUFFER_BYTES);
    const began = this.clock.now();
    this.pace.began(step.bytes, began);
    const fault = await merge.run(step, buffer);
    this.buffers.push(buffer);
    this.worked(began);
    if (fault !== null) copying.faults.push(fault);
  }

  private async settle(merge: LayerMerge, copying: Copying): Promise<void> {
    const began = this.clock.now();
    const fault = await merge.settle();
    this.worked(began);
    if (fault !== null) copying.faults.push(fault);
    copying.settling = null;
  }

  private worked(began: number): void {
    const now = this.clock.now();
    this.pace.worked(now - began, now);
  }

  private fail(fault: MergeFault): void {
    this.failure = fault;
    if (this.stopped || !isSpaceError(fault)) return;
    this.retry = this.clock.after(MERGE_RETRY_MS, () => {
      this.tryAgain();
      this.start();
    });
  }

  /** Forgets a failure, unless it is final. */
  private tryAgain(): void {
    this.retry?.cancel();
    this.retry = null;
    if (this.failure?.final !== true) this.failure = null;
  }

  /** Ends after `ms`, or earlier: when something changed, or it is to be looked at again. */
  private sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const end = (): void => {
        timer.cancel();
        this.wake = null;
        resolve();
      };
      const timer = this.clock.after(Math.min(ms, MERGE_SLEEP_MS_MAX), end);
      this.wake = end;
    });
  }

  private turn(): Promise<void> {
    return new Promise((resolve) => {
      this.clock.soon(resolve);
    });
  }
}

function isSpaceError({ errno }: MergeFault): boolean {
  return errno === Status.ENOSPC || errno === EDQUOT;
}

function reasonOf(fault: MergeFault): string {
  const why = isSpaceError(fault)
    ? 'there is no space left'
    : `the disk answered errno ${fault.errno}`;
  return `${fault.what}: ${why}`;
}
