/**
 * What a drill holds blockferry to. The targets are for a machine that does nothing else; `--strict` holds to them. Otherwise
 * times may be exceeded so far as a loaded machine with few cores exceeds them by itself; no promise about data is ever relaxed.
 */
import type { Round } from './frame.ts';
import { sizeText } from './timeline.ts';

/** The longest that a host may wait for one answer when the link is lost. */
const STALL_MS = 50;
/** How long a synchronous mirror that stalls is waited for (`--on-stall degrade`). */
const DEGRADE_MS = 5_000;
/** From the death of the primary until the mirror takes writes, what notices it included. */
const RECOVERY_MS = 1_000;
/** What a client takes to find the node that takes writes now, and the kernel's clock for what it sends again. */
const RECONNECT_MS = 1_000;
/** Bytes that travel for each byte of blocks that changed. */
const RESENT_RATIO = 1.2;
/** What travels beside blocks: handshakes, digests, headers, probes. */
const OVERHEAD_BYTES = 256 * 1024;
/** What times may be more on a loaded machine. */
const LENIENCE_MS = 1_000;
const LENIENCE_FACTOR = 5;
/** An epoch is open for so long, and is in no status before. */
const EPOCH_MS = 50;

/** Judges the longest wait in the disaster. `slownessMs`: what a disk was made slow by. */
export function judgeStall(round: Round, stallMs: number, slownessMs = 0): void {
  const target = slownessMs + STALL_MS + (round.mode === 'sync' ? DEGRADE_MS : 0);
  const bound = round.options.strict ? target : target + LENIENCE_MS;
  round.atLeast('stallMs', stallMs);
  round.expect(
    stallMs <= bound,
    `a client waited ${Math.round(stallMs)} ms for an answer, more than ${bound} ms`,
  );
}

export function judgeRecovery(round: Round, recoveryMs: number): void {
  const bound = round.options.strict ? RECOVERY_MS : RECOVERY_MS * LENIENCE_FACTOR;
  round.atLeast('recoveryMs', recoveryMs);
  round.expect(
    recoveryMs <= bound,
    `the mirror took writes after ${Math.round(recoveryMs)} ms, later than ${bound} ms`,
  );
}

/**
 * Judges the longest wait of a client that goes on at the other node. `resendMs`: after this time it sends again what was on its way
 * (the kernel's); what it began before the command is a little older.
 */
export function judgeMove(
  round: Round,
  times: { stallMs: number; recoveryMs: number; resendMs: number },
): void {
  const { stallMs, recoveryMs, resendMs } = times;
  const target = recoveryMs + resendMs + RECONNECT_MS;
  const bound = round.options.strict ? target : target + LENIENCE_FACTOR * LENIENCE_MS;
  round.atLeast('stallMs', stallMs);
  round.expect(
    stallMs <= bound,
    `the client waited ${Math.round(stallMs)} ms for an answer, more than ${bound} ms`,
  );
}

/** `changedBytes`: what had to travel at the least; `knownBytes`: what may have travelled before already, unknown to the sender. */
export function judgeResent(
  round: Round,
  sizes: { resentBytes: number; changedBytes: number; knownBytes?: number },
): void {
  const { resentBytes, changedBytes, knownBytes = 0 } = sizes;
  round.add('resentBytes', resentBytes);
  round.add('changedBytes', changedBytes);
  const bound = RESENT_RATIO * (changedBytes + knownBytes) + OVERHEAD_BYTES;
  round.expect(
    resentBytes <= bound,
    `${sizeText(resentBytes)} travelled for ${sizeText(changedBytes)} of changed blocks`,
  );
}

/** What a surviving copy lacks. Sync: nothing. Async: no more than the status had said, and what came after it. */
export function judgeLoss(
  round: Round,
  loss: { writes: number; spanMs: number; toldLagMs: number },
): void {
  const { writes, spanMs, toldLagMs } = loss;
  round.atLeast('lostWrites', writes);
  round.atLeast('lostMs', spanMs);
  if (round.mode === 'sync') {
    round.expect(writes === 0, `sync mode, but ${writes} answered writes are lost`);
    return;
  }
  const bound = toldLagMs + (round.options.strict ? EPOCH_MS : EPOCH_MS + LENIENCE_MS);
  round.expect(
    spanMs <= bound,
    `the writes of ${Math.round(spanMs)} ms are lost, status had told of ${Math.round(toldLagMs)} ms`,
  );
}
