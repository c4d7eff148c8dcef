/**
 * The delta runs to one mirror: when one is due, the one that is under way, and how it came out.
 *
 * Invariants:
 * - One run at a time, also when the last one was stopped: it may still have to let go of what it froze.
 * - A run that was stopped is over for its owner: nothing that it does later is told.
 */
import { isoTime } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import { nameOfErrno } from '../../nbd/constants.ts';
import type { NbdUri } from '../../nbd/uri/uri.ts';
import type { MirrorRecord } from '../../volume/log/metadata.ts';
import type { Contact, RunHooks, Transfer } from '../contact/contact.ts';
import { RunAborted, RunFailed } from '../runs/delta-run.ts';
import type { MirrorBlocks } from './mirror-blocks.ts';
import { MirrorCounts } from './mirror-counts.ts';
import type { MirrorHost } from './mirror-host.ts';
import type { MirrorStanding } from './mirror-standing.ts';
import { RunSchedule } from './run-schedule.ts';
import { formatSchedule } from '../policy/schedule.ts';
import type { MirrorRunningStatus } from '../status.ts';

/** What the owner of the runs does, and is told. */
export interface RunOwner extends Pick<RunHooks, 'beginStaging' | 'isStaging'> {
  /** The mirror lacks nothing but what is staged. */
  over(contact: Contact): void;
  failed(error: BlockferryError): void;
}

export class MirrorRuns {
  readonly schedule: RunSchedule;
  readonly counts = new MirrorCounts();
  /** In contact, between two runs of the schedule. */
  resting: Contact | null = null;
  /** What the last run brought, or what waited for the link, in words. */
  summary = '';
  private run: Transfer | null = null;
  /** Settled when nothing of the last run is on its way. */
  private last: Promise<void> = Promise.resolve();
  private readonly mirrorId: number;
  private readonly uri: NbdUri;
  private readonly host: MirrorHost;
  private readonly blocks: MirrorBlocks;
  private readonly standing: MirrorStanding;
  private readonly owner: RunOwner;

  constructor(options: {
    host: MirrorHost;
    record: MirrorRecord;
    uri: NbdUri;
    blocks: MirrorBlocks;
    standing: MirrorStanding;
    owner: RunOwner;
  }) {
    const { host, record } = options;
    this.host = host;
    this.mirrorId = record.id;
    this.uri = options.uri;
    this.blocks = options.blocks;
    this.standing = options.standing;
    this.owner = options.owner;
    this.schedule = new RunSchedule({
      clock: host.surroundings.clock,
      schedule: record.schedule,
      lastRunAt: record.ranAt,
      unfinished: record.run !== null,
    });
  }

  get underWay(): boolean {
    return this.run !== null;
  }

  /** Resolves when nothing of the last run is on its way. */
  get settled(): Promise<void> {
    return this.last;
  }

  /** Whether the next run begins now. */
  get due(): boolean {
    return this.schedule.isDue(this.blocks.clean);
  }

  /** Nothing of it is left in the stream. Does nothing when the state is one in which no run begins. */
  begin(contact: Contact, message: string): void {
    const { blocks, standing } = this;
    const suspect = blocks.suspect.count > 0;
    if (!standing.transition({ kind: 'contact', suspect }, message)) return;
    this.schedule.began();
    if (!contact.alwaysConsistent && !blocks.clean) standing.unknown();
    const marked = blocks.dirtyBytes + blocks.suspectBytes;
    this.counts.runBegan(this.host.surroundings.clock.now(), marked);
    const run = contact.transfer(this.hooks());
    this.run = run;
    this.last = this.runAfter(this.last, run, contact);
  }

  private hooks(): RunHooks {
    const { owner, standing } = this;
    const { clock } = this.host.surroundings;
    return {
      follows: () => this.schedule.follows,
      compared: () => standing.transition({ kind: 'compared' }, 'compared, sending what differs'),
      beginStaging: () => owner.beginStaging(),
      isStaging: () => owner.isStaging(),
      stuck: (stuck) => this.stuck(stuck),
      pause: (ms) =>
        new Promise((resolve) => {
          if (ms === 0) clock.soon(resolve);
          else clock.after(ms, resolve);
        }),
    };
  }

  private async runAfter(last: Promise<void>, run: Transfer, contact: Contact): Promise<void> {
    await last;
    try {
      if (this.run !== run) return;
      await run.run();
    } catch (thrown) {
      if (this.run === run) this.failed(thrown);
      return;
    }
    if (this.run !== run) return;
    this.stop();
    this.blocks.recordAll();
    this.blocks.commit();
    this.summary = `${run.bytesSent} bytes sent, ${run.bytesCompared} compared`;
    this.owner.over(contact);
  }

  /** It stays the one under way until the link is given up. */
  private failed(thrown: unknown): void {
    if (thrown instanceof RunAborted) return;
    if (thrown instanceof BlockferryError) {
      this.owner.failed(thrown);
      return;
    }
    if (!(thrown instanceof RunFailed)) throw thrown;
    const code = thrown.local ? 'VOLUME_FAILED' : 'MIRROR_REFUSED';
    const message = `delta run to ${this.uri.text}: ${thrown.message} (${nameOfErrno(thrown.errno)})`;
    this.owner.failed(new BlockferryError(code, message));
  }

  private stuck(stuck: boolean): void {
    const { standing } = this;
    if (stuck) {
      standing.transition({ kind: 'stuck' }, 'the host writes faster than the mirror takes');
    } else {
      standing.transition({ kind: 'unstuck' }, 'the delta run makes progress again');
    }
  }

  /** Of the one that is under way, if any. */
  stop(): void {
    const { run } = this;
    if (run === null) return;
    this.run = null;
    run.abort();
    this.counts.runOver(run);
  }

  /** The contact is over: neither a run nor a rest. */
  interrupt(): void {
    this.resting = null;
    this.stop();
  }

  /** Wall-clock time of what a run of the schedule brought; recorded if the mirror still is. */
  record(time: number): void {
    const { metadata } = this.host.volume;
    if (!metadata.state.mirrors.has(this.mirrorId)) return;
    metadata.append({ kind: 'mirror-ran', mirror: this.mirrorId, time: Math.floor(time) });
    this.blocks.commit();
  }

  status(): Pick<MirrorRunningStatus, 'delta' | 'last_run_at'> {
    const { follows, schedule, lastRunAt } = this.schedule;
    return {
      delta: follows ? null : formatSchedule(schedule),
      last_run_at: lastRunAt === null ? null : isoTime(lastRunAt),
    };
  }

  /** What was sent and compared. `now`: clock milliseconds. */
  amounts(now: number): ReturnType<MirrorCounts['status']> {
    const remainingBytes = this.blocks.dirtyBytes + this.blocks.suspectBytes;
    return this.counts.status(this.run, { now, remainingBytes });
  }
}
