/**
 * `npm run quickstart`: a primary and a mirror on this machine, to try things on.
 *
 * Starts node alpha and node beta with data under `.blockferry/`, mirrors the volume demo from alpha to
 * beta, says how to use it, and runs until Ctrl-C. It supervises nothing: a node that ends is reported
 * with the command that starts it again, so that it can be killed on purpose.
 */
import { mkdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { ControlClient, volumePath } from '../src/cli/client.ts';
import { formatBytes } from '../src/cli/render/format.ts';
import type { NodeFacts, NodeStatus, VolumeStatus } from '../src/control/status.ts';
import { parseAddress } from '../src/io/address.ts';
import { BlockferryError, errorText } from '../src/io/errors.ts';
import { DOUBLE_SIGNAL_MS } from '../src/io/limits.ts';
import { NodeProcess } from './node-process.ts';

const VOLUME = 'demo';
const VOLUME_SIZE = '1G';
const READY_MS_MAX = 60_000;
const READY_POLL_MS = 50;

interface Settings {
  readonly directory: string;
  readonly ports: { readonly alpha: number; readonly beta: number };
}

interface Pair {
  readonly alpha: NodeProcess;
  readonly beta: NodeProcess;
}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      dir: { type: 'string', default: '.blockferry' },
      'alpha-port': { type: 'string', default: '10809' },
      'beta-port': { type: 'string', default: '10810' },
    },
  });
  const ports = { alpha: Number(values['alpha-port']), beta: Number(values['beta-port']) };
  for (const port of Object.values(ports)) {
    if (!Number.isInteger(port) || port < 1 || port > 65_535)
      throw new Error('a port is 1 to 65535');
  }
  return { directory: values.dir, ports };
}

/**
 * How the command is called from here: the clone's own, so that it works without an installation. Tests
 * of a build outside dist name theirs in BLOCKFERRY_BIN.
 */
function commandPath(): string {
  const own = fileURLToPath(new URL('../../bin/blockferry.cjs', import.meta.url));
  const script = process.env['BLOCKFERRY_BIN'] ?? own;
  const near = relative(process.cwd(), script);
  return near.startsWith('..') ? script : near;
}

function createPair(settings: Settings): Pair {
  const create = (name: 'alpha' | 'beta'): NodeProcess => {
    const data = join(settings.directory, name);
    const addresses = {
      tcp: `127.0.0.1:${settings.ports[name]}`,
      unix: `unix:${join(data, 'nbd.sock')}`,
      control: `unix:${join(data, 'control.sock')}`,
    };
    const options = ['--name', name, '--data', data, '--control', addresses.control];
    return new NodeProcess({
      name,
      command: commandPath(),
      arguments: ['serve', ...options, '--nbd', addresses.tcp, '--nbd', addresses.unix],
      logPath: join(settings.directory, `${name}.log`),
    });
  };
  return { alpha: create('alpha'), beta: create('beta') };
}

function clientOf(settings: Settings, name: string): ControlClient {
  return new ControlClient(parseAddress(`unix:${join(settings.directory, name, 'control.sock')}`));
}

/** Waits until the node answers. Rejects with its last words if it ends instead. */
async function ready(node: NodeProcess, client: ControlClient): Promise<void> {
  const deadline = performance.now() + READY_MS_MAX;
  for (;;) {
    if (node.ended !== null) throw new Error(node.lastLine() || `${node.name} ended ${node.ended}`);
    try {
      // An older node may still answer there, before this one finds that its data is in use.
      const facts = await client.call<NodeFacts>('GET', '/v1/node');
      if (facts.pid === node.pid) return;
    } catch (error) {
      if (!(error instanceof BlockferryError)) throw error;
    }
    if (performance.now() > deadline)
      throw new Error(`${node.name} did not start; see ${node.logPath}`);
    await sleep(READY_POLL_MS);
  }
}

