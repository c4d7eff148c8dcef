/**
 * One round of a drill: a mirrored volume with a filesystem under load, an outage of the link,
 * the sudden death of the primary, and the question what the mirror is worth. Then the mirror is promoted and the old primary
 * becomes its mirror (`failover`, promotion.ts), or the primary comes back as if nothing was (`restart`).
 *
 *   fio, ledger -> ext4 -> loop -> nbdfuse -> recorder -> alpha -> link (fault proxy) -> beta
 *                          /dev/nbd0 of a kernel ─┘   (failover-host.ts)
 *
 * The primary is killed while its mirror is in step: only then is it known how little may be sent when it comes back. What is found wrong is a violation; what goes wrong with the
 * drill itself is an exception. Both fail the round.
 */
import { join } from 'node:path';
import { type FailoverHost, KernelFailoverHost, startHost } from './failover-host.ts';
import type { Drill, Round } from './frame.ts';
import { DrilledNode, expectEqualExports, inStep, type SeenMirror, settled } from './node.ts';
import { judge, type Verdict } from './oracle.ts';
import { Hopeless, run, until } from './process.ts';
import { Promotion } from './promotion.ts';
import { FaultProxy } from './proxy.ts';
import { Recorder } from './recorder.ts';
import { isWriteClass, readRequestLog, type RequestLog, RequestLogWriter } from './request-log.ts';
import { nbdUri } from './sockets.ts';
import { takeOver } from './takeover.ts';
import { judgeRecovery } from './targets.ts';
import { countText, sizeText } from './timeline.ts';

const VOLUME = 'demo';
const VOLUME_BYTES = 256 * 1024 * 1024;
const REGION_BYTES = 4 * 1024 * 1024;
/** A writer that comes from one region into the next makes so many after it active too (activity log). */
const REGIONS_AHEAD = 8;

/** The longest that things may take before the round fails. Generous: the judged thing is correctness. */
const IN_STEP_MS_MAX = 60_000;
const NOTICE_MS_MAX = 15_000;
const QUIET_MS_MAX = 15_000;

/** How long the phases last, picked by the seed; in the short form half as long at the most. */
const BEFORE_CUT_MS = { low: 500, high: 2500 };
const OUTAGE_MS = { low: 500, high: 3000 };
const BEFORE_KILL_MS = { low: 100, high: 2500 };
const SHORTER = 1 / 2;
/** In the short form the old primary comes back only where the seed is a multiple of it: many rounds are for many kills. */
const WAY_HOME_EACH = 4;

export const failover: Drill = {
  name: 'failover',
  about:
    'the primary dies under ext4 and sqlite, its mirror is promoted, the old primary becomes its mirror',
  modes: ['async', 'sync'],
  clients: ['nbd', 'kernel'],
  play: async (round) => await new FailoverRound(round, true).play(),
};

export const restart: Drill = {
  name: 'restart',
  about: 'the primary dies under ext4 and sqlite and comes back, and its mirror is brought in step',
  modes: ['async'],
  play: async (round) => await new FailoverRound(round, false).play(),
};

class FailoverRound {
  private readonly round: Round;
  private readonly failover: boolean;
  private readonly directory: string;
  private readonly alpha: DrilledNode;
  private readonly beta: DrilledNode;
  private readonly promotion: Promotion;

  constructor(round: Round, failover: boolean) {
    const { directory, signal } = round;
    this.round = round;
    this.failover = failover;
    this.directory = directory;
    this.alpha = new DrilledNode({ name: 'alpha', directory });
    this.beta = new DrilledNode({ name: 'beta', directory });
    this.promotion = new Promotion({
      alpha: this.alpha,
      beta: this.beta,
      volume: VOLUME,
      sizeBytes: VOLUME_BYTES,
      directory,
      signal,
      note: (text) => round.note(text),
      violate: (text) => round.violate(text),
    });
  }

