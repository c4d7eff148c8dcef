/**
 * What a check can find, and what would mend it.
 *
 * Invariants:
 * - Every code is in FINDINGS with its severity, and in docs/operating/check.md with what it means (a test compares).
 * - A repair step says all that is needed to do it, and is there only when its outcome is proven by what was read.
 */

/**
 * `fault`: what is stored is not what was written, or the volume cannot be opened. `warning`: nothing is known to be
 * lost, but somebody should look. `info`: harmless, and said so that nobody has to wonder.
 */
export type Severity = 'info' | 'warning' | 'fault';

export const FINDINGS = {
  // The data directory.
  'format-missing': 'warning',
  'format-unreadable': 'fault',
  'format-newer': 'fault',
  'volume-leftover': 'info',
  'foreign-entry': 'warning',
  'volume-misplaced': 'fault',
  'volume-name-invalid': 'fault',
  'volume-name-twice': 'fault',
  'clone-origin-missing': 'fault',
  // Any file.
  unreadable: 'fault',
  // The log.
  'log-missing': 'fault',
  'log-header-bad': 'fault',
  'log-newer': 'fault',
  'log-corrupt': 'fault',
  'log-record-refused': 'fault',
  'log-incomplete': 'fault',
  'log-torn': 'info',
  'log-leftover': 'info',
  'sync-failed': 'fault',
  // The tree of layers.
  'layer-parent-unknown': 'fault',
  'layer-base-wrong': 'fault',
  'layer-loop': 'fault',
  'head-wrong': 'fault',
  'layer-not-sealed': 'info',
  'layer-unreachable': 'info',
  'snapshot-layer-unknown': 'fault',
  'snapshot-layer-not-sealed': 'fault',
  'snapshot-name-invalid': 'fault',
  'snapshot-name-twice': 'fault',
  // The maps.
  'map-size-wrong': 'fault',
  'map-overlap': 'fault',
  'mirror-map-size-wrong': 'fault',
  'hot-region-outside': 'fault',
  // Generations, and what a secondary holds.
  'history-wrong': 'fault',
  'position-wrong': 'fault',
  'run-base-missing': 'fault',
  // The files of layers.
  'layer-file-missing': 'fault',
  'layer-file-short': 'fault',
  'layer-file-end-missing': 'info',
  'layer-file-long': 'info',
  'layer-file-orphan': 'info',
  'foreign-file': 'warning',
  'extents-unknown': 'info',
  'container-not-compared': 'info',
  'container-short': 'fault',
  'container-unusable': 'fault',
  'data-to-adopt': 'info',
  'data-outside-map': 'fault',
  'unused-data': 'info',
  'data-missing': 'warning',
  'layer-file-wrong': 'fault',
  'space-above-map': 'info',
  // A node that runs.
  'volume-not-open': 'fault',
  'volume-failed': 'fault',
} as const satisfies Record<string, Severity>;

export type FindingCode = keyof typeof FINDINGS;

/** Where: a file or directory, and in it a range of bytes, or of the volume's blocks. */
export interface Place {
  readonly file: string;
  readonly bytes: { readonly offset: number; readonly length: number } | null;
  readonly blocks: { readonly first: number; readonly count: number } | null;
}

export type RepairStep =
  | { readonly kind: 'write-format'; readonly path: string }
  | { readonly kind: 'remove'; readonly path: string }
  | { readonly kind: 'set-length'; readonly path: string; readonly sizeBytes: number }
  /** A new log is made of the state that the good part of the old one folds to. */
  | { readonly kind: 'rewrite-log' }
  | { readonly kind: 'drop-layer'; readonly layer: number; readonly path: string };

export interface Finding {
  readonly code: FindingCode;
  readonly severity: Severity;
  readonly place: Place;
  /** What is there, and what should be: one sentence without its end. */
  readonly what: string;
  /** Null: nothing can be done that is proven to be right. */
  readonly repair: RepairStep | null;
}

export function atFile(file: string): Place {
  return { file, bytes: null, blocks: null };
}

export function atBytes(file: string, offset: number, end: number): Place {
  return { file, bytes: { offset, length: end - offset }, blocks: null };
}

export function atBlocks(file: string, range: { first: number; count: number }): Place {
  return { file, bytes: null, blocks: { first: range.first, count: range.count } };
}

export function finding(
  code: FindingCode,
  place: Place,
  what: string,
  repair: RepairStep | null = null,
): Finding {
  return { code, severity: FINDINGS[code], place, what, repair };
}

/** What a step does, for people. */
export function describeStep(step: RepairStep): string {
  switch (step.kind) {
    case 'write-format':
      return 'write the format file';
    case 'remove':
      return 'remove it';
    case 'set-length':
      return `give it the length of ${step.sizeBytes} bytes`;
    case 'rewrite-log':
      return 'write a new log from what the good part holds';
    case 'drop-layer':
      return `record that layer ${step.layer} is gone, and remove its file`;
  }
}

/** `file, bytes 10 to 20` and the like. */
export function describePlace({ file, bytes, blocks }: Place): string {
  if (bytes !== null) return `${file}, bytes ${bytes.offset} to ${bytes.offset + bytes.length}`;
  if (blocks === null) return file;
  if (blocks.count === 1) return `${file}, block ${blocks.first}`;
  return `${file}, blocks ${blocks.first} to ${blocks.first + blocks.count - 1}`;
}

/** Faults for which there is no repair: while there are any, nothing else of the volume is touched. */
export function hasUnmendable(findings: readonly Finding[]): boolean {
  return findings.some(({ severity, repair }) => severity === 'fault' && repair === null);
}
