/**
 * `blockferry serve`: a node as the life of a process.
 *
 * Invariants: the first SIGINT or SIGTERM stops cleanly with exit code 0; a second one, unless it is an
 * echo of the first, ends the process at once. A bug ends it too: what is on disk is crash-safe.
 */
import { Option, type Command } from 'commander';
import type { Logger } from 'pino';
import {
  LOG_LEVELS,
  NBD_ADDRESS_DEFAULT,
  resolveConfig,
  type ConfigFlags,
} from '../control/config.ts';
import { openLog } from '../control/logger.ts';
import { BlockferryNode } from '../control/node.ts';
import { systemClock } from '../io/clock.ts';
import { DOUBLE_SIGNAL_MS, NODE_STOP_MS_MAX } from '../io/limits.ts';
import { nodeDisk } from '../io/node-disk.ts';
import { nodeNetwork } from '../io/node-network.ts';
import { systemRandom } from '../io/random.ts';
import { EXIT_FAILED, EXIT_OK, surroundingsOfProcess } from './context.ts';

const HELP = `
ADDR is host:port or unix:PATH. Clients attach volumes by name, for example with
  nbd-client -N demo 127.0.0.1 10809 /dev/nbd0
  nbdfuse DIR nbd+unix:///demo?socket=PATH

Without encryption an address that other machines can reach is refused, unless --insecure says that
the network is trusted. What the node makes is open to its user and group only.

A configuration file (--config) is TOML with the same words; flags override it:
  name = "alpha"
  data = "/srv/blockferry"
  nbd = ["127.0.0.1:10809", "unix:/run/blockferry/nbd.sock"]
  control = "unix:/run/blockferry/control.sock"
  insecure = false
  log_level = "info"

The node logs JSON lines on stderr. SIGTERM and Ctrl-C stop it cleanly.`;

/** Gathers the values of an option that may be repeated. */
const collect = (value: string, before: readonly string[] | undefined): string[] => [
  ...(before ?? []),
  value,
];

export function addServeVerb(program: Command): void {
  program
    .command('serve')
    .summary('run a node')
    .description('Run a node: it serves the volumes in its data directory until it is stopped.')
    .option('--config <file>', 'read settings from a TOML file')
    .option('--name <name>', 'name of the node (default: name of the host)')
    .option(
      '--data <dir>',
      'where volumes live (default: /var/lib/blockferry for root, else ~/.local/share/blockferry)',
    )
    .option(
      '--nbd <addr>',
      `serve NBD here; may be repeated (default: ${NBD_ADDRESS_DEFAULT} and unix:DATA/nbd.sock)`,
      collect,
    )
    .option('--control <addr>', 'take commands here (default: unix:DATA/control.sock)')
    .option('--insecure', 'allow addresses outside loopback although nothing is encrypted')
    .addOption(
      new Option('--log-level <level>', 'least severity that is logged (default: info)').choices(
        LOG_LEVELS,
      ),
    )
    .addHelpText('after', HELP)
    .action(serve);
}

async function serve(flags: ConfigFlags): Promise<void> {
  const config = resolveConfig(flags, {
    ...surroundingsOfProcess(),
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