  async play(): Promise<void> {
    const link = await this.setUp();
    const { failover } = this;
    const log = new RequestLogWriter(this.logDirectory);
    this.round.undo.add('close the record', () => log.close());
    const life = await this.liveAndDie(link, log);
    const image = join(this.directory, 'mirror.raw');
    if (!failover) await this.untilQuiet();
    await run('nbdcopy', [this.beta.uri(VOLUME), image]);
    this.note('image read from beta');
    const { host } = life;
    const goesOn = this.round.mode === 'sync' && host instanceof KernelFailoverHost ? host : null;
    const openedMs = (await goesOn?.open(log, this.beta)) ?? 0;
    const verdict = this.consultOracle(life.recorded, image);
    if (life.promotedMs !== null) this.noteLoss(life.promotedMs, verdict);
    await this.takeOver(image, life.told, verdict);
    if (!failover) return await this.comeBack(life.recorded);
    await goesOn?.goOn(this.beta, openedMs);
    await this.promotion.useIt();
    if (this.round.pick(this.round.options.seed % WAY_HOME_EACH !== 0, false)) {
      return this.note(`short form: the way home is for each ${WAY_HOME_EACH}th seed`);
    }
    await this.promotion.fenced();
    log.commit();
    const active = regionsActive(readRequestLog(this.logDirectory));
    await this.promotion.failBack(life.recorded, (active + 1) * REGION_BYTES);
  }

  private noteLoss(promotedMs: number, { writesLost, lossMs }: Verdict): void {
    this.round.atLeast('lostWrites', writesLost);
    this.round.atLeast('lostMs', lossMs);
    judgeRecovery(this.round, promotedMs);
    const lost = writesLost === 0 ? '0' : `the last ${lossMs} ms`;
    this.note(
      `RPO ${countText(writesLost)} acknowledged writes (${lost}); RTO ${promotedMs} ms from the kill until beta takes writes`,
    );
  }

  /** Two nodes, a link between them, a mirrored volume in step. */
  private async setUp(): Promise<FaultProxy> {
    const { alpha, beta, round } = this;
    const { undo } = round;
    const link = await FaultProxy.start({ listen: '127.0.0.1:0', target: beta.nbdAddress });
    undo.add('close the link', () => link.close());
    for (const node of [beta, alpha]) {
      undo.add(`end ${node.name}`, () => node.kill());
      await node.start(round.signal);
      const role = node === beta ? ['--mirror-of', alpha.name] : [];
      await node.command('volume', 'create', VOLUME, String(VOLUME_BYTES), ...role);
    }
    const uri = nbdUri(link.address, VOLUME);
    await alpha.command('mirror', 'add', VOLUME, uri, '--mode', round.mode);
    await this.waitInStep();
    this.note(
      `alpha (pid ${alpha.pid}) mirrors ${VOLUME}, ${sizeText(VOLUME_BYTES)}, to beta (pid ${beta.pid}), ${round.mode}: streaming`,
    );
    return link;
  }

  private get logDirectory(): string {
    return join(this.directory, 'requests');
  }

  /** From the first write to the last: load, outage, recovery, death of the primary. */
  private async liveAndDie(link: FaultProxy, log: RequestLogWriter): Promise<Life> {
    const { alpha, directory, round } = this;
    const recorder = await Recorder.start({
      listen: `unix:${join(directory, 'recorder.nbd')}`,
      target: alpha.nbdAddress,
      log,
    });
    round.undo.add('close the recorder', () => recorder.close());
    const host = await startHost({ round, recorder, volume: VOLUME });

    await this.outage(link, host, recorder);
    await this.pauseBetween(BEFORE_KILL_MS);
    await this.waitInStep();
    if (!host.running) throw new Error(`the load ended too early: ${host.tail()}`);
    log.mark(MARK_KILL);
    const killedAt = performance.now();
    await Promise.all([alpha.kill(), host.atKill()]);
    this.note(`alpha killed (SIGKILL) under load; ${loadText(recorder, host)}`);
    const { failover } = this;
    const promotedMs = failover ? await this.promotion.promote(killedAt) : null;
    if (failover) this.note('beta promoted');

    await host.afterKill();
    await recorder.close();
    if (recorder.failure !== null) throw new Error(`the record is unsound: ${recorder.failure}`);
    if (recorder.counters.flushes === 0) throw new Error('no FLUSH came: nothing was tested');
    const { ledgerLines, transactions } = host;
    log.commit();
    const recorded = readRequestLog(this.logDirectory);
    return { recorded, told: { ledgerLines, transactions }, promotedMs, host };
  }

