/** `blockferry volume ...` */
import type { Command } from 'commander';
import type { VolumeStatus } from '../control/status.ts';
import { volumePath } from './client.ts';
import { clientOf, print, printJson, wantsColour, type SharedOptions } from './context.ts';
import { formatBytes, oneLine } from './render/format.ts';
import { renderVolume, renderVolumeList } from './render/render.ts';
import { addTransferVerbs } from './transfer/transfer-verbs.ts';
import { leaf } from './verb.ts';

interface CreateOptions extends SharedOptions {
  readonly mirrorOf?: string;
  readonly on?: string;
  readonly refuse?: string;
}

interface SetOptions extends ForceOptions {
  readonly refuse?: string;
  readonly mirrorOf?: string;
  readonly forgetOldPrimary?: boolean;
}

interface ForceOptions extends SharedOptions {
  readonly force?: boolean;
}

const SIZES =
  'SIZE is a whole number with an optional K, M, G, T or P (powers of 1024), and a multiple of 4096\n' +
  'bytes: 512M, 10G, 1T.';

export function addVolumeVerbs(program: Command): void {
  const volume = program
    .command('volume')
    .summary('create, list, show, resize, delete, import and export volumes')
    .description(
      'Volumes: named block devices of fixed size. Space on the disk is taken when written.',
    );

  leaf(volume, 'create <name> <size>', 'make a volume')
    .option('--mirror-of <node>', 'make a mirror for a volume of that node, see below')
    .option('--refuse <what>', 'what that node cannot do here, see: blockferry volume set --help')
    .option('--on <location>', 'lay it on a block device, a file or an NBD export, see below')
    .addHelpText(
      'after',
      `
${SIZES}
NAME is 1 to 255 bytes without /, @ or control characters; clients attach the export of that name.

With --mirror-of it is a secondary: it takes the content of a volume of the same size on the node of
that name, once that node was told to mirror add it here. Clients may read it, nobody may write.

With --on it lies on a block device or file (an absolute path) or on an export of another NBD server
(its URI), has the content that is there, and leaves it there when it is deleted. SIZE is at most its
size. Snapshots and clones go to the data directory. See docs/using/containers.md.

  blockferry volume create demo 10G
  blockferry volume create vm 20G --on /dev/vg0/vm
  blockferry volume create pool 1T --on nbd://127.0.0.1:10810/rbd
  nbdinfo nbd://127.0.0.1:10809/demo
  blockferry volume create demo 10G --mirror-of alpha
  blockferry volume create demo 10G --mirror-of alpha --refuse snapshot-delete`,
    )
    .action(create);

  leaf(volume, 'list', 'list the volumes of the node').action(list);

  leaf(volume, 'show <name>', 'show one volume and its mirrors').action(show);

  leaf(volume, 'resize <name> <size>', 'grow a volume, or shrink it with --force')
    .option('--force', 'allow to shrink: what lies past the new end is lost')
    .addHelpText(
      'after',
      `
${SIZES}
Clients see the new size when they attach again. A volume that is in use cannot shrink. A mirror
has to be at least as large: grow it first.

  blockferry volume resize demo 20G`,
    )
    .action(resize);

  leaf(volume, 'set <name>', 'say whom a mirror follows, and what it does not let its primary do')
    .option('--mirror-of <node>', 'follow the node that goes on with the volume, see below')
    .option('--forget-old-primary', 'keep nothing for the return of the old primary, see below')
    .option('--force', 'with --mirror-of: also if its primary is alive, or what it holds has to go')
    .option('--refuse <what>', 'snapshot-delete, handover, both with a comma, or none')
    .addHelpText(
      'after',
      `
snapshot-delete: the snapshots here stay when they are deleted or refreshed on the primary.
handover: the volume begins to take writes by a command on this node alone (switchover, promote).

It takes the place of what was said before, at once, and holds over restarts and changes of role. On
a volume that takes writes it counts from when that is a mirror.

--forget-old-primary is for a volume that was promoted and whose old primary never comes back: the
blocks that it keeps since then, to have that one compared quickly, give their space back.

--mirror-of is for a mirror whose primary gave its writes to another mirror, or is gone. It keeps what it
holds, and gets what it lacks. With --force it gives that up, as its snapshot diverged-TIME, and all is
compared: for one that has more than the node that goes on.

  blockferry volume set demo --mirror-of beta
  blockferry volume set demo --refuse snapshot-delete,handover
  blockferry volume set demo --refuse none`,
    )
    .action(set);

  leaf(volume, 'delete <name>', 'delete a volume and its content')
    .option('--force', 'delete it although it has mirrors (they keep their copy) or clients')
    .addHelpText(
      'after',
      `
Without --force a volume that has mirrors or attached clients is left alone.

  blockferry volume delete demo`,
    )
    .action(remove);

  addTransferVerbs(volume);
}

