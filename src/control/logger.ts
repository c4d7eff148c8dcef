/**
 * The log of a node: JSON lines on stderr, through pino. State changes and connections, never requests.
 *
 * Invariants: writing is asynchronous and bounded by LOG_BACKLOG_BYTES_MAX, so that a stuck or vanished
 * reader of stderr never holds up a request or ends the node.
 */
import { pino, type Logger } from 'pino';
import { LOG_BACKLOG_BYTES_MAX } from '../io/limits.ts';
import type { LogLevel } from './defaults.ts';

export interface NodeLog {
  readonly log: Logger;
  /** Writes what is still in memory, as far as the reader takes it. */
  readonly flush: () => void;
}

/** `node` is in every line. */
export function openLog(options: { node: string; level: LogLevel }): NodeLog {
  const destination = pino.destination({
    dest: 2,
    sync: false,
    minLength: 0,
    maxLength: LOG_BACKLOG_BYTES_MAX,
  });
  // Nobody is left to tell that the log cannot be written; serving goes on.
  destination.on('error', () => {});
  const log = pino(
    {
      level: options.level,
      base: { node: options.node },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
  const flush = (): void => {
    try {
      destination.flushSync();
    } catch {
      // Not ready yet, or the reader is gone.
    }
  };
  return { log, flush };
}
