/**
 * How much of a volume is zeroed by one call to the disk, and whether punching a hole pays.
 *
 * A file system works off a hole extent by extent and holds the file's lock meanwhile: every write to the file
 * waits. What an extent costs differs a thousandfold (one that tells the device of each freed extent takes
 * milliseconds), so it is measured: pieces are cut to take about ZERO_PIECE_MS.
 */
import { ZERO_PIECE_MS, ZERO_PIECE_RUNS_MAX } from '../io/limits.ts';

/** Runs of the first piece, while nothing is known. */
const RUNS_FIRST = 8;
/** A hole is punched without asking when it costs no more than this for each run of data. */
const CHEAP_MS = 0.2;
/** What writing zeroes is taken to cost, to be compared with: bytes a millisecond. */
const WRITE_BYTES_PER_MS = 256 * 1024;
/** Runs that are written instead before a hole is tried again: the first time, and at most. */
const RETRY_AFTER = 64;
const RETRY_AFTER_MAX = 4096;

export class ZeroPace {
  /** Runs of data or of nothing that the next piece may touch. */
  runsMax = RUNS_FIRST;
  /** What punching out a run of data cost lately. What a busy machine added to that is forgotten soon. */
  private runMs = 0;
  private written = 0;
  private retryAfter = RETRY_AFTER;

  /** A hole over `runs` runs took so long (milliseconds). */
  punched(runs: number, ms: number): void {
    this.took(runs, ms);
    const each = ms / Math.max(1, runs);
    this.runMs = each < this.runMs ? each : this.runMs * 0.75 + each * 0.25;
    this.written = 0;
  }

  /** A piece over `runs` runs took so long (milliseconds). */
  took(runs: number, ms: number): void {
    if (ms > ZERO_PIECE_MS) this.runsMax = Math.max(1, Math.floor(this.runsMax / 2));
    // A piece that was cut short by its bytes tells nothing about more runs.
    else if (ms < ZERO_PIECE_MS / 4 && runs >= this.runsMax) {
      this.runsMax = Math.min(ZERO_PIECE_RUNS_MAX, this.runsMax * 2);
    }
  }

  /** Whether a hole in place of a run of `bytes` is no dearer than zeroes written over it, or is to be tried. */
  paysFor(bytes: number): boolean {
    if (this.runMs <= Math.max(CHEAP_MS, bytes / WRITE_BYTES_PER_MS)) {
      this.retryAfter = RETRY_AFTER;
      return true;
    }
    this.written += 1;
    if (this.written <= this.retryAfter) return false;
    this.retryAfter = Math.min(RETRY_AFTER_MAX, this.retryAfter * 2);
    return true;
  }
}
