/**
 * Tells how far an import or export is: a bar on a terminal, lines elsewhere, JSON objects with `--json`.
 *
 * Invariant: rate and time left are about what happened lately, not since the beginning: a copy that skips a
 * large hole at its start promises nothing by that.
 */
import type { Clock, Timer } from '../../io/clock.ts';
import { formatBytes, formatSeconds, oneLine } from '../render/format.ts';

export type ProgressStyle = 'bar' | 'lines' | 'json';

const EVERY_MS: Readonly<Record<ProgressStyle, number>> = { bar: 200, lines: 5_000, json: 1_000 };
/** What "lately" is. */
const RATE_MS = 10_000;
const BAR_CELLS = 30;
const CLEAR_LINE = '\r\u001b[K';

export interface TransferLabels {
  /** `imported` or `exported`. */
  readonly done: string;
  readonly source: string;
  readonly target: string;
  readonly totalBytes: number;
  /** Copied by an earlier run. */
  readonly skippedBytes: number;
}

export interface ProgressOutput {
  readonly style: ProgressStyle;
  readonly clock: Clock;
  /** Stdout: JSON objects and the last word. */
  readonly print: (text: string) => void;
  /** Stderr: bars, lines and remarks. */
  readonly remark: (text: string) => void;
}

/** Where a copy is. Data and zeroes are null when another program moves them. */
export interface ProgressCounts {
  readonly position: number;
  readonly totalBytes: number;
  readonly dataBytes: number | null;
  readonly zeroBytes: number | null;
}

interface Sample {
  readonly at: number;
  readonly position: number;
}

export class ProgressReport {
  private readonly output: ProgressOutput;
  private readonly labels: TransferLabels;
  private readonly began: number;
  private counts: () => ProgressCounts;
  private samples: Sample[] = [];
  private timer: Timer | null = null;

  constructor(output: ProgressOutput, labels: TransferLabels) {
    this.output = output;
    this.labels = labels;
    this.began = output.clock.now();
    const { skippedBytes: position, totalBytes } = labels;
    this.counts = () => ({ position, totalBytes, dataBytes: 0, zeroBytes: 0 });
  }

  /** Says what begins, or goes on, and from now on how far it is. */
  begin(counts: () => ProgressCounts): void {
    const { source, target, totalBytes, skippedBytes } = this.labels;
    this.counts = counts;
    this.sample();
    if (this.output.style === 'json') {
      this.json('begun', { source, target, total_bytes: totalBytes, skipped_bytes: skippedBytes });
    } else if (skippedBytes > 0) {
      const there = `${formatBytes(skippedBytes)} of ${formatBytes(totalBytes)}`;
      this.output.remark(`going on where it was interrupted: ${there} are there\n`);
    }
    this.arm();
  }

  /** No more is told; the line of a bar is cleared. */
  end(): void {
    this.timer?.cancel();
    this.timer = null;
    if (this.output.style === 'bar') this.output.remark(CLEAR_LINE);
  }

  /** The last word of a copy that is whole. */
  done(): void {
    const { done, source, target, skippedBytes } = this.labels;
    const { totalBytes, dataBytes, zeroBytes } = this.counts();
    const seconds = (this.output.clock.now() - this.began) / 1000;
    if (this.output.style === 'json') {
      this.json('done', {
        source,
        target,
        total_bytes: totalBytes,
        skipped_bytes: skippedBytes,
        data_bytes: dataBytes,
        zero_bytes: zeroBytes,
        seconds: Number(seconds.toFixed(3)),
      });
      return;
    }
    const data = dataBytes === null ? '' : `, ${formatBytes(dataBytes)} of data`;
    const skipped = skippedBytes > 0 ? `, ${formatBytes(skippedBytes)} were there` : '';
    this.output.print(
      `${done} ${oneLine(source)} to ${oneLine(target)}: ${formatBytes(totalBytes)}${data}` +
        `${skipped}, in ${formatSeconds(seconds)}\n`,
    );
  }

  private arm(): void {
    this.timer = this.output.clock.after(EVERY_MS[this.output.style], () => {
      this.sample();
      this.tell();
      this.arm();
    });
  }

  private sample(): void {
    const now = this.output.clock.now();
    this.samples.push({ at: now, position: this.counts().position });
    const old = this.samples.findLastIndex(({ at }) => now - at >= RATE_MS);
    if (old > 0) this.samples = this.samples.slice(old);
  }

  private tell(): void {
    const { position, totalBytes, dataBytes, zeroBytes } = this.counts();
    const rate = this.rate();
    const left = rate > 0 ? (totalBytes - position) / rate : null;
    if (this.output.style === 'json') {
      this.json('progress', {
        position_bytes: position,
        total_bytes: totalBytes,
        data_bytes: dataBytes,
        zero_bytes: zeroBytes,
        bytes_per_second: Math.round(rate),
        eta_seconds: left === null ? null : Math.round(left),
      });
      return;
    }
    const part = totalBytes === 0 ? 1 : position / totalBytes;
    const line =
      `${String(Math.floor(part * 100)).padStart(3)} %  ${formatBytes(position)} of ` +
      `${formatBytes(totalBytes)}  ${formatBytes(rate)}/s  ${formatSeconds(left)} left`;
    if (this.output.style === 'lines') return this.output.remark(`${line.trimStart()}\n`);
    const filled = Math.round(part * BAR_CELLS);
    const bar = '#'.repeat(filled).padEnd(BAR_CELLS, '.');
    return this.output.remark(`${CLEAR_LINE}[${bar}] ${line}`);
  }

  /** Bytes a second, lately. */
  private rate(): number {
    const [first, last] = [this.samples[0], this.samples.at(-1)];
    if (first === undefined || last === undefined || last.at <= first.at) return 0;
    return ((last.position - first.position) * 1000) / (last.at - first.at);
  }

  private json(event: string, fields: Readonly<Record<string, string | number | null>>): void {
    this.output.print(`${JSON.stringify({ event, ...fields })}\n`);
  }
}
