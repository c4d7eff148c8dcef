/** `blockferry mirror ...` */
import { InvalidArgumentError, Option, type Command } from 'commander';
import { MIRROR_ACTIONS, type MirrorAction, type VolumeStatus } from '../control/status.ts';
import { BlockferryError } from '../io/errors.ts';
import { LINK_LANES_MAX } from '../io/limits.ts';
import type { VerifyReport } from '../replicator/status.ts';
import { volumePath } from './client.ts';
import {
  EXIT_FAILED,
  clientOf,
  print,
  printJson,
  wantsColour,
  type SharedOptions,
} from './context.ts';
import { renderVerify } from './render/render-mirrors.ts';
import { renderVolume } from './render/render.ts';
import { leaf } from './verb.ts';

interface AddOptions extends SharedOptions {
  readonly mode: string;
  readonly onStall: string;
  readonly lanes: number;
  readonly seeded?: boolean;
  readonly delta?: string;
  readonly lagLimit?: string;
  readonly compress?: string;
}

type SetOptions = SharedOptions & Pick<AddOptions, 'delta' | 'lagLimit' | 'compress'>;

interface VerifyOptions extends SharedOptions {
  readonly repair?: boolean;
}

const DELTA = 'when delta runs bring it what changed: every=10m, on-demand, idle, or off';
const LAG_LIMIT = 'slow the host down while the mirror lags more than this, such as 5s, or off';

const EXPLAINED: Readonly<Record<MirrorAction, { summary: string; more: string }>> = {
  remove: {
    summary: 'stop mirroring and forget the mirror',
    more: 'The copy stays where it is, as it is. Adding it again compares and copies what differs.',
  },
  pause: {
    summary: 'stop sending; remember what changes',
    more: 'Changed blocks are marked until: blockferry mirror resume',
  },
  resume: {
    summary: 'go on after a pause',
    more: 'The blocks that changed meanwhile are sent, then the mirror follows every write again.',
  },
  resync: {
    summary: 'compare the whole mirror and send what differs',
    more: 'For a mirror that was written to by others, or is not converging. Host writes go on.',
  },
  sync: {
    summary: 'begin a delta run now',
    more: 'For a mirror with a delta schedule: blockferry mirror set. It returns when the run begins.',
  },
};

export function addMirrorVerbs(program: Command): void {
  const mirror = program
    .command('mirror')
    .summary('add, set, remove, pause, resume, resync, sync, limit and verify mirrors')
    .description('Mirrors: remote copies of a volume, on another node or any NBD server.');

  leaf(mirror, 'add <volume> <uri>', 'keep a copy of a volume at an NBD export')
    .addOption(
      new Option('--mode <mode>', 'async: answer writes at local speed; sync: when both have them')
        .choices(['async', 'sync'])
        .default('async'),
    )
    .addOption(
      new Option(
        '--on-stall <policy>',
        'a sync mirror that stalls: go on without it, or make writes wait',
      )
        .choices(['degrade', 'block'])
        .default('degrade'),
    )
    .addOption(
      new Option('--lanes <n>', 'connections that carry the link to a blockferry node')
        .argParser(parseLanes)
        .default(1),
    )
    .option('--seeded', 'it holds a copy already: compare, and send only what differs')
    .option('--delta <when>', DELTA)
    .option('--lag-limit <time>', LAG_LIMIT)
    .addOption(compressOption())
    .addHelpText(
      'after',
      `
URI is nbd[s]://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH: a volume that was created with
--mirror-of on another node, of the same size; or any other NBD export, writable and at least as
large, which clients should not write to meanwhile. What it holds is replaced by the content of the
volume.

  blockferry mirror add demo nbd://host2:10809/demo
  blockferry mirror add demo nbd://host2:10809/demo --mode sync --on-stall block`,
    )
    .action(add);

  for (const action of MIRROR_ACTIONS) {
    const { summary, more } = EXPLAINED[action];
    leaf(mirror, `${action} <volume> [uri]`, summary)
      .addHelpText('after', `\n${more}\nURI may be left out when the volume has one mirror.`)
      .action((volume: string, uri: string | undefined, options: SharedOptions) =>
        change(action, volume, uri, options),
      );
  }

  leaf(
    mirror,
    'set <volume> <uri>',
    'choose when a mirror is sent what changed, how, and what it may lag',
  )
    .option('--delta <when>', DELTA)
    .option('--lag-limit <time>', LAG_LIMIT)
    .addOption(compressOption())
    .addHelpText(
      'after',
      `
WHEN is off: the mirror follows every write; every=TIME: a delta run each TIME; on-demand: when asked
for by blockferry mirror sync; idle[=RATE][,every=TIME]: when the host moves less than RATE bytes a
second for 10 s, but each TIME at least (1M and 1d if not given). TIME is a number with s, m, h or d.
Between runs the mirror holds what the last run brought.

  blockferry mirror set demo nbd://host2:10809/demo --delta every=10m`,
    )
    .action(set);

  leaf(mirror, 'limit <volume> <uri> <rate>', 'bound what is sent to a mirror')
    .addHelpText(
      'after',
      `
RATE is bytes a second with an optional K, M or G (powers of 1024), or none. It holds at once, and
over restarts.

  blockferry mirror limit demo nbd://host2:10809/demo 50M`,
    )
    .action(limit);

  leaf(mirror, 'verify <volume> [uri]', 'compare a mirror on another node with its volume')
    .option('--repair', 'send again what differs')
    .addHelpText(
      'after',
      `
Both are compared as of one moment, while the volume is in use and the mirror follows. Exit code 1:
they differ. URI may be left out when the volume has one mirror.`,
    )
    .action(verify);
}

