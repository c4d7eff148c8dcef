/** What imports and exports have in common: signals, progress, the copy itself and its bookmark. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import {
  findDifference,
  type Bookmark,
  type TransferPair,
} from '../../control/transfer/transfer-bookmark.ts';
import type { TransferSource, TransferTarget } from '../../control/transfer/transfer-ends.ts';
import { Transfer } from '../../control/transfer/transfer.ts';
import { systemClock } from '../../io/clock.ts';
import { BlockferryError } from '../../io/errors.ts';
import { runQemuImg } from '../../io/qemu-img.ts';
import { print, type SharedOptions } from '../context.ts';
import {
  ProgressReport,
  type ProgressCounts,
  type ProgressOutput,
  type TransferLabels,
} from './transfer-progress.ts';

export interface TransferFlags extends SharedOptions {
  readonly format?: string;
  readonly force?: boolean;
  readonly restart?: boolean;
  readonly nbd?: string;
}

/** Aborted by the first Ctrl-C or SIGTERM; the next one ends the process. */
export function stopSignal(): AbortSignal {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());
  return stop.signal;
}

/** Where bookmarks are kept whose target is no file. */
export function bookmarkDirectory(): string {
  const base = process.env['XDG_STATE_HOME'];
  return join(base ? base : join(homedir(), '.local', 'state'), 'blockferry', 'transfers');
}

export function remark(text: string): void {
  process.stderr.write(text);
}

export function reportFor(flags: SharedOptions, labels: TransferLabels): ProgressReport {
  const style = flags.json === true ? 'json' : process.stderr.isTTY ? 'bar' : 'lines';
  const output: ProgressOutput = { style, clock: systemClock, print, remark };
  return new ProgressReport(output, labels);
}

export interface CopyPlan {
  readonly source: TransferSource;
  readonly target: TransferTarget;
  readonly from: number;
  readonly targetIsZero: boolean;
  readonly zeroTail: boolean;
  readonly bookmark: Bookmark;
  readonly pair: TransferPair;
  readonly report: ProgressReport;
  readonly signal: AbortSignal;
}

/** @throws BlockferryError TRANSFER_CHANGED, TRANSFER_STOPPED, TRANSFER_FAILED; the bookmark stays */
export async function copy(plan: CopyPlan): Promise<void> {
  const { source, target, from, bookmark, pair, report, signal } = plan;
  const different = await findDifference(source, target, from);
  if (different !== null) {
    throw bookmark.changed(`source and target differ at ${different}, which was copied before`);
  }
  bookmark.write(pair, from);
  const transfer = new Transfer({
    ...plan,
    clock: systemClock,
    bookmark: (position) => bookmark.write(pair, position),
  });
  report.begin(() => transfer.counts);
  try {
    if (await transfer.run()) return;
  } finally {
    report.end();
  }
  const { position, totalBytes } = transfer.counts;
  const where = `${position} of ${totalBytes} bytes are there`;
  throw new BlockferryError('TRANSFER_STOPPED', `stopped, ${where} and will not be copied again`, {
    cause: signal.reason,
  });
}

/** The same by qemu-img, which keeps no bookmark. `totalBytes`: of the disk in the image. */
export async function convert(
  args: readonly string[],
  options: { totalBytes: number; report: ProgressReport; signal: AbortSignal },
): Promise<void> {
  const { totalBytes, report, signal } = options;
  let position = 0;
  const counts = (): ProgressCounts => ({
    position,
    totalBytes,
    dataBytes: null,
    zeroBytes: null,
  });
  report.begin(counts);
  const progress = (percent: number): void => {
    position = Math.floor((totalBytes * percent) / 100);
  };
  try {
    await runQemuImg(['convert', '-p', ...args], { progress, signal });
    position = totalBytes;
  } finally {
    report.end();
  }
}
