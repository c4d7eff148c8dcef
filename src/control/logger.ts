/**
 * The log of a node: JSON lines on stderr, through pino. State changes and connections, never requests.
 *
 * Invariants: writing is asynchronous and bounded by LOG_BACKLOG_BYTES_MAX, so that a stuck or vanished
 * reader of stderr never holds up a request or ends the node.
 */
import { pino, type Logger } from 'pino';
import { LOG_BACKLOG_BYTES_MAX } from '../io/limits.ts';
import { loadSyscalls } from '../io/syscalls.ts';
import type { LogLevel } from './config/defaults.ts';

const STDERR = 2;

export interface NodeLog {
  readonly log: Logger;
  /** Writes what is still in memory, if there is a reader. The last call: the process ends after it. */
  readonly flush: () => void;
}

/** `node` is in every line. */
export function openLog(options: { node: string; level: LogLevel }): NodeLog {
  const destination = pino.destination({
    dest: STDERR,
    sync: false,
    minLength: 0,
    maxLength: LOG_BACKLOG_BYTES_MAX,
  });
  let lost = false;
  // Nobody is left to tell that the log cannot be written; serving goes on.
  destination.on('error', () => {
    lost = true;
  });
  destination.on('drain', () => {
    lost = false;
  });
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
    // To a reader that is gone the library writes again for ever, here and as the process exits.
    if (lost || loadSyscalls()?.peerState?.(STDERR) === 'dead') {
      destination.destroy();
      return;
    }
    try {
      destination.flushSync();
    } catch {
      // Not ready yet.
    }
  };
  return { log, flush };
}