  private async outage(link: FaultProxy, load: FailoverHost, recorder: Recorder): Promise<void> {
    const { alpha } = this;
    await this.pauseBetween(BEFORE_CUT_MS);
    await this.waitInStep();
    this.note(`streaming under load; ${loadText(recorder, load)}`);
    link.cut();
    this.note('link cut');
    const noticed = await this.waitMirror('the loss of the link to be noticed', NOTICE_MS_MAX, {
      accept: (mirror) => mirror.state !== 'streaming',
    });
    this.note(`alpha reports ${noticed.state}`);
    const before = recorder.counters.acknowledged;
    await this.pauseBetween(OUTAGE_MS);
    if (recorder.counters.acknowledged === before) this.violate('the load stopped while cut');
    const away = await alpha.mirror(VOLUME);
    this.note(
      `load goes on: ${sizeText(away.dirty_bytes)} to catch up; ${loadText(recorder, load)}`,
    );
    link.restore();
    this.note('link restored');
    const back = await this.waitInStep();
    this.note(
      `streaming again, no command given; delta runs sent ${sizeText(back.delta_bytes_sent)}`,
    );
  }

  /** Nothing of the dead primary is on its way to the mirror any more. */
  private async untilQuiet(): Promise<void> {
    const { beta } = this;
    await until(
      {
        what: 'beta to see the end of the link, and to show all that came',
        timeoutMs: QUIET_MS_MAX,
        signal: this.round.signal,
      },
      async () => {
        const { connections, source } = await beta.volume(VOLUME);
        if (source === null) throw new Hopeless(`${VOLUME} of beta is no mirror`);
        const shown = source.applied_epoch === source.durable_epoch;
        return connections === 0 && source.state === 'waiting' && shown;
      },
    );
  }

  private consultOracle(log: RequestLog, image: string): Verdict {
    const startMs = this.round.timeline.elapsedMs;
    const verdict = judge({
      log,
      imagePath: image,
      sizeBytes: VOLUME_BYTES,
      mode: this.round.mode,
    });
    const tookMs = Math.round(this.round.timeline.elapsedMs - startMs);
    this.note(
      `oracle: ${countText(verdict.cells)} cells, ${countText(verdict.versions)} versions, ` +
        `${countText(verdict.flushesInForce)} of ${countText(verdict.flushesAnswered)} flushes in force, ` +
        `${countText(verdict.writesLost)} of ${countText(verdict.writesAnswered)} acknowledged writes lost` +
        (verdict.writesLost === 0 ? '' : ` (the last ${verdict.lossMs} ms)`) +
        `: ${verdict.ok ? 'sound' : `${countText(verdict.violationCount)} VIOLATIONS`} (${tookMs} ms)`,
    );
    for (const violation of verdict.violations) {
      this.violate(`oracle, rule "${violation.rule}": ${violation.text}`);
    }
    return verdict;
  }

  private async takeOver(image: string, told: Told, verdict: Verdict): Promise<void> {
    try {
      const { files, ledgerLines, transactions } = await takeOver(image, this.directory);
      this.note(
        `filesystem: fsck clean, mounted, ${countText(files)} files read; ` +
          `ledger 1..${ledgerLines} without a gap, ${told.ledgerLines} were synced; ` +
          `sqlite integrity_check ok, ${transactions} transactions of ${told.transactions}`,
      );
      if (this.round.mode === 'sync' && ledgerLines < told.ledgerLines) {
        this.violate(
          `sync mode, but the ledger ends at ${ledgerLines} of ${told.ledgerLines} synced lines`,
        );
      }
      if (this.round.mode === 'sync' && transactions < told.transactions) {
        this.violate(
          `sync mode, but the database has ${transactions} of ${told.transactions} commits`,
        );
      }
    } catch (thrown) {
      const why = thrown instanceof Error ? thrown.message : String(thrown);
      const both = verdict.ok ? '' : ' (the oracle found violations too)';
      this.violate(`the filesystem on the mirror is not sound${both}: ${why}`);
    }
  }

