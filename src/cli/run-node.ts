/**
 * A node as the life of a process.
 *
 * Invariants: the first SIGINT or SIGTERM stops cleanly with exit code 0; a second one, unless it is an
 * echo of the first, ends the process at once. SIGHUP reloads, and never ends anything. A bug ends it too: what is on disk is crash-safe.
 */
import { hostname } from 'node:os';
import type { Logger } from 'pino';
import { takeActivation } from '../control/config/activation.ts';
import { resolveConfig, type ConfigFlags, type NodeConfig } from '../control/config/config.ts';
import { openLog } from '../control/logger.ts';
import { BlockferryNode } from '../control/node.ts';
import { systemClock } from '../io/clock.ts';
import { BlockferryError } from '../io/errors.ts';
import { DOUBLE_SIGNAL_MS, NODE_STOP_MS_MAX } from '../io/limits.ts';
import { nodeDisk } from '../io/node-disk.ts';
import { nodeNetwork } from '../io/node-network.ts';
import { systemRandom } from '../io/random.ts';
import { EXIT_FAILED, EXIT_OK, userOfProcess } from './context.ts';

/** Runs a node until a signal; ends the process, or rejects with what kept it from starting. */
export async function runNode(flags: ConfigFlags): Promise<void> {
  const inherited = takeActivation(process.env, process.pid);
  const reread = (): NodeConfig =>
    resolveConfig(flags, {
      ...userOfProcess(),
      hostname: hostname(),
      readFile: (path) => nodeDisk.readFile(path),
    });
  const config = reread();
  process.umask(process.umask() | 0o007);
  const { log, flush } = openLog({ node: config.name, level: config.logLevel });
  const end = (code: number): never => {
    flush();
    process.exit(code);
  };
  endOnBugs(log, end);
  const signalled = firstSignal(log, end);
  let node: BlockferryNode | null = null;
  process.on('SIGHUP', () => reloadOnSignal(node, log));
  node = await BlockferryNode.start({
    config,
    reread,
    inherited,
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

function reloadOnSignal(node: BlockferryNode | null, log: Logger): void {
  if (node === null) return log.warn('SIGHUP came before the node was up: nothing to reload');
  try {
    node.reload();
  } catch (error) {
    // Of an operating error the node has told already.
    if (!(error instanceof BlockferryError)) throw error;
  }
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
