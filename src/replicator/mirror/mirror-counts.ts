/** What was sent to a mirror and compared with it since the node started, and how its present delta run gets on. */
import type { Transfer } from '../contact/contact.ts';
import { etaSeconds } from '../policy/policy.ts';
import type { MirrorRunningStatus } from '../status.ts';

export class MirrorCounts {
  private streamedBytes = 0;
  private deltaBytes = 0;
  private comparedBytes = 0;
  private runStartedAt = 0;
  /** What was marked when the run began. */
  private runBytes = 0;

  /** So much of an epoch went out. */
  streamed(bytes: number): void {
    this.streamedBytes += bytes;
  }

  /** A run begins with so much to send and compare. `now`: clock milliseconds. */
  runBegan(now: number, bytes: number): void {
    this.runStartedAt = now;
    this.runBytes = bytes;
  }

  /** It is over, whatever came of it. */
  runOver(run: Transfer): void {
    this.deltaBytes += run.bytesSent;
    this.comparedBytes += run.bytesCompared;
  }

  /** `run`: the one that is under way, with so many bytes left. */
  status(
    run: Transfer | null,
    view: { now: number; remainingBytes: number },
  ): Pick<
    MirrorRunningStatus,
    'eta_seconds' | 'bytes_sent' | 'delta_bytes_sent' | 'bytes_compared'
  > {
    const deltaBytes = this.deltaBytes + (run?.bytesSent ?? 0);
    return {
      eta_seconds: run === null ? null : this.etaSeconds(view),
      bytes_sent: this.streamedBytes + deltaBytes,
      delta_bytes_sent: deltaBytes,
      bytes_compared: this.comparedBytes + (run?.bytesCompared ?? 0),
    };
  }

  private etaSeconds({
    now,
    remainingBytes,
  }: {
    now: number;
    remainingBytes: number;
  }): number | null {
    return etaSeconds({
      remainingBytes,
      doneBytes: this.runBytes - remainingBytes,
      elapsedMs: now - this.runStartedAt,
    });
  }
}
