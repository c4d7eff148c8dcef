/**
 * Whether a link compresses what it sends: decided by what was measured, never by what somebody hoped for. Pure: what was
 * seen goes in, and a decision comes out.
 *
 * Invariants:
 * - It begins only while data waits for the link, samples shrink, and the compressor is several times as fast as the link.
 * - It goes on only while that pays: when what was compressed no longer shrinks, the compressor became too slow for the link,
 *   or data gets through no faster than before, it ends, and is tried again after a pause that doubles.
 * - What was measured grows old: without compression samples are taken now and then while data waits, and where the compressor
 *   is what holds up, the link is tried without it.
 *
 * The thresholds for the beginning are higher than those for the end, so that it does not go to and fro.
 */

/** Payloads shrink to this part at most, or it does not begin; where they do not shrink to that one, it ends. */
const SHARE_BEGIN_MAX = 0.8;
export const SHARE_GO_ON_MAX = 0.9;
/** The compressor is so many times as fast as the link, in bytes that go in, or it does not begin; less than that ends it. */
const SPEED_BEGIN_MIN = 3;
const SPEED_GO_ON_MIN = 1.5;
/** A link that takes so many bytes a second is not looked at further: no compressor is three times as fast. */
const LINK_RATE_MAX = 400e6;
/** Data gets through so many times as fast as before, or it is of no use. */
const GAIN_MIN = 1.1;
/** With less than this part of what the link takes without it, it is not needed. */
const LOAD_MIN = 0.7;
const CALM_MS = 3_000;
/** A window of time is judged when data waited for so long in it and so much of it went, or for that long. */
const WINDOW_MS = 500;
const WINDOW_BYTES = 256 * 1024;
const WINDOW_MS_MAX = 2_000;
/** Windows in a row that say so before it begins; and those that it is given to show a gain. */
const BEGIN_WINDOWS = 2;
const PROOF_WINDOWS = 4;
/** What is compressed for a sample, in bytes, and how long that counts. */
const SAMPLE_BYTES = 1024 * 1024;
const SAMPLE_MS = 5_000;
/** Samples are forgotten by half with each such amount. */
const MEAN_BYTES = 16 * 1024 * 1024;
const PAUSE_MS_MIN = 5_000;
const PAUSE_MS_MAX = 60_000;
/** Time with the compressor as what holds up, after which the link is tried without it. */
const TRIAL_MS_MIN = 10_000;
const TRIAL_MS_MAX = 120_000;

/** What happened since the last look. */
export interface CompressionLook {
  /** Clock milliseconds. */
  readonly now: number;
  /** Since the last look. */
  readonly elapsedMs: number;
  /** Of these, data waited for the compressor or the link; and data waited for the link. */
  readonly waitedMs: number;
  readonly linkWaitedMs: number;
  /** Bytes that left while data waited: before compression, of these such as were compressed, and on the wire. */
  readonly plainBytes: number;
  readonly compressedBytes: number;
  readonly wireBytes: number;
  /** Bytes before compression that left at any time. */
  readonly allBytes: number;
}

interface Window {
  ms: number;
  linkMs: number;
  plain: number;
  compressed: number;
  wire: number;
}

export class CompressionPolicy {
  /** Payloads are compressed. */
  active = false;
  private readonly threads: number;
  private window: Window = newWindow();
  /** Bytes that are still to be compressed for a sample. */
  private sampleBytes = 0;
  private sampledAt: number | null = null;
  private bytesIn = 0;
  private bytesOut = 0;
  private ms = 0;
  /** Windows in a row in which it was worth while; and since it began. */
  private windows = 0;
  /** Bytes a second that got through before it began. */
  private before = 0;
  private proved = false;
  private calmMs = 0;
  /** Time for which the compressor was what held up. */
  private heldUpMs = 0;
  private trialMs = TRIAL_MS_MIN;
  private pauseMs = PAUSE_MS_MIN;
  private pausedUntil = 0;

  /** `threads`: payloads that are compressed side by side. */
  constructor(threads: number) {
    this.threads = threads;
  }

  /** Which part of the bytes is left by compression, by what was seen last; null: nothing was. */
  get share(): number | null {
    return this.bytesIn === 0 ? null : this.bytesOut / this.bytesIn;
  }

  /** Bytes a second that all threads take in. */
  private get speed(): number {
    return this.ms === 0 ? 0 : (this.bytesIn / this.ms) * 1000 * this.threads;
  }

  /** Whether a payload of `bytes` is to be compressed. It is counted as if it were. */
  takes(bytes: number): boolean {
    if (this.active) return true;
    if (this.sampleBytes <= 0) return false;
    this.sampleBytes -= bytes;
    return true;
  }

