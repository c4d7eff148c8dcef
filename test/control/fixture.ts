/** A node in this process, on a temporary directory, with a client of its control API. */
import { join } from 'node:path';
import { pino } from 'pino';
import { ControlClient } from '../../src/cli/client.ts';
import { NO_ACTIVATION, type Activation } from '../../src/control/config/activation.ts';
import {
  resolveConfig,
  type ConfigFlags,
  type NodeConfig,
  type Surroundings,
} from '../../src/control/config/config.ts';
import { BlockferryNode } from '../../src/control/node.ts';
import { systemClock } from '../../src/io/clock.ts';
import { BlockferryError } from '../../src/io/errors.ts';
import { nodeDisk } from '../../src/io/node-disk.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { systemRandom } from '../../src/io/random.ts';
import type { Scope } from '../support/scope.ts';

export interface LocalNode {
  readonly node: BlockferryNode;
  readonly client: ControlClient;
  readonly config: NodeConfig;
  readonly lines: string[];
  /** The export of a volume. */
  uri(volume: string): string;
}

const surroundings: Surroundings = {
  environment: {},
  home: '/nowhere',
  hostname: 'test',
  isRoot: false,
  readFile: (path) => nodeDisk.readFile(path),
};

export async function startLocalNode(
  scope: Scope,
  options: { flags?: ConfigFlags; inherited?: Activation } = {},
): Promise<LocalNode> {
  const dir = scope.tempDir('bf-node-');
  const flags: ConfigFlags = {
    name: 'alpha',
    data: join(dir, 'data'),
    nbd: [`unix:${join(dir, 'nbd.sock')}`],
    control: `unix:${join(dir, 'control.sock')}`,
    ...options.flags,
  };
  const reread = (): NodeConfig => resolveConfig(flags, surroundings);
  const config = reread();
  const lines: string[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) });
  const node = await BlockferryNode.start({
    config,
    reread,
    inherited: options.inherited ?? NO_ACTIVATION,
    log,
    clock: systemClock,
    random: systemRandom,
    disk: nodeDisk,
    network: nodeNetwork,
  });
  scope.defer('stop the node', () => node.stop());
  const client = new ControlClient(node.controlAddress);
  const uri = (volume: string): string =>
    `nbd+unix:///${encodeURIComponent(volume)}?socket=${join(dir, 'nbd.sock')}`;
  return { node, client, config, lines, uri };
}

/** The code that a promise was refused with; fails when it was not. */
export async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof BlockferryError) return error.code;
    throw error;
  }
  return 'accepted';
}