/** Makes what is missing: the volume on both nodes, and the mirror. Returns the primary's volume. */
async function prepare(settings: Settings): Promise<VolumeStatus> {
  for (const name of ['alpha', 'beta']) {
    const client = clientOf(settings, name);
    const { volumes } = await client.call<NodeStatus>('GET', '/v1/status');
    if (volumes.some((volume) => volume.name === VOLUME)) continue;
    const role = name === 'beta' ? { mirror_of: 'alpha' } : {};
    await client.call('POST', '/v1/volumes', { name: VOLUME, size: VOLUME_SIZE, ...role });
  }
  const alpha = clientOf(settings, 'alpha');
  const volume = await alpha.call<VolumeStatus>('GET', volumePath(VOLUME));
  const uri = `nbd://127.0.0.1:${settings.ports.beta}/${VOLUME}`;
  if (volume.mirrors.some((mirror) => mirror.uri === uri)) return volume;
  return await alpha.call<VolumeStatus>('POST', `${volumePath(VOLUME)}/mirrors`, { uri });
}

function explain(settings: Settings, pair: Pair, volume: VolumeStatus): void {
  const { ports, directory } = settings;
  const uri = `nbd://127.0.0.1:${ports.alpha}/${VOLUME}`;
  const mirror = `nbd://127.0.0.1:${ports.beta}/${VOLUME}`;
  const { command } = pair.alpha;
  process.stdout.write(`
Volume ${VOLUME}, ${formatBytes(volume.size_bytes)}, is mirrored from node alpha to node beta.
  primary  ${uri}  or unix:${join(directory, 'alpha', 'nbd.sock')}
  mirror   ${mirror}  or unix:${join(directory, 'beta', 'nbd.sock')}, to read

attach   sudo node ${command} attach ${VOLUME} /dev/nbd0 --uri ${uri}     (needs: modprobe nbd, nbd-client)
         or without root: touch /tmp/${VOLUME} && nbdfuse /tmp/${VOLUME} ${uri}
load     fio --name=${VOLUME} --ioengine=nbd --uri=${uri} --rw=randwrite --bs=4k --iodepth=32
watch    node ${command} status --watch --control unix:${join(directory, 'alpha', 'control.sock')}
break    kill -9 ${pair.beta.pid} ends beta; how to start it again is shown here
stop     Ctrl-C; run it again and it goes on with the same data

Logs: ${pair.alpha.logPath} (pid ${pair.alpha.pid}), ${pair.beta.logPath} (pid ${pair.beta.pid})
`);
}

function report(node: NodeProcess): void {
  const last = node.lastLine();
  process.stdout.write(`
${node.name} ended ${node.ended ?? ''}${last === '' ? '' : `; the last line of its log: ${last}`}
Start it again with:
  ${node.commandLine()}
`);
}

/** Resolves at the first signal. The next one, unless it is an echo of it, kills and ends. */
function untilSignal(pair: Pair): Promise<void> {
  return new Promise((resolve) => {
    // With both nodes dead nothing else keeps this process, and Node would end it in the middle of a wait.
    setInterval(() => {}, 2 ** 30);
    let first: number | null = null;
    const onSignal = (): void => {
      const now = performance.now();
      first ??= now;
      resolve();
      if (now - first <= DOUBLE_SIGNAL_MS) return;
      process.stdout.write('ending at once\n');
      for (const node of [pair.alpha, pair.beta]) node.kill('SIGKILL');
      process.exit(1);
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
  });
}

/** The primary first: it ships the rest to a mirror that is still there. */
async function stop(pair: Pair): Promise<void> {
  for (const node of [pair.alpha, pair.beta]) await node.stop();
}

async function main(): Promise<number> {
  const settings = readSettings();
  mkdirSync(settings.directory, { recursive: true, mode: 0o700 });
  const pair = createPair(settings);
  const signalled = untilSignal(pair);
  // Only when something here went wrong: nothing is left running behind.
  process.on('exit', () => {
    for (const node of [pair.alpha, pair.beta]) node.kill('SIGTERM');
  });
  try {
    for (const node of [pair.alpha, pair.beta]) node.start();
    await Promise.all([
      ready(pair.alpha, clientOf(settings, 'alpha')),
      ready(pair.beta, clientOf(settings, 'beta')),
    ]);
    const volume = await prepare(settings);
    explain(settings, pair, volume);
  } catch (error) {
    await stop(pair);
    const text = error instanceof BlockferryError ? error.line : errorText(error);
    process.stderr.write(`quickstart: ${text.replace(/^blockferry: /, '')}\n`);
    return 1;
  }
  for (const node of [pair.alpha, pair.beta]) node.onEnd(() => report(node));
  await signalled;
  process.stdout.write('\nstopping alpha, then beta ...\n');
  await stop(pair);
  process.stdout.write('stopped\n');
  return 0;
}

process.exit(await main());
