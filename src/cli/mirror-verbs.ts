/** `blockferry mirror ...` */
import { Option, type Command } from 'commander';
import { MIRROR_ACTIONS, type MirrorAction, type VolumeStatus } from '../control/status.ts';
import { volumePath } from './client.ts';
import { clientOf, print, printJson, wantsColour, type SharedOptions } from './context.ts';
import { renderVolume } from './render.ts';
import { leaf } from './verb.ts';

interface AddOptions extends SharedOptions {
  readonly mode: string;
  readonly onStall: string;
}

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
};

export function addMirrorVerbs(program: Command): void {
  const mirror = program
    .command('mirror')
    .summary('add, remove, pause, resume and resync mirrors')
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
    .addHelpText(
      'after',
      `
URI is nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH. The export must be writable and
at least as large as the volume. What it holds is replaced by the content of the volume; clients
should not write to it while it is a mirror.

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
}

async function add(volume: string, uri: string, options: AddOptions): Promise<void> {
  const body = { uri, mode: options.mode, stall_policy: options.onStall };
  const path = `${volumePath(volume)}/mirrors`;
  show(await clientOf(options).call<VolumeStatus>('POST', path, body), options);
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

function show(status: VolumeStatus, options: SharedOptions): void {
  if (options.json) printJson(status);
  else print(renderVolume(status, wantsColour()));
}