  /** A payload was compressed in `ms` of one thread. `bytesOut` is `bytesIn` for one that did not shrink. */
  compressed(bytesIn: number, bytesOut: number, { ms, now }: { ms: number; now: number }): void {
    if (this.bytesIn >= MEAN_BYTES) {
      this.bytesIn /= 2;
      this.bytesOut /= 2;
      this.ms /= 2;
    }
    this.bytesIn += bytesIn;
    this.bytesOut += bytesOut;
    this.ms += ms;
    this.sampledAt = now;
  }

  /** Called now and then while something is sent. */
  look(seen: CompressionLook): void {
    const { window } = this;
    window.ms += seen.waitedMs;
    window.linkMs += seen.linkWaitedMs;
    window.plain += seen.plainBytes;
    window.compressed += seen.compressedBytes;
    window.wire += seen.wireBytes;
    if (this.active && this.isCalm(seen)) return this.end(seen.now, 0);
    const whole = window.ms >= WINDOW_MS && window.wire >= WINDOW_BYTES;
    if (!whole && window.ms < WINDOW_MS_MAX) return;
    this.window = newWindow();
    if (this.active) this.judge(window, seen.now);
    else this.consider(window, seen.now);
  }

  /** Nobody wants it any more. */
  stop(): void {
    this.active = false;
    this.sampleBytes = 0;
    this.windows = 0;
    this.window = newWindow();
  }

  /** Whether so little comes, for a while, that the link would take it as it is. */
  private isCalm({ elapsedMs, waitedMs, allBytes }: CompressionLook): boolean {
    const busy = waitedMs * 2 >= elapsedMs || allBytes * 1000 >= LOAD_MIN * this.before * elapsedMs;
    this.calmMs = busy ? 0 : this.calmMs + elapsedMs;
    return this.calmMs >= CALM_MS;
  }

  /** Without compression, data waited: would it help? */
  private consider(window: Window, now: number): void {
    const rate = perSecond(window.plain, window.ms);
    if (now < this.pausedUntil || rate > LINK_RATE_MAX) {
      this.windows = 0;
      return;
    }
    const { share } = this;
    if (share === null || this.sampledAt === null || now - this.sampledAt > SAMPLE_MS) {
      this.takeSample();
      return;
    }
    if (share > SHARE_BEGIN_MAX) return this.end(now, this.longerPause());
    this.windows = this.speed >= SPEED_BEGIN_MIN * rate ? this.windows + 1 : 0;
    if (this.windows < BEGIN_WINDOWS) return;
    this.active = true;
    this.windows = 0;
    this.before = rate;
    this.proved = false;
    this.calmMs = 0;
    this.heldUpMs = 0;
  }

  /** What was measured earlier counts no longer. */
  private takeSample(): void {
    if (this.sampleBytes > 0) return;
    this.sampleBytes = SAMPLE_BYTES;
    this.bytesIn = 0;
    this.bytesOut = 0;
    this.ms = 0;
    this.sampledAt = null;
  }

  /** With compression, data waited: does it help? */
  private judge(window: Window, now: number): void {
    if ((this.share ?? 1) > SHARE_GO_ON_MAX) return this.end(now, this.longerPause());
    // What was queued before it began still has to go.
    if (window.compressed * 2 < window.plain) return;
    if (perSecond(window.plain, window.ms) >= GAIN_MIN * this.before) {
      if (!this.proved) this.pauseMs = PAUSE_MS_MIN;
      this.proved = true;
    }
    this.windows += 1;
    if (!this.proved && this.windows >= PROOF_WINDOWS) return this.end(now, this.longerPause());
    if (window.linkMs * 2 >= window.ms) {
      this.heldUpMs = 0;
      this.trialMs = TRIAL_MS_MIN;
      const rate = perSecond(window.wire, window.ms);
      if (this.speed < SPEED_GO_ON_MIN * rate) this.end(now, PAUSE_MS_MIN);
      return;
    }
    this.heldUpMs += window.ms;
    if (this.heldUpMs < this.trialMs) return;
    this.trialMs = Math.min(TRIAL_MS_MAX, this.trialMs * 2);
    this.end(now, 0);
  }

  private end(now: number, pauseMs: number): void {
    this.stop();
    this.pausedUntil = now + pauseMs;
  }

  private longerPause(): number {
    const { pauseMs } = this;
    this.pauseMs = Math.min(PAUSE_MS_MAX, pauseMs * 2);
    return pauseMs;
  }
}

function perSecond(bytes: number, ms: number): number {
  return (bytes / ms) * 1000;
}

function newWindow(): Window {
  return { ms: 0, linkMs: 0, plain: 0, compressed: 0, wire: 0 };
}
