/**
 * Every kind of event (docs/reference/events.md). A kind, once there, keeps its name and meaning: scripts match on it, and
 * log, metrics and tests use the same word. Pure data.
 */
import type { MirrorState, SourceState } from './status.ts';

/** How it stands in the log: `warn` is for what somebody should look at. */
export type EventLevel = 'info' | 'warn';

const MIRROR_EVENTS = {
  'mirror-connecting': 'info',
  'mirror-comparing': 'info',
  'mirror-shipping': 'info',
  'mirror-streaming': 'info',
  'mirror-delta': 'warn',
  'mirror-paused': 'info',
  'mirror-diverged': 'warn',
  'mirror-not-converging': 'warn',
} as const satisfies Record<`mirror-${MirrorState}`, EventLevel>;

const SOURCE_EVENTS = {
  'source-waiting': 'warn',
  'source-receiving': 'info',
  'source-streaming': 'info',
  'source-failed': 'warn',
} as const satisfies Record<`source-${SourceState}`, EventLevel>;

export const EVENT_LEVELS = {
  'node-started': 'info',
  'node-reloaded': 'info',
  'node-stopping': 'info',
  'node-stopped': 'info',
  'reload-failed': 'warn',
  'disk-ok': 'info',
  'disk-low': 'warn',
  'disk-full': 'warn',
  'volume-created': 'info',
  'volume-cloned': 'info',
  'volume-resized': 'info',
  'volume-policy': 'info',
  'volume-rebound': 'info',
  'fork-released': 'info',
  'volume-promoted': 'warn',
  'volume-fenced': 'warn',
  'volume-demoted': 'warn',
  'volume-split': 'warn',
  'handover-failed': 'warn',
  'mirror-rejoins': 'info',
  'mirror-left-behind': 'warn',
  'volume-deleted': 'info',
  'volume-damaged': 'warn',
  'volume-failed': 'warn',
  'journal-unusable': 'warn',
  'journal-given-up': 'warn',
  'volume-close-failed': 'warn',
  'container-lost': 'warn',
  'container-back': 'info',
  'snapshot-created': 'info',
  'snapshot-copied': 'info',
  'snapshot-restored': 'info',
  'snapshot-refreshed': 'info',
  'snapshot-synchronised': 'info',
  'snapshot-deleted': 'info',
  'merge-paused': 'info',
  'merge-resumed': 'info',
  'merge-limited': 'info',
  'mirror-added': 'info',
  'mirror-removed': 'info',
  'mirror-changed': 'info',
  'mirror-rested': 'info',
  'mirror-outrun': 'warn',
  'mirror-error': 'warn',
  'mirror-snapshot-sent': 'info',
  'mirror-snapshot-refused': 'warn',
  'staging-disk-failed': 'warn',
  ...MIRROR_EVENTS,
  ...SOURCE_EVENTS,
  'source-committed': 'info',
  'source-snapshot-refused': 'warn',
} as const satisfies Record<string, EventLevel>;

export type EventKind = keyof typeof EVENT_LEVELS;