async function create(name: string, size: string, options: CreateOptions): Promise<void> {
  const { mirrorOf, on, refuse } = options;
  const body = {
    name,
    size,
    ...(mirrorOf === undefined ? {} : { mirror_of: mirrorOf }),
    ...(on === undefined ? {} : { on }),
    ...(refuse === undefined ? {} : { refuse: wordsOf(refuse) }),
  };
  const status = await clientOf(options).call<VolumeStatus>('POST', '/v1/volumes', body);
  const as = status.source === null ? '' : `, a mirror that waits for node ${status.source.node}`;
  const where = status.on === null ? '' : `, on ${oneLine(status.on.location)}`;
  const text = `volume ${oneLine(status.name)} created, ${formatBytes(status.size_bytes)}`;
  if (options.json) printJson(status);
  else print(`${text}${as}${where}\n`);
}

async function list(options: SharedOptions): Promise<void> {
  const answer = await clientOf(options).call<{ volumes: VolumeStatus[] }>('GET', '/v1/volumes');
  if (options.json) printJson(answer);
  else print(renderVolumeList(answer.volumes));
}

async function show(name: string, options: SharedOptions): Promise<void> {
  const status = await clientOf(options).call<VolumeStatus>('GET', volumePath(name));
  if (options.json) printJson(status);
  else print(renderVolume(status, wantsColour()));
}

async function resize(name: string, size: string, options: ForceOptions): Promise<void> {
  const body = { size, force: options.force ?? false };
  const path = `${volumePath(name)}/resize`;
  const status = await clientOf(options).call<VolumeStatus>('POST', path, body);
  if (options.json) printJson(status);
  else print(`volume ${oneLine(status.name)} has ${formatBytes(status.size_bytes)}\n`);
}

async function set(name: string, options: SetOptions): Promise<void> {
  const { refuse, mirrorOf, force, forgetOldPrimary } = options;
  const body = {
    ...(refuse === undefined ? {} : { refuse: wordsOf(refuse) }),
    ...(mirrorOf === undefined ? {} : { mirror_of: mirrorOf }),
    ...(force === true ? { force } : {}),
    ...(forgetOldPrimary === true ? { forget_old_primary: true } : {}),
  };
  const status = await clientOf(options).call<VolumeStatus>(
    'POST',
    `${volumePath(name)}/set`,
    body,
  );
  if (options.json) printJson(status);
  else print(renderVolume(status, wantsColour()));
}

/** A list with commas; `none` is the empty one. */
function wordsOf(text: string): string[] {
  return text === 'none' ? [] : text.split(',').map((word) => word.trim());
}

async function remove(name: string, options: ForceOptions): Promise<void> {
  const path = `${volumePath(name)}${options.force ? '?force=true' : ''}`;
  const answer = await clientOf(options).call('DELETE', path);
  if (options.json) printJson(answer);
  else print(`volume ${oneLine(name)} deleted\n`);
}
