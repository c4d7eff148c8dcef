/**
 * What all drills have in common: a round of one of them, from the seed to the result.
 *
 * What is found wrong with blockferry is a violation; what goes wrong with the drill itself is an exception. Both fail the round.
 * Whatever happens, everything that was set up is taken down, and a round ends within its time.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { holdsMounts } from './filesystem.ts';
import type { OracleMode } from './oracle.ts';
import { pause, Undo } from './process.ts';
import { type SeededRandom, seededRandom } from './random.ts';
import { Timeline, type TimelineEntry } from './timeline.ts';

/** A round that takes longer is given up. Most take ten to thirty seconds. */
const ROUND_MS_MAX = 300_000;
/** With a volume of a size that was asked for. */
const SIZED_ROUND_MS_MAX = 1_800_000;

/** What a drill measured. null: it does not measure that. */
export interface Figures {
  /** Answered writes that the surviving copy does not have, and the time that they span. */
  lostWrites: number | null;
  lostMs: number | null;
  /** From the disaster until the surviving copy took writes. */
  recoveryMs: number | null;
  /** Bytes of blocks that changed while the sides were apart, and bytes that travelled to bring them together. */
  changedBytes: number | null;
  resentBytes: number | null;
  /** The longest that a client waited for one answer: while nothing was wrong, and in the disaster. */
  calmStallMs: number | null;
  stallMs: number | null;
}

/** Who uses the volume: programs on this machine's own way to it, or a Linux kernel with its NBD client (guest.ts). */
export type Client = 'nbd' | 'kernel';

export interface Drill {
  readonly name: string;
  /** One line: what is broken, and what is to be seen. */
  readonly about: string;
  /** The modes in which it is held when all are. */
  readonly modes: readonly OracleMode[];
  /** The clients with which it is held when all are, where there is a kernel client. Default: without it. */
  readonly clients?: readonly Client[];
  /** Whether it can be held with a volume of any size. */
  readonly sized?: boolean;
  /** After so many milliseconds a round is given up. Default: ROUND_MS_MAX. */
  readonly limitMs?: number;
  play(round: Round): Promise<void>;
}

export interface RoundOptions {
  readonly seed: number;
  readonly mode: OracleMode;
  readonly client: Client;
  /** Size of the volume; null: the drill's own. */
  readonly sizeBytes: number | null;
  /** Fewer and shorter disasters: for CI. */
  readonly short: boolean;
  /** Hold to the targets themselves, and not to what a loaded machine may take (targets.ts). */
  readonly strict: boolean;
  /** Keep the directory with logs and images when the round ends. */
  readonly keep: boolean;
  readonly print: (line: string) => void;
  readonly signal: AbortSignal;
}

export type Outcome = 'sound' | 'violated' | 'unfinished' | 'skipped';

export interface RoundResult {
  readonly drill: string;
  readonly mode: OracleMode;
  readonly client: Client;
  readonly seed: number;
  readonly outcome: Outcome;
  /** Why it was skipped or could not be finished. */
  readonly why: string | null;
  readonly violations: readonly string[];
  readonly figures: Figures;
  readonly seconds: number;
  readonly timeline: readonly TimelineEntry[];
}

/** Thrown where a drill cannot be held on this machine: the round is skipped, and says why. */
export class NotHere extends Error {}

export class Round {
  readonly options: RoundOptions;
  readonly directory: string;
  readonly undo: Undo;
  readonly random: SeededRandom;
  readonly timeline: Timeline;
  /** Aborted by the operator, or when the round has had its time. */
  readonly signal: AbortSignal;
  readonly violations: string[] = [];
  readonly figures: Figures = {
    lostWrites: null,
    lostMs: null,
    recoveryMs: null,
    changedBytes: null,
    resentBytes: null,
    calmStallMs: null,
    stallMs: null,
  };

  constructor(options: RoundOptions, directory: string, undo: Undo, limitMs: number) {
    this.options = options;
    this.directory = directory;
    this.undo = undo;
    this.random = seededRandom(options.seed);
    this.timeline = new Timeline(options.print);
    this.signal = AbortSignal.any([options.signal, AbortSignal.timeout(limitMs)]);
  }

  get mode(): OracleMode {
    return this.options.mode;
  }

  get client(): Client {
    return this.options.client;
  }

  note(text: string): void {
    this.timeline.note(text);
  }

  violate(text: string): void {
    this.violations.push(text);
    this.timeline.note(`VIOLATION: ${text}`);
  }

  /** A violation unless `held`. */
  expect(held: boolean, text: string): void {
    if (!held) this.violate(text);
  }

  /** One number in the short form, another in the long. */
  pick<T>(short: T, long: T): T {
    return this.options.short ? short : long;
  }

  /** Waits for a time that the seed picks. */
  async pauseBetween(lowMs: number, highMs: number): Promise<void> {
    await pause(this.random.between(lowMs, highMs), this.signal);
  }

  /** Notes a figure of which only the largest counts. */
  atLeast(name: keyof Figures, value: number): void {
    this.figures[name] = Math.max(this.figures[name] ?? 0, value);
  }

  add(name: keyof Figures, value: number): void {
    this.figures[name] = (this.figures[name] ?? 0) + value;
  }
}

/** Plays one round of a drill. Never throws: what went wrong is in the result. */
export async function holdRound(drill: Drill, options: RoundOptions): Promise<RoundResult> {
  const undo = new Undo();
  const directory = mkdtempSync(join(tmpdir(), 'bf-drill-'));
  const { limitMs = options.sizeBytes === null ? ROUND_MS_MAX : SIZED_ROUND_MS_MAX } = drill;
  const round = new Round(options, directory, undo, limitMs);
  let outcome: Outcome = 'unfinished';
  let why: string | null = null;
  try {
    await drill.play(round);
    outcome = round.violations.length === 0 ? 'sound' : 'violated';
  } catch (thrown) {
    const late = round.signal.aborted ? `took longer than ${limitMs / 1000} s` : null;
    why = reasonOf(thrown, late, options.signal);
    if (thrown instanceof NotHere) outcome = 'skipped';
  }
  for (const failure of await undo.run()) options.print(`clean-up: ${failure}`);
  const failed = outcome === 'violated' || outcome === 'unfinished';
  removeOrKeep(directory, options, failed && !options.signal.aborted);
  return {
    drill: drill.name,
    mode: options.mode,
    client: options.client,
    seed: options.seed,
    outcome,
    why,
    violations: round.violations,
    figures: round.figures,
    seconds: Math.round(round.timeline.elapsedMs / 100) / 10,
    timeline: round.timeline.entries,
  };
}

function reasonOf(thrown: unknown, late: string | null, operator: AbortSignal): string {
  if (operator.aborted) return 'interrupted';
  if (late !== null) return late;
  return thrown instanceof Error ? thrown.message : String(thrown);
}

function removeOrKeep(directory: string, options: RoundOptions, failed: boolean): void {
  if (holdsMounts(directory)) options.print(`left alone, something is mounted in: ${directory}`);
  else if (options.keep || failed) options.print(`kept: ${directory}`);
  else rmSync(directory, { recursive: true, force: true });
}