async function add(volume: string, uri: string, options: AddOptions): Promise<void> {
  const body = {
    uri,
    mode: options.mode,
    stall_policy: options.onStall,
    lanes: options.lanes,
    seeded: options.seeded ?? false,
    ...policyOf(options),
  };
  const path = `${volumePath(volume)}/mirrors`;
  show(await clientOf(options).call<VolumeStatus>('POST', path, body), options);
}

async function set(volume: string, uri: string, options: SetOptions): Promise<void> {
  const policy = policyOf(options);
  if (Object.keys(policy).length === 0) {
    throw new BlockferryError(
      'USAGE',
      'say what to set: --delta, --lag-limit, --compress or several',
    );
  }
  const path = `${volumePath(volume)}/mirrors/set`;
  const body = { uri, ...policy };
  show(await clientOf(options).call<VolumeStatus>('POST', path, body), options);
}

function compressOption(): Option {
  const text = 'compress on the way to another node: while the link is slow and it helps, or never';
  return new Option('--compress <mode>', text).choices(['auto', 'off']);
}

function policyOf({ delta, lagLimit, compress }: SetOptions): Record<string, string> {
  return {
    ...(compress === undefined ? {} : { compress }),
    ...(delta === undefined ? {} : { delta }),
    ...(lagLimit === undefined ? {} : { lag_limit: lagLimit }),
  };
}

async function change(
  action: MirrorAction,
  volume: string,
  uri: string | undefined,
  options: SharedOptions,
): Promise<void> {
  const path = `${volumePath(volume)}/mirrors/${action}`;
  const body = uri === undefined ? {} : { uri };
  show(await clientOf(options).call<VolumeStatus>('POST', path, body), options);
}

function parseLanes(text: string): number {
  const lanes = /^\d{1,3}$/.test(text) ? Number(text) : 0;
  if (lanes >= 1 && lanes <= LINK_LANES_MAX) return lanes;
  throw new InvalidArgumentError(`It must be 1 to ${LINK_LANES_MAX}.`);
}

async function limit(
  volume: string,
  uri: string,
  rate: string,
  options: SharedOptions,
): Promise<void> {
  const body = { uri, limit: rate === 'none' ? null : rate };
  const path = `${volumePath(volume)}/mirrors/limit`;
  show(await clientOf(options).call<VolumeStatus>('POST', path, body), options);
}

async function verify(
  volume: string,
  uri: string | undefined,
  options: VerifyOptions,
): Promise<void> {
  const body = { ...(uri === undefined ? {} : { uri }), repair: options.repair ?? false };
  const path = `${volumePath(volume)}/mirrors/verify`;
  const report = await clientOf(options).call<VerifyReport>('POST', path, body, 0);
  if (options.json) printJson(report);
  else print(renderVerify(report));
  if (report.bytes_differing > 0) process.exitCode = EXIT_FAILED;
}

function show(status: VolumeStatus, options: SharedOptions): void {
  if (options.json) printJson(status);
  else print(renderVolume(status, wantsColour()));
}
