/**
 * A node as the life of a process.
 *
 * Invariants: the first SIGINT or SIGTERM stops cleanly with exit code 0; a second one, unless it is an
 * echo of the first, ends the process at once. A bug ends it too: what is on disk is crash-safe.
 */
import { hostname } from 'node:os';
import type { Logger } from 'pino';
import { resolveConfig, type ConfigFlags } from '../control/config.ts';
import { openLog } from '../control/logger.ts';
import { BlockferryNode } from '../control/node.ts';
import { systemClock } from '../io/clock.ts';
import { DOUBLE_SIGNAL_MS, NODE_STOP_MS_MAX } from '../io/limits.ts';
import { nodeDisk } from '../io/node-disk.ts';
import { nodeNetwork } from '../io/node-network.ts';
import { systemRandom } from '../io/random.ts';
import { EXIT_FAILED, EXIT_OK, userOfProcess } from './context.ts';

/** Runs a node until a signal; ends the process, or rejects with what kept it from starting. */
export async function runNode(flags: ConfigFlags): Promise<void> {
  const config = resolveConfig(flags, {
    ...userOfProcess(),
    hostname: hostname(),
    readFile: (path) => nodeDisk.readFile(path),
  });
  process.umask(process.umask() | 0o007);
  const { log, flush } = openLog({ node: config.name, level: config.logLevel });
  const end = (code: number): never => {
    flush();
    process.exit(code);
  };
  endOnBugs(log, end);
  const signalled = firstSignal(log, end);
  const node = await BlockferryNode.start({
    config,
    log,
    clock: systemClock,
    random: systemRandom,
    disk: nodeDisk,
    network: nodeNetwork,
  });
  log.info(`stopping on ${await signalled}`);
  systemClock.after(NODE_STOP_MS_MAX, () => {
    log.error(`still not stopped after ${NODE_STOP_MS_MAX / 1000} s, giving up`);
    end(EXIT_FAILED);
  });
  await node.stop();
  end(EXIT_OK);
}

/** Resolves at the first signal; from then on the next one ends the process. */
function firstSignal(log: Logger, end: (code: number) => never): Promise<string> {
  return new Promise((resolve) => {
    let first: number | null = null;
    const onSignal = (signal: string): void => {
      const now = systemClock.now();
      if (first === null) {
        first = now;
        resolve(signal);
      } else if (now - first > DOUBLE_SIGNAL_MS) {
        log.warn(`${signal} again: ending at once`);
        end(EXIT_FAILED);
      }
    };
    process.on('SIGINT', onSignal);
    process.on('SIGTERM', onSignal);
  });
}

function endOnBugs(log: Logger, end: (code: number) => never): void {
  const onBug = (thrown: unknown): void => {
    log.fatal({ err: thrown }, 'a bug: the node ends here; what is on disk is safe');
    end(EXIT_FAILED);
  };
  process.on('uncaughtException', onBug);
  process.on('unhandledRejection', onBug);
}
