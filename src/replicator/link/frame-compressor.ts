/**
 * Compresses payloads on their way into a link, while that pays (compression-policy.ts).
 *
 * Invariants:
 * - Each frame goes out once: compressed if it became shorter, else as it is. Frames may overtake each other, as on lanes.
 * - What is being compressed counts in the backlog of the link, as long as it was before.
 * - When the link ends, nothing waits for a compressor: what is under way goes out as it is, or not at all.
 * - While it is off, a frame costs one look at a flag: no memory, no time, no promise.
 */
import type { Clock, Timer } from '../../io/clock.ts';
import { COMPRESS_BYTES_MIN, COMPRESS_LOOK_MS } from '../../io/limits.ts';
import type { Compressor, Packed } from '../../workers/compressor.ts';
import { CompressionPolicy, SHARE_GO_ON_MAX } from './compression-policy.ts';
import { DrainMeter } from './drain-meter.ts';
import { COMPRESSED } from './frame-kinds.ts';
import { FrameKind, type FrameHeader, type LinkCompression, type WireLimit } from './link-types.ts';
import type { Outbox } from './outbox.ts';

export interface FrameCompressorOptions {
  readonly clock: Clock;
  readonly compressor: Compressor;
  readonly outbox: Outbox;
  /** Sends a frame on some lane, or drops it when the link is over. */
  readonly pass: (header: FrameHeader, payload: readonly Buffer[], sent: Sent) => void;
}

type Sent = (() => void) | null;

/** A frame that is being compressed. */
interface Entry {
  readonly header: FrameHeader;
  readonly payload: readonly Buffer[];
  readonly sent: Sent;
}

export class FrameCompressor implements LinkCompression {
  /** Bytes of payloads that went out compressed: before, and after. */
  bytesIn = 0;
  bytesOut = 0;
  private readonly clock: Clock;
  private readonly compressor: Compressor;
  private readonly outbox: Outbox;
  private readonly pass: FrameCompressorOptions['pass'];
  private readonly policy: CompressionPolicy;
  private readonly underWay = new Set<Entry>();
  private on = false;
  private over = false;
  private limit: WireLimit | null = null;
  private timer: Timer | null = null;

  constructor(options: FrameCompressorOptions) {
    this.clock = options.clock;
    this.compressor = options.compressor;
    this.outbox = options.outbox;
    this.pass = options.pass;
    this.policy = new CompressionPolicy(options.compressor.threads);
  }

  /** Payloads are compressed now. */
  get active(): boolean {
    return this.policy.active;
  }

  /** Which part of the bytes is left by compression, while it is active; else null. */
  get share(): number | null {
    return this.policy.active ? this.policy.share : null;
  }

  /** `limit`: what senders are held back by; null: nothing. */
  set(mode: 'auto' | 'off', limit: WireLimit | null): void {
    this.limit?.expect(1);
    this.limit = limit;
    this.on = mode === 'auto' && !this.over;
    if (this.on) {
      this.outbox.meter ??= new DrainMeter(this.clock);
    } else {
      this.policy.stop();
      this.outbox.meter = null;
      this.timer?.cancel();
      this.timer = null;
    }
  }

  /** Whether this frame is one for `take`. Asked once for each. */
  wants({ kind, length }: FrameHeader): boolean {
    if (!this.on) return false;
    this.timer ??= this.clock.after(COMPRESS_LOOK_MS, this.look);
    // Of these kinds, length is that of the payload.
    if (kind !== FrameKind.DATA && kind !== FrameKind.RUN_DATA) return false;
    const fits = length >= COMPRESS_BYTES_MIN && this.compressor.usable;
    if (fits && this.policy.takes(length)) return true;
    if (this.active) this.limit?.correct(length, length);
    return false;
  }

  /** The chunks are in use until `sent`. */
  take(header: FrameHeader, payload: readonly Buffer[], sent: Sent): void {
    const entry = { header, payload, sent };
    this.underWay.add(entry);
    this.outbox.reserve(header.length);
    void this.compress(entry);
  }

  /** The link ends. `cut`: nothing is sent any more; else what is under way goes out now. */
  stop(cut: boolean): void {
    this.over = true;
    this.set('off', null);
    for (const { header, payload, sent } of this.underWay) {
      if (!cut) this.pass(header, payload, sent);
      else if (sent !== null) this.outbox.drop(sent);
      this.outbox.unreserve(header.length);
    }
    this.underWay.clear();
  }

  private async compress(entry: Entry): Promise<void> {
    const { header, payload } = entry;
    const most = Math.floor(header.length * SHARE_GO_ON_MAX);
    const packed = await this.compressor.compress(payload, header.length, most);
    // The link ended meanwhile.
    if (!this.underWay.delete(entry)) return;
    this.goOn(entry, packed);
    this.outbox.unreserve(header.length);
  }

  private goOn({ header, payload, sent }: Entry, packed: Packed | null): void {
    const { length } = header;
    if (packed === null) {
      this.limit?.correct(length, length);
      return this.pass(header, payload, sent);
    }
    const { bytes, ms } = packed;
    const bytesOut = bytes?.length ?? length;
    this.policy.compressed(length, bytesOut, { ms, now: this.clock.now() });
    this.limit?.correct(length, bytesOut);
    if (bytes === null) return this.pass(header, payload, sent);
    this.bytesIn += length;
    this.bytesOut += bytesOut;
    this.pass({ ...header, flags: header.flags | COMPRESSED }, [bytes], null);
    // The chunks are free: what is on its way is a copy.
    sent?.();
  }

  private readonly look = (): void => {
    this.timer = null;
    const { meter } = this.outbox;
    if (meter === null) return;
    const seen = meter.take(this.limit?.heldBack === true);
    // Nobody compresses any more, so nothing shrinks.
    if (this.compressor.usable) this.policy.look(seen);
    else this.policy.stop();
    this.limit?.expect(this.share ?? 1);
    const quiet = seen.allBytes === 0 && seen.waitedMs === 0;
    if (!quiet || this.active) this.timer = this.clock.after(COMPRESS_LOOK_MS, this.look);
  };
}