  /** The old primary returns: both sides end equal, for the price of its active regions. */
  private async comeBack(log: RequestLog): Promise<void> {
    const { alpha, beta } = this;
    await alpha.start(this.round.signal);
    const mirror = await this.waitMirror('both sides to be in step again', IN_STEP_MS_MAX, {
      accept: settled,
    });
    const regions = regionsActive(log);
    const bound = regions * REGION_BYTES;
    this.note(
      `alpha started again: streaming; compared ${sizeText(mirror.bytes_compared)}, ` +
        `sent ${sizeText(mirror.delta_bytes_sent)}; ${regions} of ` +
        `${VOLUME_BYTES / REGION_BYTES} regions may be active (${sizeText(bound)})`,
    );
    if (mirror.bytes_compared > bound || mirror.delta_bytes_sent > bound) {
      this.violate('more was compared or sent than the regions that may be active');
    }
    try {
      await expectEqualExports([alpha.uri(VOLUME), beta.uri(VOLUME)]);
      this.note('alpha and beta are equal, byte for byte');
    } catch (thrown) {
      const why = thrown instanceof Error ? thrown.message : String(thrown);
      this.violate(`alpha and beta differ after the restart: ${why}`);
    }
  }

  private async waitInStep(): Promise<SeenMirror> {
    return await this.waitMirror('the mirror to stream', IN_STEP_MS_MAX, { accept: inStep });
  }

  private async waitMirror(
    what: string,
    timeoutMs: number,
    options: { accept: (mirror: SeenMirror) => boolean },
  ): Promise<SeenMirror> {
    const { signal } = this.round;
    let last: SeenMirror | null = null;
    try {
      return await until({ what, timeoutMs, everyMs: 20, signal }, async () => {
        last = await this.alpha.mirror(VOLUME);
        return options.accept(last) ? last : null;
      });
    } catch (thrown) {
      if (signal.aborted) throw thrown;
      throw new Error(`${String(thrown)}; last seen: ${JSON.stringify(last)}`, { cause: thrown });
    }
  }

  private async pauseBetween(bounds: { low: number; high: number }): Promise<void> {
    await this.round.pauseBetween(bounds.low, this.round.pick(SHORTER, 1) * bounds.high);
  }

  private note(text: string): void {
    this.round.note(text);
  }

  private violate(text: string): void {
    this.round.violate(text);
  }
}

/** What the applications were told is durable. */
interface Told {
  readonly ledgerLines: number;
  readonly transactions: number;
}

/** What there is of a primary and its host after its death. */
interface Life {
  readonly recorded: RequestLog;
  readonly told: Told;
  readonly promotedMs: number | null;
  readonly host: FailoverHost;
}

const MARK_KILL = 1;

function loadText(recorder: Recorder, load: FailoverHost): string {
  const { writes, writtenBytes, flushes } = recorder.counters;
  return (
    `${countText(writes)} writes (${sizeText(writtenBytes)}), ` +
    `${countText(flushes)} flushes, ledger at ${load.ledgerLines}`
  );
}

/** Regions that the record says may be active: written, or just ahead of a writer that walks on. */
function regionsActive(log: RequestLog): number {
  const written = new Set<number>();
  const active = new Set<number>();
  const regions = VOLUME_BYTES / REGION_BYTES;
  for (const request of log.requests) {
    if (!isWriteClass(request) || request.length === 0) continue;
    const first = Math.floor(request.offset / REGION_BYTES);
    const last = Math.floor((request.offset + request.length - 1) / REGION_BYTES);
    for (let index = first; index <= last; index++) {
      const entered = index * REGION_BYTES >= request.offset;
      const ahead =
        entered && (written.has(index - 1) || active.has(index - 1)) ? REGIONS_AHEAD : 0;
      for (let next = index; next <= index + ahead && next < regions; next++) active.add(next);
      written.add(index);
    }
  }
  return active.size;
}
